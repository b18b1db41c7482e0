"""pytest sees a target as a collector, and each of its cases as a test."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from densespec_conformance.case import Case
from densespec_conformance.judging.expected import Reference
from densespec_conformance.plugin.settings import Settings
from densespec_conformance.running.choosing import Assignment
from densespec_conformance.running.examiner import Examiner
from densespec_conformance.running.expectations import expected_for
from densespec_conformance.running.result import Result


class CaseFailed(Exception):
    """A case is not as it should be."""

    def __init__(self, result: Result) -> None:
        super().__init__(result.first_line)
        self.result = result


class FailedAsExpected(CaseFailed):
    """A case failed in the way that is known."""


class TargetCollector(pytest.Collector):
    """Represents a target, and makes a test of each case that it has to meet."""

    def __init__(
        self, *, assignment: Assignment, settings: Settings, reference: Reference, **node: Any
    ) -> None:
        super().__init__(**node)
        self.assignment, self._settings, self._reference = assignment, settings, reference
        self._examiner: Examiner | None = None

    def collect(self) -> Iterator[CaseItem]:
        for case in self.assignment.wanted:
            item: CaseItem = CaseItem.from_parent(
                self, name=case.id, nodeid=f"{self.nodeid}::{case.id}", case=case
            )
            item.add_marker("densespec")
            expected = expected_for(self._settings.known, self.name, case.id)
            if expected is not None:
                item.add_marker(
                    pytest.mark.xfail(strict=True, raises=FailedAsExpected, reason=expected.reason)
                )
            yield item

    def examiner(self, threads: int) -> Examiner:
        """Make an examiner, which starts a new process of the target."""
        return Examiner(
            self.assignment.subject,
            self._reference,
            self._settings.known,
            timeout=self._settings.timeout,
            threads=threads,
            diagnosis=self._settings.diagnosis,
        )

    def examine(self, case: Case) -> Result:
        """Run a case now, in a process that lives while this target's tests run."""
        if self._examiner is None:
            self._examiner = self.examiner(threads=1)
        return self._examiner.examine(case)

    def teardown(self) -> None:
        if self._examiner is not None:
            self._examiner.__exit__()
            self._examiner = None


class CaseItem(pytest.Item):
    """Represents a test: one case on one target.

    Attributes:
        result: The result, which may be known before pytest comes to the test.
    """

    parent: TargetCollector

    def __init__(self, *, case: Case, **node: Any) -> None:
        super().__init__(**node)
        self.case = case
        self.result: Result | None = None

    def runtest(self) -> None:
        self.result = self.result or self.parent.examine(self.case)
        match self.result.status:
            case "passed" | "xpassed":  # the strict mark makes a failure of the latter
                return
            case "unsupported":
                pytest.skip(self.result.message)
            case "xfailed":
                raise FailedAsExpected(self.result)
            case _:
                raise CaseFailed(self.result)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """Say what differs and why, without a traceback, which would be of the suite."""
        if isinstance(excinfo.value, CaseFailed):
            return "\n".join(_lines(excinfo.value.result))
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int | None, str]:
        return self.path, None, f"{self.case.id} on {self.parent.name}"


def cases_of(items: Iterable[pytest.Item]) -> list[Case]:
    """Return the cases among some tests, each once, whichever targets meet it."""
    found = {item.case.id: item.case for item in items if isinstance(item, CaseItem)}
    return list(found.values())


def _lines(result: Result) -> list[str]:
    status = "" if result.status == "failed" else f"{result.status}: "
    causes = [f"diagnosis: {suspect.text}" for suspect in result.diagnosis]
    return [f"{status}{result.message}", *causes, f"claim: {result.case.claim}"]
