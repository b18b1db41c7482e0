"""A backend under test, seen from the suite: a process that may answer, fail, crash or hang."""

from __future__ import annotations

import contextlib
import multiprocessing
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, Protocol

from densespec_conformance.requests import Request
from densespec_conformance.worker import handle, serve

LOG_LINES = 15
"""How much of a dead worker's output an error quotes."""


class TargetError(Exception):
    """The target could not answer; the message says why."""

    status: Literal["error", "crashed", "timeout"] = "error"


class TargetCrashed(TargetError):
    """The target's process died."""

    status = "crashed"


class TargetTimeout(TargetError):
    """The target did not answer in time; its process was ended."""

    status = "timeout"


class Target(Protocol):
    """Whatever answers requests under a name."""

    name: str

    def ask(self, request: Request) -> Any:
        """The answer.

        Raises:
            TargetError: there is none.
        """
        ...


class ProcessTarget:
    """A backend in a process of its own, started on first use and again after it died.

    Args:
        name: of the backend, as ``densespec.get_backend`` takes it.
        timeout: seconds that one request may take.
        threads: that the framework's kernels may use, where it asks OpenMP.
    """

    def __init__(self, name: str, timeout: float, threads: int = 1) -> None:
        self.name, self.timeout, self.threads = name, timeout, threads
        self._folder = tempfile.TemporaryDirectory(prefix="densespec-conformance-")
        self._log = Path(self._folder.name) / "worker.log"
        self._process: Any = None
        self._pipe: Any = None

    def __enter__(self) -> ProcessTarget:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
        self._folder.cleanup()

    def ask(self, request: Request) -> Any:
        self._start()
        try:
            self._pipe.send(request)
            if not self._pipe.poll(self.timeout):
                self.close()
                raise TargetTimeout(f"no answer within {self.timeout:g} s")
            kind, answer = self._pipe.recv()
        except (EOFError, OSError) as error:
            raise self._crash() from error
        if kind == "error":
            raise TargetError(answer)
        return answer

    def close(self) -> None:
        """End the process."""
        if self._process is None:
            return
        self._pipe.close()
        self._process.join(1)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._process = None

    def _start(self) -> None:
        if self._process is not None:
            return
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=serve, args=(self.name, theirs, str(self._log), self.threads), daemon=True
        )
        self._process.start()
        theirs.close()

    def _crash(self) -> TargetCrashed:
        self._process.join(5)
        code = self._process.exitcode
        self.close()
        with contextlib.suppress(OSError):
            lines = self._log.read_text(errors="replace").splitlines()[-LOG_LINES:]
            return TargetCrashed("\n".join([f"its process died with exit code {code}", *lines]))
        return TargetCrashed(f"its process died with exit code {code}")


class LocalTarget:
    """A backend in this process: for backends that need no framework, and for debugging."""

    def __init__(self, name: str) -> None:
        self.name = name

    def ask(self, request: Request) -> Any:
        try:
            return handle(self.name, request)
        except Exception as error:
            raise TargetError(f"{type(error).__name__}: {error}") from error


class Reference:
    """The numpy reference as what every target is compared with; each request is computed once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._answers: dict[str, Any] = {}

    def answer(self, key: str, request: Callable[[], Request]) -> Any:
        """The answer to a request, which is made when ``key`` is asked for the first time."""
        with self._lock:
            if key not in self._answers:
                self._answers[key] = handle("numpy", request())
            return self._answers[key]
