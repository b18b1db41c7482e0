"""Reads NIfTI files, as scanners' volumes are kept for research, by nibabel.

An image has the sizes (x, y, z), or (x, y) where there is one slice; axes are turned so that they
run from left to right, from back to front and from bottom to top, whatever the file's order. What
is measured several times, or along a fourth axis, makes the channels. Values are scaled as the file
says, and float32. Voxels keep their size, which is not read.
"""

from __future__ import annotations

import gzip
import math
import zlib
from typing import Any, BinaryIO

import numpy as np

from densespec.data.reading.reader import ImageForm, ImageReader, size_of, with_channels
from densespec.installed import imported
from densespec.network.fields import LIMIT

EXTRA = "nifti"
GZIP = b"\x1f\x8b"
HEAD = 348
"""The shorter header has this many bytes."""
DENSEST = 1040
"""One byte of gzip can hold a little less than this many bytes."""
SPATIAL = 3


def head_of(head: bytes) -> bytes:
    """Return the first bytes of what a file holds, which may be packed."""
    if not head.startswith(GZIP):
        return head
    try:
        return zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(head, HEAD)
    except zlib.error:
        return b""


def claims(head: bytes) -> bool:
    """Say whether a file is NIfTI in one piece, of version 1 or 2, packed or not."""
    head = head_of(head)
    return head[344:347] == b"n+1" or head[4:7] == b"n+2"


def read(file: BinaryIO, form: ImageForm) -> np.ndarray:
    """Read a volume (channels, x, y, z), or a slice (channels, x, y), as float32.

    Raises:
        ValueError: Its values are no single numbers, or it has other channels.
        PackageMissing: nibabel is not installed.
    """
    nibabel = imported("reading NIfTI files", "nibabel", extra=EXTRA)
    size = size_of(file)
    with _unpacked(file) as stream:
        second = stream.read(HEAD)[4:7] == b"n+2"
        stream.seek(0)
        kind = nibabel.Nifti2Image if second else nibabel.Nifti1Image
        image = kind.from_stream(stream)
        _check(image.header, size * (1 if stream is file else DENSEST))
        turned = _turned(nibabel, image.get_fdata(dtype=np.float32), image.affine)
    return with_channels(_channels_first(turned), form.channels)


def _unpacked(file: BinaryIO) -> BinaryIO:
    packed = file.read(2) == GZIP
    file.seek(0)
    return gzip.GzipFile(fileobj=file) if packed else file  # type: ignore[return-value]


def _check(header: Any, most: int) -> None:
    dtype, shape = header.get_data_dtype(), header.get_data_shape()
    if dtype.kind not in "iuf":
        raise ValueError(f"its values are of type {dtype}, but should be single numbers")
    count = math.prod(shape)
    if not 0 < count < LIMIT:
        raise ValueError(f"it has shape {shape}, but should have from 1 to below 2**31 values")
    if count * dtype.itemsize > most:
        raise ValueError(f"it has shape {shape}, but is too short to hold that")


def _turned(nibabel: Any, values: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Turn and swap axes so that they run as those of other files."""
    while values.ndim < SPATIAL:
        values = values[..., None]
    axes = nibabel.io_orientation(affine)
    if np.isnan(axes).any():
        raise ValueError("its affine gives no direction to some axis")
    return np.asarray(nibabel.apply_orientation(values, axes))


def _channels_first(values: np.ndarray) -> np.ndarray:
    spatial, rest = values.shape[:SPATIAL], values.shape[SPATIAL:]
    sizes = spatial[:2] if spatial[2] == 1 else spatial
    return np.ascontiguousarray(np.moveaxis(values.reshape(*sizes, math.prod(rest)), -1, 0))


READER = ImageReader(name="NIfTI volume", suffixes=(".nii", ".nii.gz"), claims=claims, read=read)
