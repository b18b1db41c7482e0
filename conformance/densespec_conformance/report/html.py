"""One self-contained page: nothing is loaded from elsewhere, so it works from a file or an archive.

The matrix is plain HTML; what a cell opens is made by ``page.js`` of the record that is embedded in
the page. All that a target or a user wrote is escaped here, and is set as text there.
"""

from __future__ import annotations

import json
import re
import string
from html import escape
from importlib import resources
from itertools import groupby

from densespec_conformance.report.record import Record

GLYPHS = {
    "passed": "✓",
    "failed": "✗",
    "error": "!",
    "crashed": "☠",
    "timeout": "⧖",
    "out of memory": "▣",
    "unsupported": "·",
    "xfailed": "≈",
    "xpassed": "?",
}
MEANINGS = {
    "passed": "passed, and the closest call as part of what is allowed",
    "failed": "failed, and where first",
    "error": "raised an error",
    "crashed": "its process died",
    "timeout": "took too long",
    "out of memory": "ran out of memory",
    "unsupported": "can't be asked of this target",
    "xfailed": "fails, as expected",
    "xpassed": "passes, though expected to fail",
}
SLOWEST = 12


def page(record: Record) -> str:
    """The page of a record, as ``record.as_record`` makes it."""
    texts = {
        "version": escape(record["environment"]["versions"]["densespec"]),
        "title": escape(f"{_headline(record)}: densespec conformance"),
        "headline": escape(_headline(record)),
        "meta": escape(_meta(record)),
        "notices": _notices(record),
        "cards": "\n".join(_card(target, record) for target in record["targets"]),
        "problems": _problems(record),
        "matrix": _matrix(record),
        "legend": _legend(record),
        "durations": _durations(record),
        "about": _about(record),
        "style": _file("page.css"),
        "script": _file("page.js"),
        "data": _embedded(record),
    }
    return string.Template(_file("page.html")).substitute(texts)


def _name(target: str) -> str:
    """A target's name, which may break after its dots, colons and underscores."""
    return re.sub("([._:/])", r"\1<wbr>", escape(target))


