"""pytest with the suite's cases alone, wherever it is called: the suite's own command."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence

import click
import pytest
from rich.console import Console

import densespec_conformance.plugin
from densespec.errors import DensespecError
from densespec_conformance.case import Case
from densespec_conformance.plugin.collecting import CaseItem
from densespec_conformance.plugin.findings import COMMAND
from densespec_conformance.plugin.terminal import SuiteTerminal

ALONE = (
    *("-c", os.devnull, "--rootdir", os.curdir, "--noconftest", "--disable-plugin-autoload"),
    *("-p", "no:terminalreporter", "--capture=no", "-o", "cache_dir=.densespec_conformance"),
)
"""What the folder and its user have set up for other tests has no say in these."""

FOR_OTHER_TESTS = ("PYTEST_ADDOPTS", "PYTEST_PLUGINS")


UNUSABLE, INTERRUPTED = 2, 130
"""Exit codes, as most command lines have them; the others are those of pytest."""


class NothingToRun(DensespecError, ValueError):
    """No case is left by what was asked for."""


class Chosen:
    """Leaves out the tests of the folder, and keeps the cases that were chosen.

    Args:
        command: that repeats the run.
    """

    def __init__(self, command: str) -> None:
        self._command = command
        self.cases: list[Case] = []

    def pytest_configure(self, config: pytest.Config) -> None:
        config.stash[COMMAND] = self._command

    def pytest_sessionstart(self, session: pytest.Session) -> None:
        session.config.args = []

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        chosen = [item.case for item in session.items if isinstance(item, CaseItem)]
        self.cases = list({case.id: case for case in chosen}.values())


def run_cases(words: Sequence[str], command: str, console: Console, *, durations: int = 0) -> int:
    """Run cases, show what comes of them, and give the exit code.

    Args:
        words: of pytest's command line.
        command: that repeats the run.
        durations: how many of the slowest cases to list.

    Raises:
        NothingToRun: no case is left.
    """
    code = _pytest(words, Chosen(command), SuiteTerminal(console, durations))
    return INTERRUPTED if code == pytest.ExitCode.INTERRUPTED else code


def chosen_cases(words: Sequence[str]) -> list[Case]:
    """The cases that would run.

    Raises:
        NothingToRun: there are none.
    """
    chosen = Chosen("")
    _pytest([*words, "--collect-only"], chosen)
    return chosen.cases


def _pytest(words: Sequence[str], *plugins: object) -> int:
    with (
        tempfile.TemporaryDirectory(prefix="densespec-hypothesis-") as scratch,
        pytest.MonkeyPatch.context() as patch,
    ):
        for name in FOR_OTHER_TESTS:
            patch.delenv(name, raising=False)
        patch.setenv("HYPOTHESIS_STORAGE_DIRECTORY", scratch)
        code = pytest.main([*ALONE, *words], plugins=[densespec_conformance.plugin, *plugins])
    if code == pytest.ExitCode.USAGE_ERROR:  # pytest has said which
        raise click.exceptions.Exit(UNUSABLE)
    if code == pytest.ExitCode.NO_TESTS_COLLECTED:
        raise NothingToRun("no case is left by what was asked for; --list shows their ids")
    return code
