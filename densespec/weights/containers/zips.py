"""Reads zip archives without trusting what they say of themselves. It extracts nothing.

Members that are stored without compression are read in place. Other members are unpacked to disk
and mapped. Everything that is read is compared with its checksum once.
"""

from __future__ import annotations

import shutil
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import numpy as np

from densespec.errors import shown
from densespec.weights.containers.base import (
    MAX_TENSORS,
    BytesOfFile,
    Damaged,
    Opened,
    Refused,
    StoredBytes,
    mapped,
    plausible,
)

MOST_UNPACKED = 16 * 2**30
"""A compressed member may have at most this many bytes."""

LARGEST_DIRECTORY = 8 * 2**20
"""An archive's list of members may have at most this many bytes, and takes a hundred times more."""

LOCAL_HEADER = struct.Struct("<4sHHHHHIIIHH")
LOCATOR = 20
LARGE_END = 56 + LOCATOR
"""Large archives have this many bytes between the directory and its usual end."""

LONGEST_END = LARGE_END + 22 + 2**16 - 1
"""At most this many bytes follow the directory: its end, in two spellings, and a comment."""

UTF8 = 0x800
"""Members whose names are in UTF-8 have this flag."""


class Archive:
    """Represents an archive of named members.

    Attributes:
        members: the entries of its directory, by the names of members.
        comment: bytes that belong to the archive as a whole.
    """

    def __init__(self, opened: Opened) -> None:
        """Open the archive at the path of ``opened``, and close it with that.

        Raises:
            Refused: its members are traps: repeated, outside the archive, encrypted, overlapping
                or far larger than what is stored.
            Damaged: its directory contradicts itself.
        """
        self._file = BytesOfFile(opened.path)
        self._resources = opened.resources
        self._zip = opened.resources.enter_context(_opened(opened.path, self._file))
        self.members = {member.filename: member for member in self._zip.infolist()}
        self.comment = self._zip.comment
        self._checked: dict[str, np.ndarray] = {}
        for problem in _problems(self._zip.infolist(), opened.size):
            raise Refused(f"{problem}; the archive is damaged or a trap")
        self._starts = {name: self._start(member) for name, member in self.members.items()}

    def _start(self, member: zipfile.ZipInfo) -> int:
        """Find where a member's content starts.

        Raises:
            Damaged: the archive's directory has another name for it, or it is somewhere else.
        """
        at = member.header_offset
        header = self._file.take(at, LOCAL_HEADER.size)
        if len(header) < LOCAL_HEADER.size:
            header = bytes(LOCAL_HEADER.size)
        signature, *_, name_size, extra_size = LOCAL_HEADER.unpack(header)
        name_at = at + LOCAL_HEADER.size
        spelt = member.orig_filename.encode("utf-8" if member.flag_bits & UTF8 else "cp437")
        if signature != b"PK\3\4" or self._file.take(name_at, name_size) != spelt:
            raise Damaged(f"{shown(member.filename)} is not where the archive's directory says")
        return name_at + name_size + extra_size

    def head(self, name: str, size: int) -> bytes:
        """Read the first bytes of a member. They are not compared with its checksum."""
        with self._zip.open(name) as file:
            return file.read(size)

    def content(self, name: str) -> np.ndarray:
        """Return the bytes of a member, and compare it with its checksum.

        Raises:
            Damaged: there is no such member, or it is not what its checksum says.
        """
        if name not in self._checked:
            member = self.members.get(name)
            if member is None:
                raise Damaged(f"the archive has no member {shown(name)}")
            packed = member.compress_type != zipfile.ZIP_STORED
            self._checked[name] = self._unpacked(member) if packed else self._stored(member)
        return self._checked[name]

    def _stored(self, member: zipfile.ZipInfo) -> np.ndarray:
        start = self._starts[member.filename]
        content = self._file.part(start, member.file_size)
        if zlib.crc32(content.data) != member.CRC:
            raise Damaged(f"the checksum of {shown(member.filename)} is wrong")
        return content

    def _unpacked(self, member: zipfile.ZipInfo) -> np.ndarray:
        """Unpack a compressed member to a file without a name, and map that."""
        unpacked = tempfile.TemporaryFile()  # noqa: SIM115
        self._resources.enter_context(unpacked)
        with self._zip.open(member) as packed:  # which compares the checksum
            shutil.copyfileobj(packed, unpacked, 2**20)
        unpacked.flush()
        return mapped(unpacked)


def names_in(path: Path) -> list[str]:
    """Return the names of an archive's members."""
    with _opened(path, BytesOfFile(path)) as archive:
        return archive.namelist()


def _opened(path: Path, file: StoredBytes) -> zipfile.ZipFile:
    """Open an archive, once it is known that its directory is small."""
    count, size = _directory(file)
    if size > LARGEST_DIRECTORY or count > MAX_TENSORS:
        raise Refused(
            f"its directory has {count} members in {size} bytes, but should have at most "
            f"{MAX_TENSORS} in {LARGEST_DIRECTORY}"
        )
    archive = zipfile.ZipFile(path)
    if len(archive.infolist()) != count:
        archive.close()
        raise Damaged(
            f"its directory has {len(archive.infolist())} members, but says that it has {count}"
        )
    return archive


def _directory(file: StoredBytes) -> tuple[int, int]:
    """Read how many members an archive's directory has, and how many bytes, as its end says.

    Raises:
        Damaged: the directory is not right before its end.
    """
    before = max(0, file.size - LONGEST_END)
    tail = file.take(before, LONGEST_END)
    end = tail.rfind(b"PK\5\6")
    if end < 0:
        raise Damaged("it has no directory at its end")
    if end >= LARGE_END and tail.startswith(b"PK\6\7", end - LOCATOR):
        end -= LARGE_END
        count, size, start = struct.unpack_from("<QQQ", tail, end + 32)
    else:
        count, size, start = struct.unpack_from("<HII", tail, end + 10)
    if start + size != before + end:
        raise Damaged(f"its directory should take {size} bytes from {start} on, but does not")
    return count, size


def _problems(members: list[zipfile.ZipInfo], size: int) -> Iterator[str]:
    names = [member.filename for member in members]
    if len(set(names)) != len(names):
        yield "a member is there twice"
    if sum(member.compress_size for member in members) > size:
        yield "its members overlap"
    for member in members:
        if leaves_archive(member.filename):
            yield f"{shown(member.filename)} points out of the archive"
        if member.flag_bits & 1:
            yield f"{shown(member.filename)} is encrypted"
        packed = member.compress_type != zipfile.ZIP_STORED
        most = MOST_UNPACKED if packed else member.compress_size
        if member.file_size > most or not plausible(member.file_size, member.compress_size):
            yield (
                f"{shown(member.filename)} claims {member.file_size} bytes, but only "
                f"{member.compress_size} are stored"
            )
    if not plausible(sum(member.file_size for member in members), size):
        yield f"its members claim far more than its {size} bytes"


def leaves_archive(name: str) -> bool:
    """Say whether a member's name points out of the archive."""
    path = PurePosixPath(name.replace("\\", "/"))
    return path.is_absolute() or ".." in path.parts
