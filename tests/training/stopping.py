"""Train until a step, in a process of its own: the program of other tests."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

from densespec.training.progress import Silent
from tests.training.support import RICH, run


class StopsAt(Silent):
    """Sends this process a signal after a step."""

    def __init__(self, step: int, number: int = signal.SIGINT) -> None:
        self._step, self._number = step, number

    def step(self, line: Any) -> None:
        if line.step == self._step:
            os.kill(os.getpid(), self._number)


if __name__ == "__main__":
    folder, backend, step = sys.argv[1:]
    run(Path(folder), recipe=RICH, backend=backend, progress=StopsAt(int(step)))