def _file(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _embedded(record: Record) -> str:
    """JSON that can't end the script element it stands in."""
    text = json.dumps(record, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _headline(record: Record) -> str:
    targets = record["targets"]
    good = sum(target["ok"] for target in targets)
    if len(targets) == 1:
        return f"{targets[0]['name']} {'conforms' if good else 'does not conform'}"
    if good == len(targets):
        return f"All {good} targets conform"
    return f"{good} of {len(targets)} targets conform"


def _meta(record: Record) -> str:
    environment = record["environment"]
    date = environment["date"].replace("T", " ").replace("+00:00", " UTC")
    return (
        f"{len(record['cases'])} cases, {record['tier']} tier, {_seconds(record['seconds'])}; "
        f"{date}; Python {environment['python']} on {environment['machine']}"
    )


def _seconds(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.1f} s"
    return f"{seconds // 60:.0f} min {seconds % 60:.0f} s"


def _notices(record: Record) -> str:
    texts = list(record["warnings"])
    if record["interrupted"]:
        texts.insert(0, "The run was interrupted: these are the results that came before.")
    return "\n".join(f'<p class="notice">{escape(text)}</p>' for text in texts)


def _card(target: Record, record: Record) -> str:
    total = sum(target["counts"].values())
    counts = {status: count for status, count in target["counts"].items() if count}
    bar = "".join(
        f'<i class="fill-{_slug(status)}" style="flex:{count}"></i>'
        for status, count in counts.items()
    )
    said = ", ".join(f"{count} {status}" for status, count in counts.items())
    verdict = "conforms" if target["ok"] else "does not conform" if total else "nothing ran"
    spec = f'<p class="dim">{escape(_spec_line(target))}</p>' if target["spec"] else ""
    return (
        f'<article class="card{" ok" if target["ok"] else ""}"><h3>{_name(target["name"])}</h3>'
        f'{spec}<div class="stack" role="img" aria-label="{escape(said)}">{bar}</div>'
        f'<p><span class="verdict">{verdict}</span> '
        f'<span class="dim">{escape(said)}; {_seconds(target["seconds"])}</span></p>'
        f"{_card_note(target, record)}</article>"
    )


def _spec_line(target: Record) -> str:
    spec = target["spec"]
    blocks = "-".join(map(str, spec["blocks"]))
    weights = f"; weights of {target['weights']}" if target["weights"] else ""
    return (
        f"held to blocks {blocks}, k = {spec['growth_rate']}, {spec['padding']} padding, "
        f"epsilon {spec['batch_norm_epsilon']:g}{weights}"
    )


def _card_note(target: Record, record: Record) -> str:
    """The closest call of a target that conforms, the likeliest explanation of one that fails."""
    own = [one for one in record["results"] if one["target"] == target["name"]]
    if not target["ok"]:
        texts = [one["diagnosis"][0]["text"] for one in own if one["diagnosis"] and not one["ok"]]
        if not texts:
            return ""
        best = max(texts, key=texts.count)
        count = texts.count(best)
        note = f"Diagnosis of {count} failure{'s' if count > 1 else ''}: {best}"
        return f"<p>{escape(note)}</p>"
    calls = [one for one in own if one["closest"] and float(one["closest"]["allowed"]) > 0]
    if not calls:
        return ""
    closest = max(calls, key=_part)
    note = f"Closest call: {_percent(_part(closest))} of what is allowed, in {closest['case']}"
    return f'<p class="dim">{escape(note)}</p>'


def _part(result: Record) -> float:
    """The error of the closest call as part of what is allowed."""
    closest = result["closest"]
    return float(closest["error"]) / float(closest["allowed"])


def _percent(part: float) -> str:
    return f"{part:.0%}" if part >= 0.01 else "under 1 %"


def _problems(record: Record) -> str:
    """Failures by target and likely cause, the most frequent first."""
    causes: dict[tuple[str, str], list[int]] = {}
    for index, result in enumerate(record["results"]):
        if not result["ok"]:
            causes.setdefault((result["target"], _cause(result)), []).append(index)
    if not causes:
        return ""
    blocks = "\n".join(
        _problem(target, cause, indexes, record, opened=len(causes) <= 4)
        for (target, cause), indexes in sorted(causes.items(), key=lambda item: -len(item[1]))
    )
    return f'<section aria-labelledby="why"><h2 id="why">What is wrong</h2>\n{blocks}\n</section>'


def _cause(result: Record) -> str:
    if result["diagnosis"]:
        return str(result["diagnosis"][0]["text"])
    if result["status"] == "failed" and result["first_difference"]:
        return f"differs first at {result['first_difference']}"
    first = result["message"].partition("\n")[0]
    return f"{result['status']}: {first}" if result["status"] != "failed" else str(first)


def _problem(target: str, cause: str, indexes: list[int], record: Record, opened: bool) -> str:
    items = "".join(
        f'<li><a href="#result-{index}" data-result="{index}">{escape(result["case"])}</a> '
        f'<span class="dim">{escape(_first_difference(result))}</span></li>'
        for index, result in ((index, record["results"][index]) for index in indexes)
    )
    return (
        f'<details class="problem"{" open" if opened and len(indexes) <= 8 else ""}><summary>'
        f'<span class="count">{len(indexes)}</span><span><code>{_name(target)}</code>: '
        f"<strong>{escape(cause)}</strong></span></summary><ul>{items}</ul></details>"
    )


def _first_difference(result: Record) -> str:
    return f"first at {result['first_difference']}" if result["first_difference"] else ""


def _matrix(record: Record) -> str:
    targets = [target["name"] for target in record["targets"]]
    found = {
        (result["case"], result["target"]): index for index, result in enumerate(record["results"])
    }
    head = "".join(f'<th scope="col">{_name(name)}</th>' for name in targets)
    cases = sorted(record["cases"], key=lambda case: case["group"])
    groups = [
        _group(group, list(members), targets, found, record)
        for group, members in groupby(cases, key=lambda case: case["group"])
    ]
    return (
        f'<table class="matrix"><thead><tr><th scope="col">case</th>{head}</tr></thead>\n'
        + "\n".join(groups)
        + "\n</table>"
    )


def _group(
    group: str,
    cases: list[Record],
    targets: list[str],
    found: dict[tuple[str, str], int],
    record: Record,
) -> str:
    totals = "".join(
        _total([found[case["id"], name] for case in cases if (case["id"], name) in found], record)
        for name in targets
    )
    rows = "\n".join(_row(case, targets, found, record) for case in cases)
    button = f'<button type="button" aria-expanded="true">{escape(group)}</button>'
    return (
        f'<tbody><tr class="group"><th scope="rowgroup">{button}</th>{totals}</tr>\n{rows}</tbody>'
    )


def _total(indexes: list[int], record: Record) -> str:
    results = [record["results"][index] for index in indexes]
    if not results:
        return "<td></td>"
    good = sum(result["ok"] for result in results)
    status = "passed" if good == len(results) else "failed"
    return f'<td><span class="is-{status}">{good}/{len(results)}</span></td>'


def _row(
    case: Record, targets: list[str], found: dict[tuple[str, str], int], record: Record
) -> str:
    indexes = [found.get((case["id"], name)) for name in targets]
    bad = any(index is not None and not record["results"][index]["ok"] for index in indexes)
    cells = "".join("<td></td>" if index is None else _cell(index, record) for index in indexes)
    short = case["id"].partition("/")[2] or case["id"]
    return (
        f'<tr data-case="{escape(case["id"])}" data-bad="{int(bad)}">'
        f'<th scope="row" title="{escape(case["claim"])}">{escape(short)}</th>{cells}</tr>'
    )


def _cell(index: int, record: Record) -> str:
    result = record["results"][index]
    status = result["status"]
    label = f"{result['case']} on {result['target']}: {status} {_brief(result)}"
    return (
        f'<td class="is-{_slug(status)}"><button type="button" class="cell" id="result-{index}" '
        f'data-result="{index}" aria-label="{escape(label.strip())}"><b>{GLYPHS[status]}</b>'
        f"<span>{escape(_brief(result))}</span></button></td>"
    )


def _brief(result: Record) -> str:
    """What a cell says beside its sign."""
    if result["status"] == "passed":
        closest = result["closest"]
        if not closest:
            return ""
        return _percent(_part(result)) if float(closest["allowed"]) else "exact"
    return str(result["first_difference"]) or str(result["status"])


def _slug(status: str) -> str:
    return status.replace(" ", "-")


def _legend(record: Record) -> str:
    return "".join(
        f'<span><b class="is-{_slug(status)}">{GLYPHS[status]}</b> '
        f"{escape(MEANINGS[status])}</span>"
        for status, count in record["counts"].items()
        if count
    )


def _durations(record: Record) -> str:
    slowest = sorted(record["results"], key=lambda result: -result["seconds"])[:SLOWEST]
    rows = "".join(
        f'<tr><td class="figure">{result["seconds"]:.1f} s</td>'
        f"<td><code>{escape(result['case'])}</code></td>"
        f"<td><code>{escape(result['target'])}</code></td></tr>"
        for result in slowest
    )
    return (
        '<div class="scroll"><table class="plain"><thead><tr><th scope="col" class="figure">time'
        '</th><th scope="col">case</th><th scope="col">target</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _about(record: Record) -> str:
    environment = record["environment"]
    facts = {
        "date": environment["date"],
        "Python": environment["python"],
        "machine": environment["machine"],
        **environment["versions"],
    }
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{escape(value)}</td></tr>'
        for name, value in facts.items()
    )
    command = (
        f'<div class="command"><code>{escape(record["command"])}</code></div>'
        if record["command"]
        else ""
    )
    targets = "".join(_runs_on(target) for target in record["targets"] if target["runs_on"])
    return (
        f'{command}<div class="scroll"><table class="plain">{rows}</table></div>'
        f'<h3>The targets\' own processes</h3><ul class="processes">{targets}</ul>'
    )


def _runs_on(target: Record) -> str:
    found = target["runs_on"]
    parts = [", ".join(f"{name} {version}" for name, version in found["versions"].items())]
    parts.append(f"on {found['device']}")
    if found["threads"]:
        parts.append(f"{found['threads']} thread{'s' if found['threads'] > 1 else ''}")
    parts.append(f"TF32 {'on' if found['tensor_float_32'] else 'off'}")
    text = "; ".join([*parts, *found["notes"]])
    return f"<li><code>{_name(target['name'])}</code>: {escape(text)}</li>"
