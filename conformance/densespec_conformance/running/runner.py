"""Runs cases on targets, each target in its own process, and gathers what came of them."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
import traceback
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from densespec_conformance.answering.target import ProcessTarget, Target, TargetError
from densespec_conformance.asking.requests import (
    Answer,
    Description,
    Forward,
    Request,
    Train,
    Unsupported,
)
from densespec_conformance.asking.subject import Subject
from densespec_conformance.case import Case
from densespec_conformance.judging.compare import Comparison, Mismatch
from densespec_conformance.judging.expected import Reference, expectation
from densespec_conformance.judging.outcome import Outcome
from densespec_conformance.running.expectations import ExpectedFailure, expected_for

if TYPE_CHECKING:
    from densespec_conformance.explaining.diagnosis import Suspect

Status = Literal[
    "passed",
    "failed",
    "error",
    "crashed",
    "timeout",
    "out of memory",
    "unsupported",
    "xfailed",
    "xpassed",
]
STATUSES: tuple[Status, ...] = get_args(Status)
GOOD = ("passed", "unsupported", "xfailed")
ANSWERED = ("passed", "failed", "unsupported", "xpassed")
"""Of a target whose process works."""

LEAST_LIMIT, COSTS_IN_LIMIT = 300.0, 10.0
"""Unless told otherwise, a case may take so many seconds, or so many times what it usually does."""

GRACE = 2.0
"""Seconds that an interrupted run waits for what is under way."""

DESCRIPTION_SECONDS = 60.0
DIAGNOSIS_SECONDS = 120.0
"""Spent on one target's diagnoses: what is wrong in fifty cases is mostly one thing."""


@dataclass(frozen=True)
class Result:
    """What came of one case on one target.

    Attributes:
        target: its name, as typed.
        message: why it did not pass; empty if it did.
        where: the first op, weight or figure that differs, where one does.
        outcome: the closest call of a case that passed.
        comparisons: every tensor that was compared, in order, where one differs.
        diagnosis: what would explain a difference, the best explanation first.
        expected: why it is expected to fail; empty if it is not.
        seconds: it took.
    """

    target: str
    case: Case
    status: Status
    message: str = ""
    where: str = ""
    outcome: Outcome | None = None
    comparisons: tuple[Comparison, ...] = ()
    diagnosis: tuple[Suspect, ...] = ()
    expected: str = ""
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """It is as it should be, which is not to say that it passed."""
        return self.status in GOOD

    @property
    def group(self) -> str:
        return self.case.id.partition("/")[0]

    @property
    def first_line(self) -> str:
        return self.message.partition("\n")[0]


@dataclass(frozen=True)
class Plan:
    """The cases that a target is to meet."""

    subject: Subject
    cases: tuple[Case, ...]


class Recorder:
    """A target seen through a case: keeps the last question and its answer.

    After a crash, or once the time is used up, every further question of the case fails likewise:
    a case that asks again and again, as random ones do, then ends.
    """

    request: Request | None = None
    answer: Answer | None = None

    def __init__(self, target: Target) -> None:
        self.name = target.name
        self._target = target
        self._ended: TargetError | None = None

    def ask(self, request: Request) -> Any:
        if self._ended is not None:
            raise self._ended
        self.request, self.answer = request, None
        try:
            self.answer = self._target.ask(request)
        except TargetError as failure:
            self._ended = None if failure.status == "error" else failure
            raise
        return self.answer


def limit_of(case: Case, timeout: float | None) -> float:
    """Seconds that a target's answers to a case may take."""
    return max(LEAST_LIMIT, COSTS_IN_LIMIT * case.cost) if timeout is None else timeout


