"""Runs a candidate's process for the one that measures."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from densespec.errors import DensespecError
from densespec.timing.machine import usable_processors

HIDDEN = {"CUDA_VISIBLE_DEVICES": "", "JAX_PLATFORMS": "cpu"}
"""In this environment frameworks find no GPU."""

SHARED = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "TF_FORCE_GPU_ALLOW_GROWTH": "true"}
"""In this environment frameworks take only as much of a GPU's memory as they need."""


class TimingFailed(DensespecError):
    """A candidate can't be measured.

    Attributes:
        missing: Whether the reason is that a package is not installed.
    """

    def __init__(self, message: str, missing: bool = False) -> None:
        super().__init__(message)
        self.missing = missing


class TimingProcess:
    """Runs a candidate in a process of its own.

    Args:
        threads: The number of processors that it may use; None stands for all.
        cpu: Whether GPUs are hidden from it.

    Attributes:
        began: The time at which it was started, by ``time.perf_counter``.
    """

    def __init__(self, *, threads: int | None, cpu: bool) -> None:
        environment = SHARED | os.environ | (HIDDEN if cpu else {})
        if threads is not None:
            environment["OMP_NUM_THREADS"] = str(threads)
        self.began = time.perf_counter()
        with _processors(threads):
            self._process = subprocess.Popen(
                [sys.executable, "-m", "densespec.timing.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment,
                text=True,
                encoding="utf-8",
            )

    def ask(self, do: str, **arguments: Any) -> Any:
        """Ask the process to do something, and give its answer.

        Raises:
            TimingFailed: It can't do it, or has ended.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise TimingFailed(f"its process ended with status {self._process.wait()}")
        said: Mapping[str, Any] = json.loads(line)
        if "error" in said:
            raise TimingFailed(said["error"], said["missing"])
        return said["answer"]

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                pipe and pipe.close()


@contextlib.contextmanager
def _processors(threads: int | None) -> Iterator[None]:
    """Limit processes that start within it to some processors, where that is possible.

    Most frameworks make as many threads as there are processors that they may use.
    """
    usable = usable_processors()
    if threads is None or usable is None:
        yield
        return
    _allow(usable[:threads])
    try:
        yield
    finally:
        _allow(usable)


def _allow(processors: Sequence[int]) -> None:
    os.sched_setaffinity(0, processors)
