"""One process at a time in a folder.

The lock is the operating system's on an open file, so that it goes with its process, however that
ends; the file says which process it is, for whoever is refused.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from densespec.training.errors import FolderInUse

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of a folder, which ``path`` is the file of.

    Raises:
        FolderInUse: another process holds it; says which.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        _take(handle, path)
        os.ftruncate(handle, 0)
        os.write(handle, f"{os.getpid()} on {socket.gethostname()}\n".encode())
        yield
        os.ftruncate(handle, 0)
    finally:
        os.close(handle)


def _take(handle: int, path: Path) -> None:
    if fcntl is None:
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(handle, 200, 0).decode(errors="replace").strip() or "another one"
        raise FolderInUse(
            f"{path.parent} is being trained into by process {holder}: wait for it, stop it, or "
            "give another folder"
        ) from None


def holder(path: Path) -> int | None:
    """The process of this machine that holds a lock, by what the file says; None if none does."""
    try:
        number, _, host = path.read_text().strip().partition(" on ")
    except OSError:
        return None
    return int(number) if number.isdecimal() and host == socket.gethostname() else None
