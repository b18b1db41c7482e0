"""Opens files one after another, each in a process with limits, and prints how that ended.

    python hostile_side.py FILE...

Every line is JSON: how it ended, what was said, the seconds of the processor, and the bytes of
memory that it took beyond what the process had before.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from pathlib import Path

from densespec.errors import WeightsError
from densespec.weights.containers import open_file

SECONDS = 60
"""Of the processor, until a process is ended: many times what an answer takes."""

BYTES = 2 * 2**30
"""Of addresses beyond those of the process when it starts."""


def peak(field: str = "VmHWM") -> int:
    """Bytes of memory by their name in the system's account of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (size,) = (line.split()[1] for line in lines if line.startswith(f"{field}:"))
    return int(size) * 1024


def tried(path: Path) -> dict[str, object]:
    """What became of opening a file, and of reading every array in it."""
    before, start = peak(), time.process_time()
    try:
        with open_file(path) as opened:
            for tensor in opened.tensors.values():
                tensor.read()
        ending, said = "read", ", ".join(list(opened.tensors)[:3])
    except WeightsError as error:
        ending, said = "refused", str(error)
    except BaseException as error:
        ending, said = "failed", f"{type(error).__name__}: {error}"
    return {
        "ending": ending,
        "said": said[:1000],
        "seconds": round(time.process_time() - start, 2),
        "bytes": peak() - before,
    }


def limit() -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    addresses = peak("VmSize") + BYTES
    resource.setrlimit(resource.RLIMIT_AS, (addresses, addresses))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def main() -> None:
    for name in sys.argv[1:]:
        sys.stdout.flush()
        process = os.fork()
        if not process:
            limit()
            print(json.dumps(tried(Path(name))), flush=True)
            os._exit(0)
        _, status = os.waitpid(process, 0)
        if status:
            print(json.dumps({"ending": f"killed ({status})"}), flush=True)


if __name__ == "__main__":
    main()
