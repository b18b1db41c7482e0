"""A target is examined here: its process, its time limits, and what has been spent on it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from densespec_conformance.answering.target import ProcessTarget, TargetError
from densespec_conformance.asking.requests import Description, Unsupported
from densespec_conformance.asking.subject import Subject
from densespec_conformance.case import Case
from densespec_conformance.judging.expected import Reference
from densespec_conformance.running.expectations import ExpectedFailure, expected_for
from densespec_conformance.running.one_case import run_case, settled
from densespec_conformance.running.result import ANSWERED, Result

LEAST_LIMIT, COSTS_IN_LIMIT = 300.0, 10.0
"""By default a case may take this many seconds, or this many times what it usually takes."""

DESCRIPTION_SECONDS = 60.0
DIAGNOSIS_SECONDS = 120.0
"""One target's diagnoses take at most this many seconds: fifty failures mostly have one cause."""


def limit_of(case: Case, timeout: float | None) -> float:
    """Return the seconds that a target's answers to a case may take."""
    return max(LEAST_LIMIT, COSTS_IN_LIMIT * case.cost) if timeout is None else timeout


class Examiner:
    """Runs cases on a target, one after the other, in a process of the target's own.

    Args:
        reference: What the target is compared with; examiners may share one.
        known: Failures that are expected.
        timeout: Seconds that the answers to a case may take; None for a limit by its cost.
        threads: Threads that the target's kernels may use.
        diagnosis: Whether to look for what would explain a failure.
    """

    def __init__(
        self,
        subject: Subject,
        reference: Reference,
        known: Sequence[ExpectedFailure] = (),
        *,
        timeout: float | None = None,
        threads: int = 1,
        diagnosis: bool = True,
    ) -> None:
        self.subject, self._reference, self._known = subject, reference, known
        self._timeout, self._diagnosis = timeout, diagnosis
        self._diagnosing = 0.0
        self._described = False
        self._target = ProcessTarget(
            subject.name,
            LEAST_LIMIT,
            threads,
            spec=subject.spec,
            weights=Path(subject.weights) if subject.weights else None,
        )

    def __enter__(self) -> Examiner:
        return self

    def __exit__(self, *details: object) -> None:
        self._target.__exit__(*details)

    def examine(self, case: Case) -> Result:
        """Run a case; whatever the target does is a result, never an error."""
        known = expected_for(self._known, self.subject.name, case.id)
        explain = self._diagnosis and known is None and self._diagnosing < DIAGNOSIS_SECONDS
        self._allow(limit_of(case, self._timeout))
        start = time.perf_counter()
        result = run_case(case, self._target, self._reference, diagnosis=explain)
        self._diagnosing += time.perf_counter() - start - result.seconds
        return settled(self._with_description(result), known)

    def interrupt(self) -> None:
        """End the target's process for good, from another thread."""
        self._target.interrupt()

    def _with_description(self, result: Result) -> Result:
        if self._described or result.status not in ANSWERED:
            return result
        self._described = True
        return replace(result, runs_on=self._describe())

    def _describe(self) -> Description | None:
        self._allow(DESCRIPTION_SECONDS)
        try:
            return self._target.describe()
        except (TargetError, Unsupported):
            return None

    def _allow(self, seconds: float) -> None:
        self._target.timeout = seconds
        self._target.start_case()
