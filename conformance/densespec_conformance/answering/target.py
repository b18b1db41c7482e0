"""Drives a target under test: a process that may answer, fail, crash or hang."""

from __future__ import annotations

import atexit
import contextlib
import multiprocessing
import multiprocessing.util  # so that its own exit hook, which waits for processes, runs after ours
import os
import signal
import tempfile
import threading
import time
import weakref
from pathlib import Path
from typing import Any, Literal, Protocol

from densespec.network.catalogue import get
from densespec.network.spec import DenseNetSpec
from densespec_conformance.answering.answers import handle
from densespec_conformance.answering.texts import last_lines, shown_text
from densespec_conformance.answering.worker import serve
from densespec_conformance.asking.requests import (
    About,
    Description,
    NetworkToBuild,
    Request,
    Train,
    Unsupported,
)
from densespec_conformance.asking.subject import Subject as Subject
from densespec_conformance.asking.subject import input_size_of as input_size_of
from densespec_conformance.asking.subject import subject_of as subject_of

LOG_LINES = 15
"""An error quotes at most this many lines of a dead worker's output."""

Failure = Literal["error", "crashed", "timeout", "out of memory"]


class TargetError(Exception):
    """The target could not answer; the message says why."""

    status: Failure = "error"


class TargetCrashed(TargetError):
    """The target's process died."""

    status = "crashed"


class TargetTimeout(TargetError):
    """The target did not answer in time; its process was ended."""

    status = "timeout"


class TargetOutOfMemory(TargetError):
    """The target ran out of memory; its process was ended, so as to give that back."""

    status = "out of memory"


class Target(Protocol):
    """Answers requests under a name."""

    name: str

    def ask(self, request: Request) -> Any:
        """Ask the target, and return its answer.

        Raises:
            TargetError: there is no answer.
            Unsupported: the target can't be asked that.
        """
        ...


class ProcessTarget:
    """Runs a target in a process of its own, which starts on first use and again after it died.

    Args:
        name: the target's name, as :func:`subject_of` takes it.
        timeout: the seconds that one request may take, or, after :meth:`start_case`, all requests
            of a case.
        threads: the threads that the framework's kernels may use, if it asks OpenMP.
        spec: the network that it has to be; None for a backend, which builds any.
        weights: the file whose weights it has, if the request gives none.
    """

    def __init__(
        self,
        name: str,
        timeout: float,
        threads: int = 1,
        *,
        spec: DenseNetSpec | None = None,
        weights: Path | None = None,
    ) -> None:
        self.name, self.timeout, self.threads = name, timeout, threads
        self.subject = Subject(name, spec, None if weights is None else str(weights))
        self._folder = tempfile.TemporaryDirectory(prefix="densespec-conformance-")
        self.log = Path(self._folder.name) / "worker.log"
        self._process: Any = None
        self._pipe: Any = None
        self._left: float | None = None
        self._apart: ProcessTarget | None = None
        self._changing = threading.Lock()
        self._interrupted = False
        _open_targets.add(self)

    def __enter__(self) -> ProcessTarget:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
        self._folder.cleanup()

    def start_case(self) -> None:
        """Start a case: from now on, the time limit is for all requests together."""
        self._left = self.timeout

    def describe(self) -> Description:
        """Ask what the target runs on, as its process sees it."""
        answer: Description = self.ask(
            About(NetworkToBuild(self.subject.spec or get("densenet121")))
        )
        return answer

    def ask(self, request: Request) -> Any:
        several = isinstance(request, Train) and request.replicas > 1
        return (self._for_several_devices() if several else self)._ask(request)

    def _for_several_devices(self) -> ProcessTarget:
        """Return a process of its own: frameworks learn of devices before they do anything."""
        if self._apart is None:
            apart = ProcessTarget(self.name, self.timeout, self.threads)
            apart.subject = self.subject
            with self._changing:
                self._apart, apart._interrupted = apart, self._interrupted
        self._apart._left = self._left
        return self._apart

    def _ask(self, request: Request, *, again: bool = False) -> Any:
        self._start()
        start = time.monotonic()
        try:
            self._pipe.send(request)
            if not self._pipe.poll(self.timeout if self._left is None else self._left):
                self.close()
                raise TargetTimeout(f"no answer within {self.timeout:g} s")
            kind, answer = self._pipe.recv()
        except (EOFError, OSError) as error:
            if again or self.log.exists():
                raise self._crash() from error
            self.close()  # the system did not run it, so no target has crashed
            return self._ask(request, again=True)
        if self._left is not None:
            self._left = max(0.0, self._left - (time.monotonic() - start))
        match kind:
            case "answer":
                return answer
            case "unsupported":
                raise Unsupported(shown_text(answer))
            case "out of memory":
                self.close()
                raise TargetOutOfMemory(shown_text(answer))
        raise TargetError(shown_text(answer))

    def close(self) -> None:
        """End the process, and those that it started."""
        if self._apart is not None:
            self._apart.close()
        if self._process is None:
            return
        self._pipe.close()
        self._process.join(1)
        _kill(self._process)
        self._process.join()
        with self._changing:
            self._process = None

    def interrupt(self) -> None:
        """End the process for good, from any thread: whatever is asked of it ends in a crash.

        The thread that asks may be about to start the process, or to close it, at this moment.
        """
        with self._changing:
            self._interrupted = True
            apart, process = self._apart, self._process
        if apart is not None:
            apart.interrupt()
        if process is not None:
            _kill(process)

    def _start(self) -> None:
        if self._process is not None:
            return
        context = multiprocessing.get_context("spawn")
        pipe, theirs = context.Pipe()
        process = context.Process(
            target=serve, args=(self.subject, theirs, str(self.log), self.threads)
        )
        with self._changing:
            if self._interrupted:
                raise TargetCrashed("the run was interrupted")
            process.start()
            self._process, self._pipe = process, pipe
        theirs.close()

    def _crash(self) -> TargetError:
        self._process.join(5)
        code = self._process.exitcode
        self.close()
        lines = [f"its process died with exit code {code}"]
        if code == -signal.SIGKILL:
            lines = ["its process was killed, as systems do when memory is short"]
        with contextlib.suppress(OSError):
            lines += last_lines(self.log, LOG_LINES)
        return TargetCrashed("\n".join(lines))


def _kill(process: Any) -> None:
    """End a process, and those that it started."""
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    if process.is_alive():
        process.kill()


_open_targets: weakref.WeakSet[ProcessTarget] = weakref.WeakSet()


@atexit.register
def _end_targets() -> None:
    """End worker processes: they may have children, so they are no daemons."""
    for target in list(_open_targets):
        target.interrupt()


class LocalTarget:
    """Runs a target in this process: for backends that need no framework, and for debugging."""

    def __init__(
        self, name: str, *, spec: DenseNetSpec | None = None, weights: Path | None = None
    ) -> None:
        self.name = name
        self.subject = Subject(name, spec, None if weights is None else str(weights))

    def ask(self, request: Request) -> Any:
        try:
            return handle(self.subject, request)
        except Unsupported:
            raise
        except Exception as error:
            raise TargetError(f"{type(error).__name__}: {error}") from error