def run_case(case: Case, target: Target, reference: Reference, *, diagnosis: bool = True) -> Result:
    """Run one case on one target. Never raises for what the target does.

    Args:
        diagnosis: look for what would explain a difference.
    """
    start = time.perf_counter()
    recorder = Recorder(target)
    result = Result(target.name, case, "passed")
    try:
        result = replace(result, outcome=case.check(recorder, reference))
    except Mismatch as mismatch:
        result = replace(
            result,
            status="failed",
            message=str(mismatch),
            where=mismatch.where,
            comparisons=mismatch.comparisons,
        )
    except Unsupported as refusal:
        result = replace(result, status="unsupported", message=str(refusal))
    except TargetError as failure:
        message = f"{failure}\n{_asked(recorder.request)}".rstrip()
        result = replace(result, status=failure.status, message=message)
    except Exception as error:
        result = replace(result, status="error", message=_not_checked(error))
    result = replace(result, seconds=time.perf_counter() - start)
    return _diagnosed(result, recorder) if diagnosis and result.status == "failed" else result


def _not_checked(error: Exception) -> str:
    """Of an answer that a case could not make sense of: arrays of another kind, for instance."""
    where = traceback.extract_tb(error.__traceback__)[-1]
    return (
        f"the answer could not be checked: {type(error).__name__}: {error} "
        f"({Path(where.filename).name}, line {where.lineno})"
    )


def _asked(request: Request | None) -> str:
    """What a target was asked when it failed, so that it can be asked again."""
    if request is None:
        return ""
    network = request.network
    size = "x".join(map(str, network.input_size)) if network.input_size else "any size"
    options = f" with {dict(network.options)}" if network.options else ""
    stated = {
        one.name: value
        for one in fields(network.spec)
        if (value := getattr(network.spec, one.name)) != one.default
    }
    spec = json.dumps(stated)
    return f"asked to {type(request).__name__} in {network.dtype} at {size}{options}: {spec}"


def _diagnosed(result: Result, recorder: Recorder) -> Result:
    """The result with explanations; what goes wrong in finding them must not cost the result."""
    request, answer = recorder.request, recorder.answer
    if request is None or answer is None:
        return result
    try:
        from densespec_conformance.explaining.diagnosis import SECONDS, diagnose

        compared = isinstance(request, Forward | Train)
        expected = expectation(request) if compared else None
        seconds = max(SECONDS, result.seconds)  # large networks take longer to try things on
        found = diagnose(request, answer, expected, seconds=seconds)
        return replace(result, diagnosis=found)
    except Exception as error:
        note = f"(the diagnosis failed: {type(error).__name__}: {error})"
        return replace(result, message=f"{result.message}\n{note}")


def settled(result: Result, known: ExpectedFailure | None) -> Result:
    """The result in the light of what is expected: strictly, so a pass is then a failure."""
    if known is None or result.status == "unsupported":
        return result
    if result.status == "passed":
        message = f"passes, but is expected to fail: {known.reason}"
        return replace(result, status="xpassed", message=message, expected=known.reason)
    if known.covers(result.status, result.where):
        return replace(result, status="xfailed", expected=known.reason)
    note = f"(expected to fail, but otherwise: {known.reason})"
    return replace(result, message=f"{result.message}\n{note}", expected=known.reason)


@dataclass
class Session:
    """A target's process and what has been spent on it; runs one case after the other."""

    subject: Subject
    reference: Reference
    timeout: float | None = None
    threads: int = 1
    diagnosis: bool = True
    known: Sequence[ExpectedFailure] = ()
    _diagnosing: float = 0.0
    _target: ProcessTarget = field(init=False)

    def __post_init__(self) -> None:
        subject, weights = self.subject, self.subject.weights
        self._target = ProcessTarget(
            subject.name,
            LEAST_LIMIT,
            self.threads,
            spec=subject.spec,
            weights=Path(weights) if weights else None,
        )

    def __enter__(self) -> Session:
        self._target.__enter__()
        return self

    def __exit__(self, *details: object) -> None:
        self._target.__exit__(*details)

    def run(self, case: Case) -> Result:
        """What comes of a case."""
        known = expected_for(self.known, self.subject.name, case.id)
        self._target.timeout = limit_of(case, self.timeout)
        self._target.start_case()
        start = time.perf_counter()
        result = run_case(
            case,
            self._target,
            self.reference,
            diagnosis=self.diagnosis and known is None and self._diagnosing < DIAGNOSIS_SECONDS,
        )
        self._diagnosing += time.perf_counter() - start - result.seconds
        return settled(result, known)

    def describe(self) -> Description | None:
        """What the target runs on; None where it does not say."""
        self._target.timeout = DESCRIPTION_SECONDS
        self._target.start_case()
        try:
            return self._target.describe()
        except (TargetError, Unsupported):
            return None

    def interrupt(self) -> None:
        """End the process, from another thread."""
        self._target.interrupt()


