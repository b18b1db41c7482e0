"""Zip archives that are read without trusting what they say of themselves. Nothing is extracted."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import PurePosixPath

from densespec.errors import shown
from densespec.weights.containers.base import MAX_TENSORS, Opened, Refused, plausible

MOST_UNPACKED = 16 * 2**30
"""Bytes of a compressed member."""


def open_archive(opened: Opened) -> zipfile.ZipFile:
    """The archive at the path of ``opened``, closed with it.

    Raises:
        Refused: its members are traps: repeated, outside the archive, encrypted, overlapping
            or far larger than what is stored.
    """
    archive = opened.resources.enter_context(zipfile.ZipFile(opened.path))
    for problem in _problems(archive.infolist(), opened.size):
        raise Refused(f"{problem}; the archive is damaged or a trap")
    return archive


def _problems(members: list[zipfile.ZipInfo], size: int) -> Iterator[str]:
    names = [member.filename for member in members]
    if len(set(names)) != len(names):
        yield "a member is there twice"
    if len(names) > MAX_TENSORS:
        yield f"has {len(names)} members, but should have at most {MAX_TENSORS}"
    if sum(member.compress_size for member in members) > size:
        yield "its members overlap"
    for member in members:
        if leaves_archive(member.filename):
            yield f"{shown(member.filename)} points out of the archive"
        if member.flag_bits & 1:
            yield f"{shown(member.filename)} is encrypted"
        packed = member.compress_type != zipfile.ZIP_STORED
        most = MOST_UNPACKED if packed else size
        if member.file_size > most or not plausible(member.file_size, member.compress_size):
            yield (
                f"{shown(member.filename)} claims {member.file_size} bytes, but only "
                f"{member.compress_size} are stored"
            )


def leaves_archive(name: str) -> bool:
    """Whether a member's name points out of the archive."""
    path = PurePosixPath(name.replace("\\", "/"))
    return path.is_absolute() or ".." in path.parts


def stored(archive: zipfile.ZipFile) -> bool:
    """Whether no member is compressed."""
    return all(member.compress_type == zipfile.ZIP_STORED for member in archive.infolist())
