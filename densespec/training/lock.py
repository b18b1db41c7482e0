"""Lets one process at a time into a folder.

The operating system locks an open file, so the lock ends with its process, however that ends. The
file says which process it is, for those who are refused. Windows and some network file systems have
no such lock: a note tells the user.
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
        FolderInUse: another process holds it; the message says which.
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
    """Read what the file says of the last holder of the lock; empty if it let the lock go."""
    return path.read_text(errors="replace").strip()


def holder(path: Path) -> int | None:
    """Find the process of this machine that holds a lock, by what the file says; None for none."""
    try:
        number, _, host = _said_in(path).partition(" on ")
    except OSError:
        return None
    return int(number) if number.isdecimal() and host == socket.gethostname() else None
