"""Results on the terminal: a matrix of groups by targets, then what failed and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from densespec_conformance.asking.subject import Subject
from densespec_conformance.case import Case
from densespec_conformance.report.record import Run, environment, reproduce
from densespec_conformance.running.runner import STATUSES, Result

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
"""Targets in one table: as many as a terminal has room for."""
SUSPECTS = 3
"""Explanations shown of one failure."""


def print_report(run: Run, console: Console, *, durations: int = 0) -> None:
    """Print everything that a reader of a terminal wants to know of a run.

    Args:
        durations: how many of the slowest cases to list.
    """
    parts: list[RenderableType] = []
    if run.results:
        parts += [Text(TITLE, style="bold"), *_matrices(run), *_failures(run)]
    if durations:
        parts.append(_slowest(run.results, durations))
    parts.append(Text(_where_it_ran(), style="dim"))
    parts += [Text(f"warning: {text}", style="yellow") for text in run.warnings]
    if run.interrupted:
        parts.append(Text("interrupted: these are the results that came before", style="yellow"))
    console.print(Group(*parts))
    console.print(summary(run.results))


def summary(results: Iterable[Result]) -> Text:
    """``71 passed, 2 failed, 1 xfailed``, always with the first two."""
    found = Counter(result.status for result in results)
    shown = [status for status in STATUSES if found[status] or status in ("passed", "failed")]
    return Text(", ").join(
        Text(f"{found[status]} {status}", style=style_of(status) if found[status] else "")
        for status in shown
    )


def style_of(status: str) -> str:
    return STYLES.get(status, OTHER_STYLE)


def _where_it_ran() -> str:
    about = environment()
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    return f"{versions}; Python {about['python']}; {about['machine']}"


def _matrices(run: Run) -> list[RenderableType]:
    """The results of all targets, some of them side by side."""
    starts = range(0, len(run.subjects), SIDE_BY_SIDE)
    return [_matrix(run, run.subjects[start : start + SIDE_BY_SIDE]) for start in starts]


def _matrix(run: Run, subjects: Sequence[Subject]) -> Table:
    groups = list(dict.fromkeys(result.group for result in run.results))
    table = Table()
    table.add_column("cases")
    for subject in subjects:
        table.add_column(Text(subject.name), justify="right", overflow="fold")
    for group in sorted(groups):
        cells = [
            _cell([r for r in run.results if r.target == subject.name and r.group == group])
            for subject in subjects
        ]
        table.add_row(group, *cells)
    return table


def _cell(results: Sequence[Result]) -> Text:
    if not results:
        return Text("")
    asked = [result for result in results if result.status != "unsupported"]
    if not asked:
        return Text("unsupported", style="dim")
    passed = [result for result in asked if result.status == "passed"]
    calls = [result.outcome for result in passed if result.outcome and result.outcome.allowed]
    closest = f"  {_percent(max(call.strain for call in calls))}" if calls else ""
    known = [result for result in asked if result.status == "xfailed"]
    expected = f"  {len(known)} xfailed" if known else ""
    style = "green" if all(result.ok for result in asked) else "bold red"
    return Text(f"{len(passed)}/{len(asked)}{expected}{closest}", style=style)


def _percent(part: float) -> str:
    return f"{part:.0%}" if part >= 0.01 else "<1%"


def _failures(run: Run) -> list[RenderableType]:
    """A panel for each failure; cases that failed for the same reason share one."""
    groups: dict[tuple[str, str, str], list[Result]] = {}
    for result in run.results:
        if not result.ok:
            reason = result.first_line if result.status != "failed" else _cause(result)
            groups.setdefault((result.target, result.status, reason), []).append(result)
    return [_failure(members, run) for members in groups.values()]


def _cause(result: Result) -> str:
    """What failures have in common: the explanation, or else the difference itself."""
    if result.diagnosis and result.diagnosis[0].complete:
        return result.diagnosis[0].text
    return result.message


def _failure(members: Sequence[Result], run: Run) -> Panel:
    first = members[0]
    lines = [Text(first.case.claim + ".", style="italic"), Text(first.message)]
    lines += [_suspect(rank, first) for rank in range(min(SUSPECTS, len(first.diagnosis)))]
    if len(members) > 1:
        others = ", ".join(result.case.id for result in members[1:])
        lines.append(Text(f"likewise: {others}", style="dim"))
    lines.append(Text(f"again: {reproduce(first, run)}", style="dim"))
    more = f" and {len(members) - 1} more" if len(members) > 1 else ""
    title = Text(f"{first.target}: {first.case.id}{more}: {first.status}")
    style = style_of(first.status).removeprefix("bold ")
    return Panel(Group(*lines), title=title, title_align="left", border_style=style)


def _suspect(rank: int, result: Result) -> Text:
    suspect = result.diagnosis[rank]
    label = "diagnosis" if rank == 0 else "or"
    return Text(f"{label}: {suspect.text}", style="bold" if suspect.complete else "")


def _slowest(results: Sequence[Result], count: int) -> Table:
    table = Table(title="The slowest cases", title_justify="left", box=None, pad_edge=False)
    table.add_column("seconds", justify="right")
    table.add_column("target")
    table.add_column("case")
    for result in sorted(results, key=lambda result: -result.seconds)[:count]:
        table.add_row(f"{result.seconds:.1f}", Text(result.target), Text(result.case.id))
    return table


def case_table(cases: Sequence[Case]) -> Table:
    """The cases as a list."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("id", overflow="fold")
    table.add_column("claim")
    table.add_column("tier")
    table.add_column("cost", justify="right")
    for case in cases:
        table.add_row(Text(case.id), Text(case.claim), case.tier, f"{case.cost:.0f} s")
    return table
