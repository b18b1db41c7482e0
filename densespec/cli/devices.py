"""Asks a backend's framework in a process of its own which devices it finds.

Frameworks take seconds to start, print messages, and may hang or crash if a driver is broken. Keras
runs on one engine in a process. ``python -m densespec.cli.devices BACKEND`` is that process.
"""

from __future__ import annotations

import json
import subprocess
import sys

from densespec.backends import DeviceBackend, get_backend
from densespec.errors import DensespecError, bare

LONGEST_WAIT = 120
"""A framework has this many seconds to start and to say what it finds."""


def devices_of(backend: str, *, seconds: float = LONGEST_WAIT) -> list[str] | str:
    """Return the names of a backend's devices, or a sentence that says why there are none.

    Args:
        backend: The name of the backend.
        seconds: How long its framework may take.
    """
    command = [sys.executable, "-m", __name__, backend]
    try:
        asked = subprocess.run(command, capture_output=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        return f"no answer within {seconds:g} s"
    said = asked.stdout if asked.returncode == 0 else asked.stderr
    last = (said.decode(errors="replace").strip().splitlines() or [""])[-1]
    if asked.returncode != 0:
        return f"the process ended with status {asked.returncode}: {bare(last)}"
    answer: list[str] | str = json.loads(last)
    return answer


def _answer(name: str) -> list[str] | str:
    try:
        backend = get_backend(name)
        if not isinstance(backend, DeviceBackend):
            return "the backend does not say"
        return list(backend.devices())
    except DensespecError as error:
        return str(error)


if __name__ == "__main__":
    print(f"\n{json.dumps(_answer(sys.argv[1]))}")
