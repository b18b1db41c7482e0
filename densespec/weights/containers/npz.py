"""numpy's ``.npz``: a zip archive of ``.npy`` files.

bfloat16 is written as ``numpy.savez`` writes it, as elements of two bytes without a type, and such
elements are read as bfloat16. Metadata are kept as JSON in the archive's comment, where numpy does
not look.
"""

from __future__ import annotations

import json
import zipfile
from typing import Any, BinaryIO, cast

import numpy as np

from densespec.errors import shown
from densespec.weights.containers import zips
from densespec.weights.containers.base import (
    EXTENDED,
    ITEM_SIZES,
    Damaged,
    Opened,
    Output,
    Read,
    Refused,
    byte_size,
    write_little_endian,
)

SUFFIX = ".npy"
LONGEST_COMMENT = 65535

TYPES = {name: np.dtype(name).newbyteorder("<").str for name in ITEM_SIZES if name not in EXTENDED}
TYPES |= {"bfloat16": "<V2"}
"""How headers spell each type."""


def read(opened: Opened) -> None:
    archive = zips.open_archive(opened)
    opened.metadata.update(_metadata(archive.comment))
    for member in archive.infolist():
        if member.filename.endswith(SUFFIX):
            _add(opened, archive, member)
        else:
            opened.skipped.append(member.filename)


def _metadata(comment: bytes) -> dict[str, str]:
    try:
        metadata = json.loads(comment)
    except (ValueError, RecursionError):
        return {}
    texts = isinstance(metadata, dict) and all(isinstance(v, str) for v in metadata.values())
    return metadata if texts else {}


def _add(opened: Opened, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> None:
    name = member.filename.removesuffix(SUFFIX)
    with archive.open(member) as file:
        shape, dtype, start = _header(name, file)
    opened.add(name, shape, dtype, _reader(archive, member))
    if start + byte_size(shape, dtype) != member.file_size:
        raise Damaged(
            f"{shown(name)} has {member.file_size} bytes, but by its header "
            f"{start + byte_size(shape, dtype)}"
        )


def _header(name: str, file: Any) -> tuple[tuple[int, ...], str, int]:
    """Shape and type of an array, and where its elements start."""
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    elif version == (2, 0):
        shape, _, dtype = np.lib.format.read_array_header_2_0(file)
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
    return shape, "bfloat16" if dtype.str[1:] == "V2" else dtype.name, file.tell()


def _reader(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Read:
    def read(dtype: np.dtype) -> np.ndarray:
        with archive.open(member) as file:
            array = np.lib.format.read_array(cast(BinaryIO, file), allow_pickle=False)
            file.read()  # to the end, where the checksum is compared
        return array.view(dtype) if array.dtype.kind == "V" else array

    return read


def write(output: Output) -> None:
    output.check_types(TYPES, ".npz files")
    for name in output.tensors:
        member = name + SUFFIX
        if zipfile.ZipInfo(member).filename != member or zips.leaves_archive(member):
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
                write_little_endian(array, file)


def _comment(output: Output) -> bytes:
    comment = json.dumps(dict(output.metadata)).encode() if output.metadata else b""
    if len(comment) > LONGEST_COMMENT:
        raise Refused(
            f"its metadata take {len(comment)} bytes, but a .npz file holds at most "
            f"{LONGEST_COMMENT}; write a .safetensors file"
        )
    return comment
