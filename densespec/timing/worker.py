"""Runs the process of one target: ``python -m densespec.timing.worker``.

It reads one line of JSON for each request from its standard input, and answers with one line. What
frameworks print goes to the standard error output.
"""

from __future__ import annotations

import json
import os
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from densespec.errors import DensespecError, PackageMissing
from densespec.timing.programs import TimedProgram, export_to, program_of

ENOUGH = 0.1
"""A turn times no further call after this many seconds."""

MOST_CALLS = 200
"""Calls that are timed in a turn at most."""

SETTLING = 1
"""Calls before those of a turn that are timed: others have used the caches since."""


def main() -> None:
    """Answer until the standard input ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    warnings.simplefilter("ignore")
    worker = _Worker()
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            answer = {"answer": getattr(worker, asked.pop("do"))(**asked)}
        except Exception as error:
            answer = {"error": _text_of(error), "missing": isinstance(error, PackageMissing)}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _text_of(error: Exception) -> str:
    """Return the message of an error; its first line where it is not one of densespec's."""
    if isinstance(error, DensespecError):
        return str(error)
    first = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {first}"


@dataclass
class _Worker:
    """Answers what its process is asked.

    Attributes:
        program: The target, once it has started.
        call: The function that runs it once.
    """

    program: TimedProgram | None = None
    call: Callable[[], object] = lambda: None

    def start(self, task: Mapping[str, Any], batch: int, size: list[int] | None) -> dict[str, Any]:
        """Build or load the target, and answer once."""
        self.program = program_of(task)
        self.call = self.program.caller(batch, size)
        self.call()
        return {"device": self.program.device_name, **self.memory()}

    def export(self, task: Mapping[str, Any]) -> list[int]:
        """Export the network, which another process is to run, and give its usual size."""
        return list(export_to(task))

    def prepare(self, batch: int, size: list[int] | None, warm_up: int) -> dict[str, Any]:
        """Run batches of a shape until the target is warm."""
        assert self.program is not None
        self.call = self.program.caller(batch, size)
        for _ in range(warm_up):
            self.call()
        return {"shape": list(self.program.shape_of(batch, size))}

    def turn(self) -> list[float]:
        """Return the seconds of each of some calls."""
        for _ in range(SETTLING):
            self.call()
        taken: list[float] = []
        end = time.perf_counter() + ENOUGH
        while not taken or (len(taken) < MOST_CALLS and time.perf_counter() < end):
            start = time.perf_counter()
            self.call()
            taken.append(time.perf_counter() - start)
        return taken

    def memory(self) -> dict[str, int | None]:
        """Return the bytes that the process and its device have needed at most."""
        device = self.program and self.program.device
        return {
            "memory": _peak_memory(),
            "device_memory": device.peak_memory() if device else None,
        }

    def device_speed(self) -> float | None:
        """Return the GFLOP/s of products of float32 matrices on the device; None for a CPU's."""
        return self.program.device_speed() if self.program else None


def _peak_memory() -> int | None:
    """Return the most bytes of memory that this process has had; None if no system tells."""
    status = Path("/proc/self/status")
    if status.exists():  # where getrusage counts what the parent had as well
        lines = status.read_text(encoding="utf-8").splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # in bytes on macOS


if __name__ == "__main__":
    main()
