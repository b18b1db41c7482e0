"""The suite's own command runs pytest with the suite's cases alone, wherever it is called."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence

import click
import pytest

import densespec_conformance.plugin
from densespec.backends import backends
from densespec.errors import DensespecError
from densespec_conformance.case import Case
from densespec_conformance.plugin.collecting import cases_of
from densespec_conformance.plugin.findings import COMMAND
from densespec_conformance.plugin.terminal import SuiteTerminal

ALONE = (
    *("-c", os.devnull, "--rootdir", os.curdir, "--noconftest", "--disable-plugin-autoload"),
    *("-p", "no:terminalreporter", "--capture=no", "-o", "cache_dir=.densespec_conformance"),
)
FOR_OTHER_TESTS = ("PYTEST_ADDOPTS", "PYTEST_PLUGINS")
"""The folder and the user may set these for other tests: the suite ignores them."""

UNUSABLE = 2
"""Most command lines exit with this code if arguments can't be used; pytest has another one."""


class NothingToRun(DensespecError, ValueError):
    """No case is left by what was asked for."""


class Alone:
    """Takes positional arguments for targets, and keeps the chosen cases, as a plugin of pytest.

    Args:
        command: The command that repeats the run.
    """

    def __init__(self, command: str = "") -> None:
        self._command = command
        self.cases: list[Case] = []

    @pytest.hookimpl(tryfirst=True)
    def pytest_configure(self, config: pytest.Config) -> None:
        anything = ["numpy"] if config.option.collectonly else []
        targets = config.option.file_or_dir or anything
        if not targets:
            known = ", ".join(backends())
            raise pytest.UsageError(
                f"no target given, so there is nothing to check. Known: {known}"
            )
        config.option.densespec_target, config.args = targets, []
        config.stash[COMMAND] = self._command

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self.cases = cases_of(session.items)


def run_cases(words: Sequence[str], command: str) -> int:
    """Run cases, show what comes of them, and give pytest's exit code.

    Args:
        words: Targets and options, as pytest takes paths and options.
        command: The command that repeats the run.

    Raises:
        NothingToRun: No case is left.
        KeyboardInterrupt: The user ended the run; what had come by then was shown.
    """
    return _pytest(words, Alone(command), SuiteTerminal())


def chosen_cases(words: Sequence[str]) -> list[Case]:
    """Return the cases that would run, or those for any backend where no target is named.

    Raises:
        NothingToRun: There are none.
    """
    alone = Alone()
    _pytest([*words, "--collect-only"], alone)
    return alone.cases


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
    if code == pytest.ExitCode.INTERRUPTED:
        raise KeyboardInterrupt
    if code == pytest.ExitCode.NO_TESTS_COLLECTED:
        raise NothingToRun("no case is left by what was asked for; --list shows their ids")
    return code
