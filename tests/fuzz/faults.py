"""Writing files while something goes wrong: kills, disks that are full, sources that are cut off.

Whatever happens, the file that was there stays as it was, or the new one stands there whole, and
nothing else is left once the next file has been written. The same goes for folders.
"""

from __future__ import annotations

import os
import resource
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from densespec.errors import DensespecError
from densespec.network.graph import lower
from densespec.network.initial import initial_weights
from densespec.network.spec import DenseNetSpec
from densespec.weights.checkpoint import write_checkpoint
from densespec.weights.containers import FOLDERS, container_of, open_file, write_file
from tests.containers.samples import content

OPERATIONS = ("write", "fsync", "replace", "rename", "link", "unlink", "chmod", "open")
"""How files are changed; a writer is killed at each call of each that Python makes."""
OF_FOLDERS = ("mkdir", "chmod", "replace")
"""How folders are, whose files nobody finds until the folder has its name."""

TARGETS = (
    *("net.safetensors", "net.pth", "net.npz", "net.h5", "net.weights.h5", "net.msgpack"),
    "net.orbax",
)
OLD = b"the old file"
DONE, REFUSED, RAISED = 0, 3, 4
MOST_OPERATIONS = 200

Content = dict[str, bytes]
"""Every byte of a file, or of the files of a folder."""

Fault = Callable[[], object]
"""What happens in a writer's process before it writes."""


def wrong_endings(folder: Path) -> Iterator[tuple[str, str]]:
    """Try every fault with every kind of file; give what went wrong: the fault and what it left."""
    source = folder / "source.safetensors"
    graph = lower(DenseNetSpec(blocks=(1,), growth_rate=4, classes=3))
    write_checkpoint(source, graph, initial_weights(graph))
    for name in TARGETS:
        target = folder / "out" / name
        target.parent.mkdir()
        whole = _whole(source, target)
        yield from _killed(source, target, whole)
        for size in (0, 1, 1000, max(map(len, whole.values())) - 1):
            ending = _written(source, target, lambda size=size: _full(size))
            yield from _judged(f"{name}, a disk of {size} bytes", target, whole, ending, REFUSED)
        cut = folder / "cut.safetensors"
        for size in (0, 7, 100, source.stat().st_size - 1):
            cut.write_bytes(source.read_bytes()[:size])
            ending = _written(cut, target, lambda: None)
            yield from _judged(f"{name}, a source of {size} bytes", target, whole, ending, REFUSED)
        shutil.rmtree(target.parent)


def _killed(source: Path, target: Path, whole: Content) -> Iterator[tuple[str, str]]:
    for at in range(1, MOST_OPERATIONS):
        operations = OF_FOLDERS if target.is_dir() else OPERATIONS
        ending = _written(source, target, lambda at=at, ops=operations: _kill_at(at, ops))
        yield from _judged(f"{target.name}, killed at operation {at}", target, whole, ending, None)
        if ending == DONE:
            return


def _whole(source: Path, target: Path) -> Content:
    """What is written when nothing goes wrong."""
    assert _written(source, target, lambda: None) == DONE
    return content(target)


def _old(target: Path) -> Content:
    """What was there before, a file or a folder of one file."""
    marker = FOLDERS.get(container_of(target), ".")
    return {marker: OLD}


def _put_old(target: Path) -> None:
    if target.is_dir():
        shutil.rmtree(target)
    for name, old in _old(target).items():
        (target / name).parent.mkdir(exist_ok=True)
        (target / name).write_bytes(old)


def _written(source: Path, target: Path, fault: Fault) -> int:
    """Write in a process of its own; give its exit status, or the negative signal that ended it."""
    _put_old(target)
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        os._exit(_write(source, target, fault))
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def _write(source: Path, target: Path, fault: Fault) -> int:
    try:
        fault()
        with open_file(source) as opened:
            write_file(target, opened.tensors)
    except (DensespecError, OSError):
        return REFUSED
    except BaseException:
        return RAISED
    return DONE


def _judged(
    fault: str, target: Path, whole: Content, ending: int, expected: int | None
) -> Iterator[tuple[str, str]]:
    if expected not in (None, ending):
        yield fault, f"it ended with {ending}, but should with {expected}"
    if ending < 0:
        _sweep(target)
    there = content(target)
    if there not in ((whole,) if ending == DONE else (whole, _old(target))):
        yield fault, f"{sorted(there)} is there, which is neither the old file nor the new"
    left = sorted(path.name for path in target.parent.iterdir() if path != target)
    if left:
        yield fault, f"it left {left}"


def _sweep(target: Path) -> None:
    """Write another file, which sweeps what a process that was killed has left."""
    beside = target.with_name("beside.npz")
    write_file(beside, {})
    beside.unlink()


def _full(size: int) -> None:
    """Let files be no longer than this, as on a disk that is full."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def _kill_at(at: int, operations: tuple[str, ...]) -> None:
    """End this process by SIGKILL at one of the next operations, a write half done."""
    count = 0

    def wrapped(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def operation(*arguments: Any, **options: Any) -> Any:
            nonlocal count
            count += 1
            if count == at:
                if name == "write":
                    call(arguments[0], arguments[1][: len(arguments[1]) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments, **options)

        return operation

    for name in operations:
        setattr(os, name, wrapped(name, getattr(os, name)))
