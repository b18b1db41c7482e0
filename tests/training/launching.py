"""A backend of nobody's, whose processes a launcher of its own starts: the program of other tests.

The launcher starts the first of the processes only, which takes the whole of every batch.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from typing import NoReturn

from densespec.backends import ProcessGroup
from densespec.reference.backend import NumpyBackend
from densespec.training.processes import Alone

TOLD = "TESTS_LAUNCHED"


class Launchable(NumpyBackend):
    parallel_trainer = None  # type: ignore[assignment]

    def launcher(self, *, devices: int, nodes: int, endpoint: str | None) -> Sequence[str]:
        return [sys.executable, "-m", "tests.training.launching", str(devices * nodes)]

    def launched(self) -> tuple[int, int] | None:
        return (0, int(os.environ[TOLD])) if TOLD in os.environ else None

    def join(self) -> ProcessGroup:
        return Alone(*(self.launched() or (0, 1)))

    def leave(self) -> NoReturn:
        print("left", flush=True)
        raise SystemExit(0)


class OneDevice(NumpyBackend):
    """A backend that neither launches nor trains on several devices."""

    parallel_trainer = None  # type: ignore[assignment]


BACKEND, ONE_DEVICE = Launchable(), OneDevice()

if __name__ == "__main__":
    count, *arguments = sys.argv[1:]
    done = subprocess.run([sys.executable, *arguments], env=os.environ | {TOLD: count}, check=False)
    sys.exit(done.returncode)
