"""Files that hold an image each: what a file is, its content says, not its name."""

from __future__ import annotations

from pathlib import Path

from densespec.data.reading import dicom, nifti, npy, pictures
from densespec.data.reading.reader import ImageReader
from densespec.texts import check_regular

READERS: tuple[ImageReader, ...] = (npy.READER, nifti.READER, dicom.READER, pictures.READER)
"""The first one that claims a file reads it; pictures claim what no other does."""

HEAD = 4096
"""Bytes that a file is told by: its first ones, and what they hold if they are packed."""


def reader_of(path: Path) -> ImageReader:
    """Find what reads a file.

    Raises:
        OSError: It can't be read, or is no regular file.
    """
    check_regular(path)
    with path.open("rb") as file:
        head = file.read(HEAD)
    return next(reader for reader in READERS if reader.claims(head))
