"""Several targets answer at a time: a thread waits for each, and the main thread hears of it all.

Threads do here, as the targets have processes already. So all targets are compared with one
reference, and the main thread can end whatever is going on at any moment.
"""

from __future__ import annotations

import os
import queue
import signal
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from typing import TypeVar

from densespec_conformance.plugin.collecting import CaseItem, TargetCollector
from densespec_conformance.running.examiner import Examiner
from densespec_conformance.running.result import Result

Told = tuple[CaseItem, Result | None]
"""Holds a case with its result; the result is None when the case begins."""

T = TypeVar("T")

GRACE = 2.0
"""The end of a run waits this many seconds for the threads."""


class Jobs:
    """Runs cases on their targets, some at a time, in the order in which they are given.

    Where there are fewer targets than jobs, a target has several processes, which share its cases.
    """

    def __init__(self, cases: Sequence[CaseItem], jobs: int) -> None:
        self._jobs = jobs
        by_target: dict[TargetCollector, deque[CaseItem]] = {}
        for case in cases:
            by_target.setdefault(case.parent, deque()).append(case)
        threads = max(1, (os.cpu_count() or 1) // jobs)
        self._sittings = deque(
            (target.examiner(threads), own)
            for target, own in by_target.items()
            for _ in range(min(max(1, jobs // len(by_target)), len(own)))
        )
        self._examiners = [examiner for examiner, _ in self._sittings]
        self._events: queue.SimpleQueue[Told | BaseException | None] = queue.SimpleQueue()
        self._stopped = threading.Event()
        self._threads: list[threading.Thread] = []

    def __iter__(self) -> Iterator[Told]:
        """Run them all; give each case when it begins, and again with its result."""
        for _ in range(min(self._jobs, len(self._sittings))):
            thread = threading.Thread(target=self._work, daemon=True)
            thread.start()
            self._threads.append(thread)
        at_work = len(self._threads)
        while at_work:
            match self._events.get():
                case None:
                    at_work -= 1
                case BaseException() as error:
                    raise error
                case told:
                    yield told

    def stop(self) -> None:
        """End what is going on; a thread that computes for longer ends with the program."""
        self._stopped.set()
        for examiner in self._examiners:
            examiner.interrupt()
        for thread in self._threads:
            thread.join(GRACE / len(self._threads))

    def _work(self) -> None:
        _leave_interrupts_to_the_main_thread()
        try:
            while (sitting := _next(self._sittings)) is not None:
                self._examine(*sitting)
        except BaseException as error:
            self._events.put(error)
        self._events.put(None)

    def _examine(self, examiner: Examiner, cases: deque[CaseItem]) -> None:
        with examiner:
            while not self._stopped.is_set() and (case := _next(cases)) is not None:
                self._events.put((case, None))
                result = examiner.examine(case.case)
                if self._stopped.is_set():
                    return
                self._events.put((case, result))


def _next(waiting: deque[T]) -> T | None:
    """Take the next that no other thread has taken."""
    try:
        return waiting.popleft()
    except IndexError:
        return None


def _leave_interrupts_to_the_main_thread() -> None:
    """Hide Ctrl-C from the processes that this thread starts: they would die, and look crashed."""
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