class Observer:
    """Hears of a run as it goes on, from several threads."""

    def begun(self, subject: Subject, case: Case) -> None:
        """A case is about to run."""

    def done(self, result: Result) -> None:
        """A case has run."""


@dataclass(frozen=True)
class Ended:
    """What a run came to, target by target, the cases in the order in which they ran."""

    results: tuple[Result, ...]
    interrupted: bool
    descriptions: Mapping[str, Description]


def run(
    plans: Sequence[Plan],
    *,
    timeout: float | None = None,
    jobs: int = 1,
    diagnosis: bool = True,
    known: Sequence[ExpectedFailure] = (),
    exit_first: bool = False,
    observer: Observer | None = None,
) -> Ended:
    """Run every plan, cheap cases first.

    Args:
        jobs: processes at a time. Where there are fewer targets, each has several, which share its
            cases.
        timeout: seconds that a target's answers to one case may take; by the case's cost if None.
        known: expected failures.
        exit_first: stop after the first result that is not as it should be.
        observer: hears of each case.
    """
    reference, observer, stop = Reference(), observer or Observer(), threading.Event()
    threads = max(1, (os.cpu_count() or 1) // jobs)
    found: list[list[Result]] = [[] for _ in plans]
    descriptions: dict[str, Description | None] = {}

    def run_cases(session: Session, cases: deque[Case], results: list[Result]) -> None:
        own: list[Result] = []
        with session:
            while not stop.is_set() and (case := _next(cases)) is not None:
                observer.begun(session.subject, case)
                own.append(session.run(case))
                if interrupted.is_set():
                    return
                results.append(own[-1])
                observer.done(own[-1])
                if exit_first and not own[-1].ok:
                    stop.set()
            if not interrupted.is_set() and any(result.status in ANSWERED for result in own):
                descriptions.setdefault(session.subject.name, session.describe())

    sessions, arguments = [], []
    for plan, results in zip(plans, found, strict=True):
        cases = deque(sorted(plan.cases, key=lambda case: (case.cost, case.id)))
        for _ in range(min(max(1, jobs // len(plans)), len(cases))):
            sessions.append(Session(plan.subject, reference, timeout, threads, diagnosis, known))
            arguments.append((sessions[-1], cases, results))

    interrupted = threading.Event()
    pool = ThreadPoolExecutor(max_workers=jobs, initializer=_leave_interrupts_to_us)
    work = [pool.submit(run_cases, *one) for one in arguments]
    try:
        wait(work)
    except KeyboardInterrupt:
        interrupted.set()
        stop.set()
        for session in sessions:
            session.interrupt()
        wait(work, GRACE)  # the reference may be computing, which nothing can end
    pool.shutdown(wait=False, cancel_futures=True)
    for one in work:
        if one.done() and not one.cancelled():
            one.result()
    return Ended(
        results=tuple(
            result
            for results in found
            for result in sorted(results, key=lambda result: (result.case.cost, result.case.id))
        ),
        interrupted=interrupted.is_set(),
        descriptions={name: one for name, one in descriptions.items() if one is not None},
    )


def _next(cases: deque[Case]) -> Case | None:
    """The next case that no other session has taken."""
    try:
        return cases.popleft()
    except IndexError:
        return None


def _leave_interrupts_to_us() -> None:
    """Processes that this thread starts do not see Ctrl-C: they would die, and look crashed."""
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
