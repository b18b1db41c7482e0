"""Runs cases on backends, each backend in its own process, and gathers what came of them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

from densespec_conformance.case import Case
from densespec_conformance.compare import Mismatch
from densespec_conformance.target import ProcessTarget, Reference, Target, TargetError

Status = Literal["passed", "failed", "error", "crashed", "timeout"]


@dataclass(frozen=True)
class Result:
    """What came of one case on one backend.

    Attributes:
        message: why it did not pass; empty if it did.
        where: the first op, weight or figure that differs, where one does.
        error: largest relative error of a case that passed.
        seconds: it took.
    """

    backend: str
    case: Case
    status: Status
    message: str = ""
    where: str = ""
    error: float | None = None
    seconds: float = 0.0


def run_case(case: Case, target: Target, reference: Reference) -> Result:
    """Run one case on one target. Never raises for what the target does."""
    start = time.perf_counter()
    status: Status = "passed"
    message, where, error = "", "", None
    try:
        error = case.check(target, reference)
    except Mismatch as mismatch:
        status, message, where = "failed", str(mismatch), mismatch.where
    except TargetError as failure:
        status, message = failure.status, str(failure)
    seconds = time.perf_counter() - start
    return Result(target.name, case, status, message, where, error, seconds)


def run(
    backends: Sequence[str],
    cases: Sequence[Case],
    *,
    timeout: float,
    jobs: int,
    done: Callable[[Result], None] = lambda result: None,
) -> list[Result]:
    """Run every case on every backend, ``jobs`` backends at a time.

    Args:
        timeout: seconds that one question to a backend may take.
        done: called with each result as it comes, from several threads.
    """
    reference = Reference()
    threads = max(1, (os.cpu_count() or 1) // jobs)

    def run_backend(name: str) -> list[Result]:
        results = []
        with ProcessTarget(name, timeout, threads) as target:
            for case in cases:
                results.append(run_case(case, target, reference))
                done(results[-1])
        return results

    with ThreadPoolExecutor(max_workers=jobs) as pool:
        return [result for results in pool.map(run_backend, backends) for result in results]
