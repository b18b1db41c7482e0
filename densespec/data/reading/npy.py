"""Reads arrays in numpy's files, each an image or a volume."""

from __future__ import annotations

import math
from typing import BinaryIO

import numpy as np

from densespec.data.reading.reader import ImageForm, ImageReader, from_array, size_of
from densespec.errors import shown

MAGIC = b"\x93NUMPY"
WHOLE_BITS = 16
"""Float32 does not hold all whole numbers with more bits than this."""


def read(file: BinaryIO, form: ImageForm) -> np.ndarray:
    """Read an array as an image (channels, *sizes).

    Bytes and floats stay what they are; whole numbers of sixteen bits become float32, which is
    exact.

    Raises:
        ValueError: It is of another type, or the file is shorter than it says.
    """
    size = size_of(file)
    shape, dtype = _header(file)
    _check(dtype)
    expected, found = math.prod(shape) * dtype.itemsize, size - file.tell()
    if expected != found:
        raise ValueError(f"its array {shown(shape)} has {expected} bytes, but there are {found}")
    file.seek(0)
    array = np.load(file, allow_pickle=False)
    exact = array if array.dtype == np.uint8 or array.dtype.kind == "f" else array.astype("float32")
    return from_array(exact, form.channels)


def _header(file: BinaryIO) -> tuple[tuple[int, ...], np.dtype]:
    """Read the shape and the type of an array; the file then stands at its values."""
    version = np.lib.format.read_magic(file)
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in readers:
        raise ValueError(f"it is of version {version} of the format")
    shape, _, dtype = readers[version](file)
    return shape, dtype


def _check(dtype: np.dtype) -> None:
    bits = 8 * dtype.itemsize
    if dtype.kind != "f" and not (dtype.kind in "iu" and bits <= WHOLE_BITS):
        raise ValueError(
            f"it is of type {dtype}, but should be floats, or whole numbers of at most "
            f"{WHOLE_BITS} bits"
        )


READER = ImageReader(
    name="array of numpy's",
    suffixes=(".npy",),
    claims=lambda head: head.startswith(MAGIC),
    read=read,
)
