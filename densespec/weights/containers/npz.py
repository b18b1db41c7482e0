"""Reads and writes numpy's ``.npz``, a zip archive of ``.npy`` files.

bfloat16 is written as ``numpy.savez`` writes it, as elements of two bytes without a type, and such
elements are read as bfloat16. Metadata are kept as JSON in the archive's comment, where numpy does
not look.
"""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import dataclass
from typing import BinaryIO, Literal, cast

import numpy as np

from densespec.errors import shown
from densespec.texts import JsonError, parsed_json
from densespec.weights.containers.base import (
    EXTENDED,
    ITEM_SIZES,
    ByteOrder,
    Damaged,
    Opened,
    Output,
    ReadArray,
    Refused,
    byte_size,
    elements,
    little_endian_bytes,
)
from densespec.weights.containers.zips import Archive, leaves_archive

SUFFIX = ".npy"
LONGEST_COMMENT = 65535
LONGEST_HEADER = 2**16
"""A member's header has to lie in this many bytes; numpy reads none of more than 10,000."""

TYPES = {name: np.dtype(name).newbyteorder("<").str for name in ITEM_SIZES if name not in EXTENDED}
TYPES |= {"bfloat16": "<V2"}
"""Maps each type to its name in headers."""


def read(opened: Opened) -> None:
    archive = Archive(opened)
    opened.metadata.update(_metadata(archive.comment))
    for name in archive.members:
        if name.endswith(SUFFIX):
            _add(opened, archive, name)
        else:
            opened.skip(name)


def _metadata(comment: bytes) -> dict[str, str]:
    try:
        metadata = parsed_json(comment, "its comment")
    except JsonError:
        return {}
    texts = isinstance(metadata, dict) and all(isinstance(v, str) for v in metadata.values())
    return metadata if texts else {}


def _add(opened: Opened, archive: Archive, member: str) -> None:
    name = member.removesuffix(SUFFIX)
    header = _header(name, io.BytesIO(archive.head(member, LONGEST_HEADER)))
    opened.add(name, header.shape, header.dtype, _reader(archive, member, header))
    size, expected = archive.members[member].file_size, header.start
    expected += byte_size(header.shape, header.dtype)
    if size != expected:
        raise Damaged(f"{shown(name)} has {size} bytes, but by its header {expected}")


@dataclass(frozen=True)
class _Header:
    """Holds what a member says of its array, and where the elements start."""

    shape: tuple[int, ...]
    dtype: str
    byte_order: ByteOrder
    axes_order: Literal["C", "F"]
    start: int


def _header(name: str, file: BinaryIO) -> _Header:
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
    elif version == (2, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_2_0(file)
    else:
        raise Refused(
            f"{shown(name)} is of version {version} of .npy, but should be of version 1 or 2; save "
            "plain arrays of numbers"
        )
    if dtype.kind == "O":
        raise Refused(
            f"{shown(name)} holds Python objects, which can run code when they are read; it should "
            "hold numbers"
        )
    return _Header(
        shape,
        "bfloat16" if dtype.str[1:] == "V2" else dtype.name,
        ">" if dtype.str.startswith(">") else "<",
        "F" if fortran else "C",
        file.tell(),
    )


def _reader(archive: Archive, member: str, header: _Header) -> ReadArray:
    def read(dtype: np.dtype) -> np.ndarray:
        content = archive.content(member)[header.start :]
        array = elements(content, dtype, header.byte_order)
        return array.reshape(header.shape, order=header.axes_order)

    return read


def write(output: Output) -> None:
    output.check_types(TYPES, ".npz files")
    for name in output.tensors:
        member = name + SUFFIX
        if zipfile.ZipInfo(member).filename != member or leaves_archive(member):
            raise Refused(f"{shown(name)} can't be a name in a .npz file")
    with zipfile.ZipFile(output.temporary, "w", zipfile.ZIP_STORED) as archive:
        archive.comment = _comment(output)
        for name, array in output.arrays():
            info = zipfile.ZipInfo(name + SUFFIX)
            info.file_size = array.nbytes
            descr = TYPES[output.tensors[name].dtype]
            header = {"descr": descr, "fortran_order": False, "shape": array.shape}
            with archive.open(info, "w") as file:
                np.lib.format.write_array_header_1_0(cast(BinaryIO, file), header)
                file.write(little_endian_bytes(array))


def _comment(output: Output) -> bytes:
    comment = json.dumps(dict(output.metadata)).encode() if output.metadata else b""
    if len(comment) > LONGEST_COMMENT:
        raise Refused(
            f"its metadata take {len(comment)} bytes, but a .npz file holds at most "
            f"{LONGEST_COMMENT}; write a .safetensors file"
        )
    return comment
