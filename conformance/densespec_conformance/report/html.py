"""The page is self-contained: it loads nothing, so it works from a file or an archive.

``page.html`` is its template, which escapes all that a target or a user wrote. What a cell of the
matrix opens is made by ``page.js`` of the record that is embedded in the page.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib import resources
from itertools import groupby

import jinja2
from markupsafe import Markup, escape

from densespec_conformance.report.reading import closest_call, failures_by_cause, percent
from densespec_conformance.report.record import Json

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


def page(record: Json) -> str:
    """Make the page of a record, which is one of ``record.as_record``."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("densespec_conformance", "report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    environment.filters |= {"breakable": breakable, "slug": slug, "duration": duration}
    return environment.get_template("page.html").render(
        record=record,
        headline=_headline(record["targets"]),
        meta=_meta(record),
        cards=[_card(target, record) for target in record["targets"]],
        problems=_problems(record["results"]),
        matrix=_matrix(record),
        legend=[(one, GLYPHS[one], MEANINGS[one]) for one, n in record["counts"].items() if n],
        slowest=sorted(record["results"], key=lambda result: -result["seconds"])[:SLOWEST],
        style=_part_of_page("page.css"),
        script=_part_of_page("page.js"),
    )


def _part_of_page(name: str) -> Markup:
    """Read a file of ours, which stands in the page as it is."""
    return Markup(resources.files(__package__).joinpath(name).read_text(encoding="utf-8"))


def breakable(name: str) -> Markup:
    """Let a name break after its dots, colons, slashes and underscores."""
    return Markup(re.sub("([._:/])", r"\1<wbr>", str(escape(name))))


def slug(status: str) -> str:
    """Make a status part of the name of a class."""
    return status.replace(" ", "-")


def duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.1f} s"
    return f"{seconds // 60:.0f} min {seconds % 60:.0f} s"


def _headline(targets: Sequence[Json]) -> str:
    good = sum(target["ok"] for target in targets)
    if len(targets) == 1:
        return f"{targets[0]['name']} {'conforms' if good else 'does not conform'}"
    if good == len(targets):
        return f"All {good} targets conform"
    return f"{good} of {len(targets)} targets conform"


def _meta(record: Json) -> str:
    environment = record["environment"]
    date = environment["date"].replace("T", " ").replace("+00:00", " UTC")
    return (
        f"{len(record['cases'])} cases, {record['tier']} tier, {duration(record['seconds'])}; "
        f"{date}; Python {environment['python']} on {environment['machine']}"
    )


def _card(target: Json, record: Json) -> Json:
    """Make what stands on a target's card, beside what its record holds."""
    counts = {status: count for status, count in target["counts"].items() if count}
    own = [one for one in record["results"] if one["target"] == target["name"]]
    failing = "does not conform" if own else "nothing ran"
    return {
        "target": target,
        "verdict": "conforms" if target["ok"] else failing,
        "held_to": _held_to(target) if target["spec"] else "",
        "counts": counts,
        "said": ", ".join(f"{count} {status}" for status, count in counts.items()),
        "closest": _closest(own) if target["ok"] else "",
        "likeliest": "" if target["ok"] else _likeliest(own),
    }


def _held_to(target: Json) -> str:
    spec = target["spec"]
    blocks = "-".join(map(str, spec["blocks"]))
    weights = f"; weights of {target['weights']}" if target["weights"] else ""
    return (
        f"held to blocks {blocks}, k = {spec['growth_rate']}, {spec['padding']} padding, "
        f"epsilon {spec['batch_norm_epsilon']:g}{weights}"
    )


def _likeliest(results: Sequence[Json]) -> str:
    """Say what explains most failures of a target."""
    texts = [one["diagnosis"][0]["text"] for one in results if one["diagnosis"] and not one["ok"]]
    if not texts:
        return ""
    best = max(texts, key=texts.count)
    count = texts.count(best)
    return f"Diagnosis of {count} failure{'s' if count > 1 else ''}: {best}"


def _closest(results: Sequence[Json]) -> str:
    """Say what the closest call of a target was."""
    calls = {one["case"]: part for one in results if (part := closest_call(one)) is not None}
    if not calls:
        return ""
    case = max(calls, key=lambda name: calls[name])
    return f"Closest call: {percent(calls[case])} of what is allowed, in {case}"


def _problems(results: Sequence[Json]) -> list[Json]:
    """Group failures by target and likely cause, the most frequent first."""
    place = {(result["target"], result["case"]): index for index, result in enumerate(results)}
    causes = sorted(failures_by_cause(results).items(), key=lambda item: -len(item[1]))
    return [
        {
            "target": target,
            "cause": cause,
            "failures": [(place[target, result["case"]], result) for result in members],
            "open": len(causes) <= 4 and len(members) <= 8,
        }
        for (target, cause), members in causes
    ]


def _matrix(record: Json) -> list[Json]:
    """Make the rows of the matrix, group by group; a cell is None if the case did not run."""
    targets = [target["name"] for target in record["targets"]]
    cells = {
        (result["case"], result["target"]): _cell(index, result)
        for index, result in enumerate(record["results"])
    }
    cases = sorted(record["cases"], key=lambda case: case["group"])
    rows = [_row(case, [cells.get((case["id"], name)) for name in targets]) for case in cases]
    return [
        _group(name, list(members))
        for name, members in groupby(rows, key=lambda row: row["case"]["group"])
    ]


def _group(name: str, rows: list[Json]) -> Json:
    columns = zip(*(row["cells"] for row in rows), strict=True)
    return {"name": name, "rows": rows, "totals": [_total(column) for column in columns]}


def _row(case: Json, cells: Sequence[Json | None]) -> Json:
    bad = any(cell is not None and not cell["result"]["ok"] for cell in cells)
    short = case["id"].partition("/")[2] or case["id"]
    return {"case": case, "short": short, "cells": cells, "bad": bad}


def _total(cells: Sequence[Json | None]) -> Json | None:
    """Count how many of a target's results in one group are as they should be."""
    results = [cell["result"] for cell in cells if cell is not None]
    if not results:
        return None
    good = sum(result["ok"] for result in results)
    return {"good": good, "of": len(results)}


def _cell(index: int, result: Json) -> Json:
    return {
        "index": index,
        "result": result,
        "glyph": GLYPHS[result["status"]],
        "brief": _brief(result),
    }


def _brief(result: Json) -> str:
    """Return what a cell says beside its sign."""
    if result["status"] != "passed":
        return str(result["first_difference"] or result["status"])
    call = closest_call(result)
    if call is not None:
        return percent(call)
    return "exact" if result["closest"] else ""
