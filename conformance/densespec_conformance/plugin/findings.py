"""What a run of pytest finds is gathered from its reports, and written where it was asked.

The reports may come from other processes, as with pytest-xdist, so they carry records, not objects.
"""

from __future__ import annotations

import shlex
import time
import warnings
from typing import Any

import click
import pytest

from densespec_conformance.plugin.settings import Settings
from densespec_conformance.report import write_reports
from densespec_conformance.report.record import (
    Findings,
    Json,
    as_record,
    result_record,
    runs_on_record,
)
from densespec_conformance.running.result import Result

COMMAND = pytest.StashKey[str]()
"""The command that repeats the run, if it was not one of pytest's."""
RECORD = pytest.StashKey[Json]()
"""The record of a run, once it has ended."""


def attach(result: Result, report: pytest.TestReport, settings: Settings) -> None:
    """Add what came of a case to pytest's report of it."""
    about: Any = report
    about.duration = result.seconds
    about.densespec_result = result_record(result, settings.network)
    about.densespec_runs_on = result.runs_on and runs_on_record(result.runs_on)


class Gatherer:
    """Hears of each case, and writes the suite's reports at the end, as a plugin of pytest."""

    def __init__(self, settings: Settings, config: pytest.Config) -> None:
        typed = shlex.join(["python", "-m", "pytest", *map(str, config.invocation_params.args)])
        command = config.stash.get(COMMAND, typed)
        self._found = Findings(settings.assignments, settings.tier, command)
        self._paths = settings.reports
        self._start = time.perf_counter()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        about: Any = report
        result = getattr(about, "densespec_result", None)
        if result is None:
            return
        self._found.results[result["target"], result["case"]] = result
        if about.densespec_runs_on:
            self._found.runs_on.setdefault(result["target"], about.densespec_runs_on)

    def pytest_warning_recorded(self, warning_message: warnings.WarningMessage) -> None:
        if issubclass(warning_message.category, pytest.PytestWarning):
            self._found.warnings.append(str(warning_message.message))

    def pytest_keyboard_interrupt(self) -> None:
        self._found.interrupted = True

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        done = (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.INTERRUPTED)
        if exitstatus not in done or session.config.option.collectonly:
            return
        self._found.seconds = time.perf_counter() - self._start
        record = session.config.stash[RECORD] = as_record(self._found)
        write_reports(record, self._paths)
        for path in self._paths.values():
            click.echo(f"wrote {path}", err=True)
