"""The suite as a plugin of pytest: each case of each target is a test.

    pytest -p densespec_conformance.plugin --densespec-target my_package:BACKEND

or the same in the configuration of a project, whose own tests run along::

    [tool.pytest.ini_options]
    addopts = ["-p", "densespec_conformance.plugin"]
    densespec_target = ["my_package:BACKEND"]
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from densespec.errors import DensespecError
from densespec_conformance.asking.subject import Subject, subject_of
from densespec_conformance.case import Case
from densespec_conformance.judging.expected import Reference
from densespec_conformance.running.expectations import (
    ExpectedFailure,
    expected_for,
    read_expectations,
    unmatched,
)
from densespec_conformance.running.plans import Choice, cases_of
from densespec_conformance.running.runner import Result, Session

OPTIONS = {
    "target": "backend or constructor to compare with the reference; repeatable",
    "spec": "network that the targets are held to: a variant's name, a spec file, or JSON",
    "weights": "file with the weights of the targets",
    "input": "input size for the spec, such as 3x64x96",
    "tier": "quick or full",
    "timeout": "seconds that a target's answers to one case may take",
    "expect": "TOML file of expected failures; repeatable",
}
"""Each is an option of the command line and, with underscores, a key of the configuration."""

REPEATABLE = ("target", "expect")
PATHS = ("weights", "expect")
"""Relative to the configuration file where they stand in one."""


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("densespec", "DenseNet conformance")
    for name, about in OPTIONS.items():
        if name in REPEATABLE:
            group.addoption(
                f"--densespec-{name}", metavar=name.upper(), help=about, action="append", default=[]
            )
            parser.addini(f"densespec_{name}", about, type="args")
        else:
            group.addoption(f"--densespec-{name}", metavar=name.upper(), help=about)
            parser.addini(f"densespec_{name}", about, type="string")
    group.addoption(
        "--densespec-no-diagnosis",
        action="store_true",
        help="don't look for what would explain a failure",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "densespec: a case of densespec's conformance suite")


def pytest_sessionstart(session: pytest.Session) -> None:
    """Refuse what can't be run before anything is collected, rather than skip it in silence."""
    if not _option(session.config, "target"):
        raise pytest.UsageError(
            "densespec_conformance.plugin has no target: give --densespec-target, or set "
            "densespec_target in pytest's configuration"
        )


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(session: pytest.Session, items: list[pytest.Item]) -> None:
    """Add the cases; early, so that ``-k``, ``-m`` and ``--lf`` choose among them too."""
    config = session.config
    try:
        targets = [_collector(session, name) for name in dict.fromkeys(_option(config, "target"))]
        _warn_of_unmatched(config, targets)
    except DensespecError as error:
        raise pytest.UsageError(str(error)) from error
    for target in targets:
        items.extend(session.genitems(target))


def _option(config: pytest.Config, name: str) -> Any:
    """What the command line says, or else the configuration."""
    given = config.getoption(f"densespec_{name}")
    if given:
        return given
    stated = config.getini(f"densespec_{name}")
    if name in PATHS and stated and config.inipath is not None:
        folder = config.inipath.parent
        paths = stated if isinstance(stated, list) else [stated]
        resolved = [str(folder / path) for path in paths]
        return resolved if isinstance(stated, list) else resolved[0]
    return stated or None


def _collector(session: pytest.Session, name: str) -> TargetCollector:
    config = session.config
    subject = subject_of(name, _option(config, "spec"), _option(config, "weights"))
    tier = _option(config, "tier") or "quick"
    if tier not in ("quick", "full"):
        raise pytest.UsageError(f"--densespec-tier = {tier!r}, but should be quick or full")
    known = [
        one for path in _option(config, "expect") or () for one in read_expectations(Path(path))
    ]
    return TargetCollector.from_parent(
        session,
        name=name,
        nodeid=name,
        subject=subject,
        cases=cases_of(subject, _option(config, "input")),
        choice=Choice(tier),
        known=known,
        timeout=_seconds(_option(config, "timeout")),
    )


def _seconds(text: str | None) -> float | None:
    try:
        return float(text) if text else None
    except ValueError as error:
        raise pytest.UsageError(f"--densespec-timeout = {text!r}, but should be seconds") from error


def _warn_of_unmatched(config: pytest.Config, targets: list[TargetCollector]) -> None:
    known = dict.fromkeys(one for target in targets for one in target.known)
    ids = {target.name: [case.id for case in target.cases] for target in targets}
    for text in unmatched(known, ids):
        config.issue_config_time_warning(pytest.PytestWarning(text), stacklevel=2)


class TargetCollector(pytest.Collector):
    """A target: its process lives while its cases run."""

    def __init__(
        self,
        *,
        subject: Subject,
        cases: tuple[Case, ...],
        choice: Choice,
        known: list[ExpectedFailure],
        timeout: float | None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.subject, self.cases, self.choice, self.known = subject, cases, choice, known
        self.timeout = timeout
        self.running: Session | None = None

    def collect(self) -> Iterator[CaseItem]:
        for case in sorted(self.choice.of(self.cases), key=lambda case: case.cost):
            item = CaseItem.from_parent(
                self, name=case.id, nodeid=f"{self.nodeid}::{case.id}", case=case
            )
            item.add_marker("densespec")
            expected = expected_for(self.known, self.name, case.id)
            if expected is not None:
                item.add_marker(
                    pytest.mark.xfail(strict=True, raises=FailedAsExpected, reason=expected.reason)
                )
            yield item

    def setup(self) -> None:
        self.running = Session(
            self.subject,
            _reference(self.config),
            timeout=self.timeout,
            diagnosis=not self.config.getoption("densespec_no_diagnosis"),
            known=self.known,
        )

    def teardown(self) -> None:
        if self.running is not None:
            self.running.__exit__(None, None, None)


REFERENCE = pytest.StashKey[Reference]()


def _reference(config: pytest.Config) -> Reference:
    """One for all targets: what it computes is the same."""
    return config.stash.setdefault(REFERENCE, Reference())


class CaseFailed(Exception):
    """A case is not as it should be."""

    def __init__(self, result: Result) -> None:
        super().__init__(result.first_line)
        self.result = result


class FailedAsExpected(CaseFailed):
    """A case failed in the way that is known."""


class CaseItem(pytest.Item):
    """One case on one target."""

    def __init__(self, *, case: Case, **options: Any) -> None:
        super().__init__(**options)
        self.case = case

    def runtest(self) -> None:
        assert isinstance(self.parent, TargetCollector)
        assert self.parent.running is not None
        result = self.parent.running.run(self.case)
        match result.status:
            case "passed" | "xpassed":  # the strict mark makes a failure of the latter
                return
            case "unsupported":
                pytest.skip(result.message)
            case "xfailed":
                raise FailedAsExpected(result)
            case _:
                raise CaseFailed(result)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """What differs and why, without a traceback: that would be of the suite."""
        if isinstance(excinfo.value, CaseFailed):
            return "\n".join(_lines(excinfo.value.result))
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int | None, str]:
        return self.path, None, f"{self.case.id} on {self.parent.name if self.parent else ''}"


def _lines(result: Result) -> list[str]:
    status = "" if result.status == "failed" else f"{result.status}: "
    causes = [f"diagnosis: {suspect.text}" for suspect in result.diagnosis]
    return [f"{status}{result.message}", *causes, f"claim: {result.case.claim}"]
