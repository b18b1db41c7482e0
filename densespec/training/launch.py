"""Starts a launcher that starts a run's processes, and stops the run through it.

A launcher answers a signal by ending its processes. So the terminal's signals do not reach it. A
wish to stop goes to the process that holds the folder, which agrees with the others and saves.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from densespec.training.folder import LOCK
from densespec.training.lock import holder
from densespec.training.stop import SIGNALS


def launch(command: Sequence[str], folder: Path, devices: int) -> int:
    """Run a launcher, and return its exit status, or the one of a signal that stopped the run.

    Args:
        command: starts the launcher.
        folder: the folder of the run.
        devices: processes on this machine, which share its cores.
    """
    share = max(1, (os.cpu_count() or 1) // devices)
    environment = {"OMP_NUM_THREADS": str(share)} | os.environ
    child = subprocess.Popen(command, env=environment, start_new_session=True)
    came: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        came.append(number)
        process = holder(folder / LOCK)
        if process is None or len(came) > 1:
            child.terminate()
        else:
            os.kill(process, number)

    before = {number: signal.signal(number, stop) for number in SIGNALS}
    try:
        status = child.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return 128 + came[0] if came else status
