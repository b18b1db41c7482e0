"""The terminal shows a matrix of groups by targets, then what failed and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from densespec_conformance.case import Case
from densespec_conformance.report.reading import closest_call, failures_by_cause, percent
from densespec_conformance.report.record import Json
from densespec_conformance.running.result import STATUSES

STYLES = {
    "passed": "green",
    "failed": "bold red",
    "xpassed": "bold red",
    "unsupported": "dim",
    "xfailed": "magenta",
}
OTHER_STYLE = "yellow"
TITLE = "Cases passed, and the closest call as a share of what is allowed"
SIDE_BY_SIDE = 5
"""A table has at most this many targets: as many as a terminal has room for."""
MOST_LOST = 10
"""A terminal shows this many of the layers that lose most in int8."""
SUSPECTS = 3
"""At most this many explanations of one failure are shown."""


def print_report(record: Json, console: Console, *, durations: int | None = None) -> None:
    """Print everything that a reader of a terminal wants to know of a run.

    Args:
        record: What ``record.as_record`` makes.
        durations: How many of the slowest cases to list; 0 for all, None for no list.
    """
    parts: list[RenderableType] = []
    if record["results"]:
        parts += [Text(TITLE, style="bold"), *_matrices(record), *_failures(record)]
        parts += [*_said(record["results"]), *_losses(record["results"])]
    if durations is not None:
        parts.append(_slowest(record["results"], durations))
    parts.append(Text(_where_it_ran(record["environment"]), style="dim"))
    parts += [Text(f"warning: {text}", style="yellow") for text in record["warnings"]]
    if record["interrupted"]:
        parts.append(Text("interrupted: these are the results that came before", style="yellow"))
    console.print(Group(*parts))
    console.print(summary(record["results"]))


def summary(results: Iterable[Json]) -> Text:
    """Count, as in ``71 passed, 2 failed, 1 xfailed``, always with the first two."""
    found = Counter(result["status"] for result in results)
    shown = [status for status in STATUSES if found[status] or status in ("passed", "failed")]
    return Text(", ").join(
        Text(f"{found[status]} {status}", style=style_of(status) if found[status] else "")
        for status in shown
    )


def style_of(status: str) -> str:
    return STYLES.get(status, OTHER_STYLE)


def _where_it_ran(about: Json) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    return f"{versions}; Python {about['python']}; {about['machine']}"


def _matrices(record: Json) -> list[RenderableType]:
    """Show the results of all targets, some of them side by side."""
    names = [target["name"] for target in record["targets"]]
    starts = range(0, len(names), SIDE_BY_SIDE)
    return [_matrix(record, names[start : start + SIDE_BY_SIDE]) for start in starts]


def _matrix(record: Json, targets: Sequence[str]) -> Table:
    group_of = {case["id"]: case["group"] for case in record["cases"]}
    table = Table()
    table.add_column("cases")
    for name in targets:
        table.add_column(Text(name), justify="right", overflow="fold")
    for group in sorted(set(group_of.values())):
        members = [result for result in record["results"] if group_of[result["case"]] == group]
        cells = [_cell([one for one in members if one["target"] == name]) for name in targets]
        table.add_row(group, *cells)
    return table


def _cell(results: Sequence[Json]) -> Text:
    if not results:
        return Text("")
    asked = [result for result in results if result["status"] != "unsupported"]
    if not asked:
        return Text("unsupported", style="dim")
    passed = sum(result["status"] == "passed" for result in asked)
    calls = [call for result in asked if (call := closest_call(result)) is not None]
    closest = f"  {percent(max(calls))}" if calls else ""
    known = sum(result["status"] == "xfailed" for result in asked)
    expected = f"  {known} xfailed" if known else ""
    style = "green" if all(result["ok"] for result in asked) else "bold red"
    return Text(f"{passed}/{len(asked)}{expected}{closest}", style=style)


def _failures(record: Json) -> list[RenderableType]:
    """Make a panel for each failure; cases that failed for the same reason share one."""
    claims = {case["id"]: case["claim"] for case in record["cases"]}
    groups = failures_by_cause(record["results"]).values()
    return [_failure(members, claims[members[0]["case"]]) for members in groups]


def _failure(members: Sequence[Json], claim: str) -> Panel:
    first = members[0]
    lines = [Text(claim + ".", style="italic"), Text(first["message"])]
    lines += [
        _suspect(suspect, "or" if rank else "diagnosis")
        for rank, suspect in enumerate(first["diagnosis"][:SUSPECTS])
    ]
    if len(members) > 1:
        others = ", ".join(result["case"] for result in members[1:])
        lines.append(Text(f"likewise: {others}", style="dim"))
    lines.append(Text(f"again: {first['reproduce']}", style="dim"))
    more = f" and {len(members) - 1} more" if len(members) > 1 else ""
    title = Text(f"{first['target']}: {first['case']}{more}: {first['status']}")
    style = style_of(first["status"]).removeprefix("bold ")
    return Panel(Group(*lines), title=title, title_align="left", border_style=style)


def _suspect(suspect: Json, label: str) -> Text:
    return Text(f"{label}: {suspect['text']}", style="bold" if suspect["complete"] else "")


def _said(results: Sequence[Json]) -> list[RenderableType]:
    return [Text(f"{one['target']}: {one['said']}") for one in results if one["said"]]


def _losses(results: Sequence[Json]) -> list[RenderableType]:
    """Make a table for each file in int8, of the layers that lose most and of its output."""
    told = [result for result in results if result["layers"]]
    return [part for result in told for part in (Text(_compared(result)), _loss_table(result))]


def _compared(result: Json) -> str:
    count = len(result["layers"])
    if count == 1:
        return f"{result['target']}: lost in int8, of which its runtime shows the output alone"
    more = f"; {count} values were compared, and all are in --json and --html"
    return f"{result['target']}: lost in int8, where most{more if count > MOST_LOST else ''}"


def _loss_table(result: Json) -> Table:
    *inner, output = result["layers"]
    worst = sorted(inner, key=lambda layer: -float(layer["own"]))[:MOST_LOST]
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("value", overflow="fold")
    for head in ("in this layer", "in all", "at most"):
        table.add_column(head, justify="right")
    for layer in (*worst, output):
        parts = (f"{float(layer[key]):.2%}" for key in ("own", "mean", "largest"))
        table.add_row(Text(layer["name"]), *parts)
    return table


def _slowest(results: Sequence[Json], count: int) -> Table:
    table = Table(title="The slowest cases", title_justify="left", box=None, pad_edge=False)
    table.add_column("seconds", justify="right")
    table.add_column("target")
    table.add_column("case")
    for result in sorted(results, key=lambda result: -float(result["seconds"]))[: count or None]:
        table.add_row(f"{result['seconds']:.1f}", Text(result["target"]), Text(result["case"]))
    return table


def case_table(cases: Sequence[Case]) -> Table:
    """List cases in a table."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("id", overflow="fold")
    table.add_column("claim")
    table.add_column("tier")
    table.add_column("cost", justify="right")
    for case in cases:
        table.add_row(Text(case.id), Text(case.claim), case.tier, f"{case.cost:.0f} s")
    return table
