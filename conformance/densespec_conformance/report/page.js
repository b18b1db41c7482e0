"use strict";
(() => {
  const report = JSON.parse(document.getElementById("report").textContent);
  const results = report.results;
  const claims = Object.fromEntries(report.cases.map((one) => [one.id, one.claim]));
  const $ = (id) => document.getElementById(id);
  const cells = [...document.querySelectorAll("button.cell")];
  const byIndex = new Map(cells.map((cell) => [Number(cell.dataset.result), cell]));

  /* Elements are made of text alone: nothing a target says is ever parsed as HTML. */
  const make = (tag, attributes = {}, ...children) => {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children.filter((child) => child !== null));
    return element;
  };

  /* The matrix: filtering and folding. */
  const rows = [...document.querySelectorAll("tr[data-case]")];
  const text = new Map(rows.map((row) => {
    const own = results.filter((one) => one.case === row.dataset.case);
    const said = own.map((one) => `${one.message} ${one.status}`).join(" ");
    return [row, `${row.dataset.case} ${claims[row.dataset.case]} ${said}`.toLowerCase()];
  }));

  const filter = () => {
    const words = $("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
    const failuresOnly = $("only-failures").checked;
    let shown = 0;
    for (const row of rows) {
      const hit = words.every((word) => text.get(row).includes(word));
      const visible = hit && (!failuresOnly || row.dataset.bad === "1");
      row.classList.toggle("hidden", !visible);
      shown += visible;
    }
    for (const group of document.querySelectorAll(".matrix tbody")) {
      const any = group.querySelector("tr[data-case]:not(.hidden)");
      group.classList.toggle("hidden", !any);
    }
    $("shown").textContent = shown === rows.length ? "" : `${shown} of ${rows.length} cases`;
  };

  const fold = (body, folded) => {
    body.classList.toggle("folded", folded);
    body.querySelector(".group button").setAttribute("aria-expanded", String(!folded));
  };
  for (const button of document.querySelectorAll(".group button")) {
    const body = button.closest("tbody");
    button.addEventListener("click", () => fold(body, !body.classList.contains("folded")));
  }
  const foldAll = (folded) => document.querySelectorAll(".matrix tbody").forEach(
    (body) => fold(body, folded));
  $("fold").addEventListener("click", () => foldAll(true));
  $("unfold").addEventListener("click", () => foldAll(false));
  $("filter").addEventListener("input", filter);
  $("only-failures").addEventListener("change", filter);

  /* One result. */
  const figure = (value) => {
    if (typeof value !== "number") return String(value);
    if (value === 0) return "0";
    const size = Math.abs(value);
    return size >= 1e-3 && size < 1e5 ? String(Number(value.toPrecision(5))) : value.toExponential(2);
  };
  /* A logarithmic scale about what is allowed: differences are mostly far beyond it. */
  const below = 4, above = 16;
  const bar = (error, allowed) => {
    const over = !(Number(error) <= Number(allowed));
    let part = 0;
    if (typeof error !== "number" || (over && allowed === 0)) part = 1;
    else if (error > 0) part = (Math.log10(error / allowed) + below) / (below + above);
    const width = `${100 * Math.min(1, Math.max(error === 0 ? 0 : 0.02, part))}%`;
    const label = `error ${figure(error)}, allowed ${figure(allowed)}`;
    const filled = make("i");
    filled.style.width = width;
    return make("div", { class: over ? "bar over" : "bar", role: "img", "aria-label": label,
      title: label }, filled);
  };
  const values = (stats) => {
    const bad = stats.not_finite ? `, ${stats.not_finite} not finite` : "";
    const shape = stats.shape.length ? `(${stats.shape.join(", ")}) ` : "";
    return `${shape}mean ${figure(stats.mean)} dev ${figure(stats.deviation)} ` +
      `[${figure(stats.lowest)}, ${figure(stats.highest)}]${bad}`;
  };
  /* Names may break after a dot or a space, not within a word. */
  const breakable = (name) => name.split(/(?<=[.\s])/).flatMap((part) => [part, make("wbr")]);
  const comparisonTable = (result) => {
    const scale = make("span", { class: "scale" }, make("span"),
      make("span", {}, "allowed"), make("span", {}, "10¹⁶"));
    const head = make("tr", {}, make("th", { scope: "col" }, "tensor"),
      make("th", { scope: "col" }, "error / allowed", scale),
      make("th", { scope: "col", class: "figure" }, "error"),
      make("th", { scope: "col", class: "figure" }, "allowed"),
      make("th", { scope: "col" }, "is, and should be"));
    const first = result.comparisons.findIndex((one) => !one.ok);
    const body = result.comparisons.map((one, index) =>
      make("tr", { class: index === first ? "first" : "" },
        make("th", { scope: "row" }, ...breakable(one.name)),
        make("td", {}, bar(one.error, one.allowed)),
        make("td", { class: "figure", "data-label": "error" }, figure(one.error)),
        make("td", { class: "figure", "data-label": "allowed" }, figure(one.allowed)),
        make("td", { class: "values" }, values(one.actual), make("br"),
          make("span", { class: "dim" }, values(one.expected)))));
    return make("div", { class: "scroll", tabindex: "0" }, make("table", { class: "plain bars" },
      make("thead", {}, head), make("tbody", {}, ...body)));
  };
  /* The network, a line a stage and a square an op; the wrong ones are marked. */
  const stageOf = (name) => name.split(".")[0];
  const networkMap = (suspect) => {
    const wrong = new Map();
    for (const one of suspect.ops)
      for (const name of suspect.nodes.includes(one.where) ? [one.where] : one.among)
        wrong.set(name, [...(wrong.get(name) ?? []), causeOf(one)]);
    const stages = new Map();
    for (const name of suspect.nodes)
      stages.set(stageOf(name), [...(stages.get(stageOf(name)) ?? []), name]);
    const square = (name) => {
      const said = wrong.has(name) ? `${name}: ${wrong.get(name).join("; ")}` : name;
      return make("i", { class: wrong.has(name) ? "op wrong" : "op", title: said });
    };
    const lines = [...stages].map(([stage, names]) => make("div", { class: "stage" },
      make("span", {}, stage), make("span", { class: "ops" }, ...names.map(square))));
    const count = `${suspect.ops.length} of ${suspect.nodes.length} ops are wrong`;
    return make("div", { class: "map", role: "img", "aria-label": count }, ...lines);
  };
  const causeOf = (op) => op.does || op.remarks.join("; ") || "no known cause";
  const opTable = (suspect) => {
    const head = make("tr", {}, ...["op", "what it does", "error", "allowed", "is, and should be"]
      .map((title) => make("th", { scope: "col" }, title)));
    const place = (op) => suspect.nodes.includes(op.where) && op.among.length > 1
      ? `${op.where} (one of ${op.among.length})` : op.where;
    const body = suspect.ops.map((op) => make("tr", {},
      make("th", { scope: "row" }, ...breakable(place(op))), make("td", {}, causeOf(op)),
      make("td", { class: "figure", "data-label": "error" }, figure(op.error)),
      make("td", { class: "figure", "data-label": "allowed" }, figure(op.allowed)),
      make("td", { class: "values" }, values(op.actual), make("br"),
        make("span", { class: "dim" }, values(op.expected)))));
    return make("div", { class: "scroll", tabindex: "0" }, make("table", { class: "plain bars" },
      make("thead", {}, head), make("tbody", {}, ...body)));
  };
  const layerTable = (layers) => {
    const columns = { own: "in this layer", mean: "in all", largest: "at most" };
    const head = make("tr", {}, make("th", { scope: "col" }, "value"),
      ...Object.values(columns).map((title) => make("th", { scope: "col", class: "figure" }, title)));
    const part = (value) => typeof value === "number" ? `${(100 * value).toFixed(2)} %` : value;
    const body = layers.map((layer) => make("tr", {},
      make("th", { scope: "row" }, ...breakable(layer.name)),
      ...Object.entries(columns).map(([key, title]) =>
        make("td", { class: "figure", "data-label": title }, part(layer[key])))));
    return make("div", { class: "scroll", tabindex: "0" }, make("table", { class: "plain bars" },
      make("thead", {}, head), make("tbody", {}, ...body)));
  };
  const wrongOps = (result) => {
    const judged = result.diagnosis.find((one) => one.ops.length);
    return judged ? [make("h3", {}, "What is wrong, each judged by itself"),
      networkMap(judged), opTable(judged)] : [];
  };
  const suspects = (result) => make("ol", { class: "suspects" }, ...result.diagnosis.map((one) =>
    make("li", { class: one.complete ? "complete" : "" }, make("span", {}, one.text),
      make("span", { class: "dim" },
        one.complete ? "explains it all" : `${figure(one.remaining)} remains`))));
  const command = (words) => {
    const button = make("button", { type: "button", class: "copy" }, "Copy");
    button.addEventListener("click", async () => {
      try { await navigator.clipboard.writeText(words); button.textContent = "Copied"; }
      catch { getSelection().selectAllChildren(button.previousSibling); }
    });
    return make("div", { class: "command" }, make("code", {}, words), button);
  };

  const render = (index) => {
    const result = results[index];
    const parts = [
      make("h2", { id: "detail-title" }, result.case),
      make("p", {}, make("span", { class: `pill is-${result.status.replaceAll(" ", "-")}` },
        result.status), " on ", make("code", {}, result.target),
        make("span", { class: "dim" }, `, ${result.seconds.toFixed(1)} s`)),
      make("p", {}, `Claim: ${claims[result.case]}.`),
    ];
    if (result.expected_failure)
      parts.push(make("p", {}, `Expected to fail: ${result.expected_failure}`));
    if (result.message) parts.push(make("pre", { class: "message" }, result.message));
    if (result.diagnosis.length)
      parts.push(make("h3", {}, "Diagnosis"), suspects(result), ...wrongOps(result));
    if (result.closest) {
      const close = result.closest;
      const at = close.where ? `, at ${close.where}` : "";
      parts.push(make("h3", {}, "Closest call"),
        make("p", {}, `Error ${figure(close.error)}, allowed ${figure(close.allowed)}${at}.`),
        bar(close.error, close.allowed),
        make("p", { class: "dim" }, close.reason));
    }
    if (result.said) parts.push(make("p", {}, result.said));
    if (result.layers.length)
      parts.push(make("h3", {}, "What int8 loses, layer by layer"), layerTable(result.layers));
    if (result.comparisons.length) {
      parts.push(make("h3", {}, "Compared, in order"), comparisonTable(result));
      if (result.comparisons_left_out)
        parts.push(make("p", { class: "dim" },
          `${result.comparisons_left_out} more are left out here.`));
    }
    parts.push(make("h3", {}, "Again"), command(result.reproduce));
    $("detail-body").replaceChildren(...parts);
    $("detail").scrollTop = 0;
  };

  /* Which results the arrows go through: those now visible, and the failures if one is open. */
  let current = -1;
  const sequence = () => {
    const visible = cells.filter((cell) => !cell.closest(".hidden"));
    const indexes = visible.map((cell) => Number(cell.dataset.result));
    const bad = indexes.filter((index) => !results[index].ok);
    return results[current] && !results[current].ok && bad.includes(current) ? bad : indexes;
  };
  const open = (index) => {
    current = index;
    render(index);
    const order = sequence();
    const place = order.indexOf(index);
    const kind = order.every((one) => !results[one].ok) ? "failures" : "results";
    $("position").textContent = place < 0 ? "" : `${place + 1} of ${order.length} ${kind}`;
    $("previous").disabled = place <= 0;
    $("next").disabled = place < 0 || place === order.length - 1;
    if (!$("detail").open) $("detail").showModal();
    history.replaceState(null, "", `#result-${index}`);
  };
  const step = (by) => {
    const order = sequence();
    const next = order[order.indexOf(current) + by];
    if (next !== undefined) open(next);
  };
  $("previous").addEventListener("click", () => step(-1));
  $("next").addEventListener("click", () => step(1));
  $("close").addEventListener("click", () => $("detail").close());
  $("detail").addEventListener("click", (event) => {
    if (event.target === $("detail")) $("detail").close();
  });
  $("detail").addEventListener("close", () => {
    history.replaceState(null, "", "#matrix");
    byIndex.get(current)?.focus({ preventScroll: true });
  });
  for (const cell of cells)
    cell.addEventListener("click", () => open(Number(cell.dataset.result)));
  for (const block of document.querySelectorAll(".command"))
    block.replaceWith(command(block.querySelector("code").textContent));

  const fromAddress = () => {
    const found = location.hash.match(/^#result-(\d+)$/);
    if (found && results[Number(found[1])]) open(Number(found[1]));
  };
  addEventListener("hashchange", fromAddress);
  document.addEventListener("click", (event) => {
    const link = event.target.closest("a[data-result]");
    if (!link) return;
    event.preventDefault();
    open(Number(link.dataset.result));
  });
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const on = (selector) => event.target instanceof Element && event.target.matches(selector);
    if (event.key === "/" && !on("input") && !$("detail").open) {
      event.preventDefault();
      $("filter").focus();
    } else if ($("detail").open && event.key === "ArrowLeft") step(-1);
    else if ($("detail").open && event.key === "ArrowRight") step(1);
    else if (on(".cell")) moveAmongCells(event);
  });
  const moveAmongCells = (event) => {
    const by = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
    if (!by[event.key]) return;
    event.preventDefault();
    const [down, right] = by[event.key];
    const row = event.target.closest("tr");
    const visible = rows.filter((one) => one.offsetParent !== null);
    const target = visible[visible.indexOf(row) + down];
    const column = event.target.closest("td").cellIndex + right;
    target?.cells[column]?.querySelector(".cell")?.focus();
  };
  filter();
  fromAddress();
})();
