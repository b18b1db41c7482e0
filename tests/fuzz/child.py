"""Reading one file in a process of its own, within limits of time and memory, and being watched."""

from __future__ import annotations

import importlib
import os
import pickle
import resource
import signal
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from densespec import published
from densespec.backends import REFERENCE
from densespec.building import read_weights
from densespec.errors import DensespecError
from densespec.hub import from_pretrained
from densespec.installed import is_installed
from densespec.weights.containers import is_folder_of_weights, open_file, other_packages
from densespec.weights.opening import open_weights
from tests.fuzz.endings import (
    ACTED,
    AS_IT_WAS,
    DIED,
    LARGE,
    OTHERWISE,
    RAISED,
    REFUSED,
    RENAMED,
    SLOW,
    UNCLEAR,
    Ending,
)

SECONDS = 5.0
"""Of the processor, which a busy machine does not stretch."""
BACKSTOP_SECONDS = 20
LONGEST = 5_000
"""The most characters that are said of a file that is refused."""
MEMORY = 200 * 2**20
TIMES_THE_FILE = 3
BACKSTOP_MEMORY = 6 * 2**30

FORBIDDEN = (
    *("os.system", "os.exec", "os.posix_spawn", "os.fork", "os.forkpty", "subprocess.Popen"),
    *("ctypes.dlopen", "socket.connect", "os.remove", "os.rename", "os.mkdir"),
)
"""Audit events of what a reader of weight files has no reason to do."""


def prepare() -> None:
    """Do what a process does once, lest it is taken for the doing of a file that it reads."""
    published.load_all(other_packages.GROUP, "container")
    importlib.import_module("msgpack")
    if is_installed("tensorstore"):
        importlib.import_module("tensorstore")
    tempfile.gettempdir()


def ending_of(path: Path, arrays: Mapping[str, np.ndarray], *, is_network: bool = False) -> Ending:
    """Read a file in a forked process and say how that ended.

    Args:
        arrays: what the undamaged file holds; empty for a file that never was a right one.
        is_network: whether it is opened as a network, and not for its arrays alone.
    """
    sys.stdout.flush()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        _answer(writer, path, arrays, is_network)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        answer = pipe.read()
    _, status, used = os.wait4(child, 0)
    seconds = used.ru_utime + used.ru_stime
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGXCPU:
        return Ending(SLOW, f"more than {BACKSTOP_SECONDS} s")
    if not answer:
        return Ending(DIED, f"wait status {status}")
    name, said, grown = pickle.loads(answer)
    allowed = MEMORY + TIMES_THE_FILE * _size(path)
    if seconds > SECONDS:
        return Ending(SLOW, f"{seconds:.1f} s; {said}")
    if grown > allowed:
        return Ending(LARGE, f"{grown / 2**20:.0f} MiB; {said}")
    return Ending(name, said)


def _answer(writer: int, path: Path, arrays: Mapping[str, np.ndarray], is_network: bool) -> None:
    """The child's whole life: it never returns."""
    resource.setrlimit(resource.RLIMIT_CPU, (BACKSTOP_SECONDS, BACKSTOP_SECONDS + 1))
    resource.setrlimit(resource.RLIMIT_AS, (BACKSTOP_MEMORY, BACKSTOP_MEMORY))
    acts: list[str] = []
    before = _resident()
    sys.addaudithook(lambda event, given: acts.append(event) if _acts(event, given) else None)
    name, said = _read(path, arrays, is_network)
    if acts:
        name, said = ACTED, ", ".join(sorted(set(acts)))
    with os.fdopen(writer, "wb") as pipe:
        pickle.dump((name, said[:500], _resident() - before), pipe)
    os._exit(0)


def _acts(event: str, given: tuple[Any, ...]) -> bool:
    """Whether an audit event is forbidden; modules that are imported late run code from files."""
    if event == "exec":
        return str(getattr(given[0], "co_filename", "<")).startswith("<string")
    return event in FORBIDDEN


def _read(path: Path, arrays: Mapping[str, np.ndarray], is_network: bool) -> tuple[str, str]:
    try:
        found = contents(path, is_network=is_network)
    except DensespecError as error:
        said = str(error)
        named = said.startswith((f"{path}: ", f"{path}/"))
        clear = named and said.isprintable() and len(said) < LONGEST
        return (REFUSED if clear else UNCLEAR), said
    except BaseException as error:
        return RAISED, f"{type(error).__name__}: {error}"
    if _values(found) != _values(arrays):
        return OTHERWISE, ""
    return (AS_IT_WAS if _named(found) == _named(arrays) else RENAMED), ""


def contents(path: Path, *, is_network: bool) -> dict[str, np.ndarray]:
    """The arrays of a file, or those of the network in it, or in a folder, by canonical name."""
    if path.is_dir() and not is_folder_of_weights(path):
        return read_weights(from_pretrained(path, backend=REFERENCE))
    if is_network:
        with open_weights(path) as found:
            return found.arrays()
    with open_file(path) as opened:
        return {name: tensor.read() for name, tensor in opened.tensors.items()}


def _named(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    return {name: (array.shape, array.tobytes()) for name, array in arrays.items()}


def _values(arrays: Mapping[str, np.ndarray]) -> list[Any]:
    """What arrays hold, whatever their names are: zip archives have no checksums of names."""
    return sorted(_named(arrays).values())


def _size(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def _resident() -> int:
    """Most bytes of memory that this process has used."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
