"""Writing files while something goes wrong: kills, disks that are full, sources that are cut off.

Whatever happens, the file that was there stays as it was, or the new one stands there whole, and
nothing else is left once the next file has been written.
"""

from __future__ import annotations

import os
import resource
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
from densespec.weights.containers import open_file, write_file

OPERATIONS = ("write", "fsync", "replace", "rename", "link", "unlink", "chmod", "open")
"""How files are changed; a writer is killed at each call of each that Python makes."""

TARGETS = ("net.safetensors", "net.pth", "net.npz", "net.h5", "net.weights.h5", "net.msgpack")
OLD = b"the old file"
DONE, REFUSED, RAISED = 0, 3, 4
MOST_OPERATIONS = 200

Fault = Callable[[], object]
"""What happens in a writer's process before it writes."""


def wrong_endings(folder: Path) -> Iterator[tuple[str, str]]:
    """Try every fault with every kind of file; give what went wrong: the fault and what it left."""
    source = folder / "source.safetensors"
    graph = lower(DenseNetSpec(blocks=(1, 1), growth_rate=4, classes=3))
    write_checkpoint(source, graph, initial_weights(graph))
    for name in TARGETS:
        target = folder / "out" / name
        target.parent.mkdir()
        whole = _whole(source, target)
        yield from _killed(source, target, whole)
        for size in (0, 1, 1000, len(whole) - 1):
            ending = _written(source, target, lambda size=size: _full(size))
            yield from _judged(f"{name}, a disk of {size} bytes", target, whole, ending, REFUSED)
        cut = folder / "cut.safetensors"
        for size in (0, 7, 100, source.stat().st_size - 1):
            cut.write_bytes(source.read_bytes()[:size])
            ending = _written(cut, target, lambda: None)
            yield from _judged(f"{name}, a source of {size} bytes", target, whole, ending, REFUSED)
        target.unlink()
        target.parent.rmdir()


def _killed(source: Path, target: Path, whole: bytes) -> Iterator[tuple[str, str]]:
    for at in range(1, MOST_OPERATIONS):
        ending = _written(source, target, lambda at=at: _kill_at(at))
        yield from _judged(f"{target.name}, killed at operation {at}", target, whole, ending, None)
        if ending == DONE:
            return


def _whole(source: Path, target: Path) -> bytes:
    """What is written when nothing goes wrong."""
    assert _written(source, target, lambda: None) == DONE
    return target.read_bytes()


def _written(source: Path, target: Path, fault: Fault) -> int:
    """Write in a process of its own; give its exit status, or the negative signal that ended it."""
    target.write_bytes(OLD)
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
    fault: str, target: Path, whole: bytes, ending: int, expected: int | None
) -> Iterator[tuple[str, str]]:
    if expected not in (None, ending):
        yield fault, f"it ended with {ending}, but should with {expected}"
    content = target.read_bytes()
    if content != (whole if ending == DONE else OLD) and content != whole:
        yield fault, f"{len(content)} bytes are there, which are neither the old file nor the new"
    killed = ending < 0
    if killed:
        _sweep(target)
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


def _kill_at(at: int) -> None:
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

    for name in OPERATIONS:
        setattr(os, name, wrapped(name, getattr(os, name)))
