"""Writes files whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

UNFINISHED = re.compile(r"\..+\.densespec-([0-9a-f]{8})-(\d+)-.+", re.DOTALL)
"""Matches the names of unfinished files, which name the machine and the process that write it."""

REPLACED = "replaced"
"""A folder that is being replaced lies under this name in an unfinished one."""

LONGEST = 40
"""A temporary name keeps this many characters of the file's name: names have at most 255 bytes."""


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Provide a temporary path beside ``path``: it replaces it on success and vanishes on failure.

    As with a plain write, a link stays a link, and a file that is replaced keeps its permissions.
    Unfinished files that killed processes have left beside it are removed.

    Raises:
        FileNotFoundError: the folder does not exist.
        OSError: it can't be written, or is there and not a file; the message names ``path``.
    """
    target = Path(os.path.realpath(path))
    if not target.parent.is_dir():
        raise FileNotFoundError(f"no folder {target.parent} to write {target.name} into")
    if target.exists() and not target.is_file():
        code = errno.EISDIR if target.is_dir() else errno.EEXIST
        what = "a folder" if target.is_dir() else "a device or a pipe"
        raise OSError(code, f"{what} is there, and no file", str(path))
    temporary = target.parent / unfinished_name(target)
    with _named(path, temporary):
        sweep(target.parent)
        temporary.touch(mode=0o600, exist_ok=False)
        try:
            yield temporary
            temporary.chmod(_permissions(target))
            _write_through(temporary)
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def folder_beside(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Provide a temporary folder beside ``path`` that vanishes at the end.

    Raises:
        FileNotFoundError: the folder that ``path`` is in does not exist.
    """
    target = Path(os.path.realpath(path))
    if not target.parent.is_dir():
        raise FileNotFoundError(f"no folder {target.parent} to write {target.name} into")
    folder = target.parent / unfinished_name(target)
    with _named(path, folder):
        sweep(target.parent)
        folder.mkdir(mode=0o700)
        try:
            yield folder
        finally:
            shutil.rmtree(folder)


@contextlib.contextmanager
def atomic_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Provide a temporary folder: it replaces ``path`` on success and vanishes on failure.

    Whatever is at ``path`` is replaced, see :func:`is_replaceable`; a folder's permissions are
    kept, and a link to it stays a link. Between the two renames that this takes, nothing is at
    ``path``: of a process that is killed there, the next :func:`sweep` puts the older folder back.

    Raises:
        FileNotFoundError: the folder that ``path`` is in does not exist.
    """
    from concurrent.futures import ThreadPoolExecutor

    target = Path(os.path.realpath(path))
    with folder_beside(path) as outer:
        temporary, older = outer / "new", outer / REPLACED / target.name
        temporary.mkdir()
        yield temporary
        with ThreadPoolExecutor() as together:  # so that the disk need not be waited for each time
            list(together.map(_write_through, filter(Path.is_file, temporary.rglob("*"))))
        if target.exists():
            shutil.copymode(target, temporary)
            older.parent.mkdir()
            target.replace(older)
        temporary.replace(target)


def is_replaceable(path: Path, marker: str) -> bool:
    """Say whether a folder may take a path's place: one that has this file, an empty one, none."""
    if not path.is_dir():
        return not path.exists()
    return (path / marker).exists() or not any(path.iterdir())


def _write_through(path: Path) -> None:
    """Have a file on the disk itself, so that it is whole even if the machine stops."""
    with path.open("rb") as written:
        os.fsync(written.fileno())


def sweep(folder: Path) -> None:
    """Remove what processes of this machine left unfinished in a folder when they were killed."""
    with contextlib.suppress(OSError):  # no leave to look
        for path in [path for path in folder.iterdir() if _is_left(path.name)]:
            with contextlib.suppress(OSError):  # of another user, or swept by another process
                _put_back(path / REPLACED, folder)
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def _put_back(replaced: Path, folder: Path) -> None:
    """Put a folder back whose place nothing has taken yet."""
    for older in replaced.iterdir() if replaced.is_dir() else ():
        if not (folder / older.name).exists():
            older.replace(folder / older.name)


def unfinished_name(target: Path) -> str:
    """Return a new name for what will take the place of ``target``."""
    unique = secrets.token_hex(4)
    return f".{target.name[:LONGEST]}.densespec-{_place()}-{os.getpid()}-{unique}.tmp"


def _is_left(name: str) -> bool:
    found = UNFINISHED.fullmatch(name)
    return found is not None and found[1] == _place() and not _runs(int(found[2]))


def _runs(process: int) -> bool:
    if os.name != "posix":  # where there is no asking without ending it
        return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True
    return True


@functools.lru_cache(maxsize=1)
def _place() -> str:
    """Name this machine, or this container of a machine: each counts its own processes."""
    import socket

    place = socket.gethostname()
    with contextlib.suppress(OSError):
        place += f" {Path('/proc/self/ns/pid').stat().st_ino}"
    return hashlib.blake2b(place.encode(), digest_size=4).hexdigest()


@contextlib.contextmanager
def _named(path: str | os.PathLike[str], temporary: Path) -> Iterator[None]:
    """Let errors name the path that the user named, rather than the one that is written."""
    try:
        yield
    except OSError as error:
        if str(error.filename).startswith(str(temporary)):
            error.filename, error.filename2 = os.fspath(path), None
        error.args = tuple(_without(str(temporary), path, argument) for argument in error.args)
        raise


def _without(temporary: str, path: str | os.PathLike[str], argument: object) -> object:
    return argument.replace(temporary, os.fspath(path)) if isinstance(argument, str) else argument


def _permissions(target: Path) -> int:
    """Return the mode of the file that is there, or else the mode of a new file."""
    with contextlib.suppress(FileNotFoundError):
        return stat.S_IMODE(target.stat().st_mode)
    umask = os.umask(0)
    os.umask(umask)
    return 0o666 & ~umask
