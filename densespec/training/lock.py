"""One process at a time in a folder.

The lock is the operating system's on an open file, so that it goes with its process, however that
ends; the file says which process it is, for whoever is refused. Windows has no such lock, and some
network file systems have none: there the user is told.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

from densespec.training.errors import FolderInUse

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


@contextlib.contextmanager
def locked(path: Path, note: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock of a folder, which ``path`` is the file of.

    Args:
        note: is told where there can be no lock.

    Raises:
        FolderInUse: another process holds it; says which.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        _take(handle, path, note)
        os.ftruncate(handle, 0)
        os.write(handle, f"{os.getpid()} on {socket.gethostname()}\n".encode())
        yield
        os.ftruncate(handle, 0)
    finally:
        os.close(handle)


def _take(handle: int, path: Path, note: Callable[[str], None]) -> None:
    try:
        _flock(handle)
    except BlockingIOError:
        raise FolderInUse(
            f"{path.parent} is being trained into by process {_said_in(path) or 'another one'}: "
            "wait for it, stop it, or give another folder"
        ) from None
    except OSError as error:
        last = _said_in(path)
        note(
            f"{path.parent} can't be locked ({error.strerror}): make sure that no other process "
            "trains into it" + (f"; the last one was process {last}" if last else "")
        )


def _flock(handle: int) -> None:
    if fcntl is None:
        raise OSError(errno.ENOSYS, "this system has no locks that go with their process")
    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _said_in(path: Path) -> str:
    """What the file says of who held the lock last; empty if that process let it go."""
    return path.read_text(errors="replace").strip()


def holder(path: Path) -> int | None:
    """The process of this machine that holds a lock, by what the file says; None if none does."""
    try:
        number, _, host = _said_in(path).partition(" on ")
    except OSError:
        return None
    return int(number) if number.isdecimal() and host == socket.gethostname() else None
