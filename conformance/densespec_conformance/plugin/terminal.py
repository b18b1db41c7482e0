"""The suite's own command shows this in place of pytest's terminal."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Generator
from typing import Any

import pytest
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text

from densespec_conformance.plugin.collecting import CaseItem, cases_of
from densespec_conformance.plugin.findings import RECORD
from densespec_conformance.report.reading import first_line
from densespec_conformance.report.record import Json
from densespec_conformance.report.terminal import case_table, print_report, style_of

LINE = 100
"""At most this many characters of a failure's first line are shown while others run."""


class SuiteTerminal:
    """Shows a bar for each target, failures as they come, and everything at the end, as a plugin.

    If the output is no terminal, it has a line for each case instead of the bars.
    """

    def __init__(self) -> None:
        console = self._console = Console(width=None if Console().is_terminal else 120)
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[case]}", style="dim", markup=False),
        )
        self._progress = Progress(*columns, console=console, disable=not console.is_terminal)
        self._bars: dict[str, TaskID] = {}
        self._width = 0

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> Generator[None, bool, bool]:
        if session.config.option.collectonly:
            self._console.print(case_table(cases_of(session.items)))
            return (yield)
        for note in _notes(session):
            self._console.print(Text(note, style="dim"))
        self._prepare(Counter(_target(item) for item in session.items))
        with self._progress:
            return (yield)

    def _prepare(self, counts: Counter[str]) -> None:
        self._width = max(map(len, counts), default=0)
        self._bars = {
            target: self._progress.add_task(target, total=count, start=False, case="")
            for target, count in counts.items()
        }

    def pytest_densespec_case_begun(self, item: CaseItem) -> None:
        bar = self._bars[_target(item)]
        self._progress.start_task(bar)
        self._progress.update(bar, case=item.case.id)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        about: Any = report
        result = getattr(about, "densespec_result", None)
        if result is None:
            return
        bar = self._bars[result["target"]]
        self._progress.advance(bar)
        if self._progress.finished or self._progress.tasks[bar].finished:
            self._progress.update(bar, case="")
        if not self._console.is_terminal or not result["ok"]:
            self._console.print(self._line(result), soft_wrap=not self._console.is_terminal)

    def _line(self, result: Json) -> Text:
        line = Text(f"{result['target']:{self._width}} ")
        line.append(f"{result['status']:8}", style=style_of(result["status"]))
        line.append(f" {result['seconds']:6.1f} s  {result['case']}")
        brief = _brief(result)
        return line.append(f"  {brief}", style="dim") if brief else line

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        record = session.config.stash.get(RECORD, None)
        if record is None:
            return
        print_report(record, self._console, durations=session.config.option.durations)
        if exitstatus == pytest.ExitCode.OK and not record["ok"]:  # nothing passed
            session.exitstatus = pytest.ExitCode.TESTS_FAILED


def _brief(result: Json) -> str:
    """Say why a case did not pass, or how close its closest call was."""
    if not result["ok"]:
        return textwrap.shorten(first_line(result), LINE)
    call = result["closest"]
    if call and call["allowed"]:
        return f"{call['where']}: {call['error']:.1e} of {call['allowed']:.1e}"
    return ""


def _target(item: pytest.Item) -> str:
    return item.parent.name if item.parent else ""


def _notes(session: pytest.Session) -> list[str]:
    """Ask pytest's plugins what they say of the choice of tests, as ``--lf`` does."""
    config = session.config
    found = config.hook.pytest_report_collectionfinish(
        config=config, start_path=config.rootpath, items=session.items
    )
    return [note if isinstance(note, str) else "\n".join(note) for note in found]
