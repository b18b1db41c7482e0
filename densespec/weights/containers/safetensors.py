"""Reads and writes safetensors: a JSON header with types, shapes and offsets, then the elements.

The ``safetensors`` package is not used. It copies every array that it reads, needs all arrays in
memory to write them, and needs gigabytes for a hostile header. The rules for headers are the
package's.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Any

from densespec.errors import shown
from densespec.texts import LONGEST, parsed_json
from densespec.weights.containers.base import (
    ITEM_SIZES,
    BytesOfFile,
    Damaged,
    Opened,
    Output,
    Refused,
    StoredBytes,
    byte_size,
    check_shape,
    little_endian_bytes,
)
from densespec.weights.tensors import Tensors

TYPES = {
    "BOOL": "bool",
    "I8": "int8",
    "I16": "int16",
    "I32": "int32",
    "I64": "int64",
    "U8": "uint8",
    "U16": "uint16",
    "U32": "uint32",
    "U64": "uint64",
    "F16": "float16",
    "F32": "float32",
    "F64": "float64",
    "C64": "complex64",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
}
CODES = {dtype: code for code, dtype in TYPES.items()}

ALIGNMENT = 8


def read(opened: Opened) -> None:
    file = BytesOfFile(opened.path)
    header, start = _header(opened, file)
    opened.metadata.update(_metadata(header.pop("__metadata__", {})))
    ends = [0]
    for name, entry in sorted(header.items(), key=lambda item: _offsets(*item)):
        ends.append(_checked_end(name, entry, ends[-1]))
    if start + ends[-1] != opened.size:
        raise Damaged(f"it has {opened.size} bytes, but by its header {start + ends[-1]}")
    for name, entry in header.items():
        _add(opened, file, start, name, entry)


def _header(opened: Opened, file: StoredBytes) -> tuple[dict[str, Any], int]:
    size = struct.unpack("<Q", file.take(0, 8))[0] if opened.size >= 8 else 2**64
    if size > min(LONGEST, opened.size - 8):
        raise Damaged(
            f"it has {opened.size} bytes, but says that its header has {size}, of at most {LONGEST}"
        )
    header = parsed_json(file.take(8, size), "its header", _without_repeats)
    if not isinstance(header, dict):
        raise Damaged(f"its header should be a JSON object, but is {shown(header)}")
    return header, 8 + size


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise Damaged("a key of its header is there twice")
    return found


def _metadata(metadata: Any) -> dict[str, str]:
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise Damaged("__metadata__ of its header should hold texts only")
    return metadata


def _offsets(name: str, entry: Any) -> tuple[int, int]:
    match entry:
        case {"dtype": str(), "shape": [*_], "data_offsets": [int(begin), int(end)], **rest}:
            if not rest and type(begin) is int and type(end) is int:
                return begin, end
    raise Damaged(
        f"{shown(name)} in its header should have a dtype, a shape and two data_offsets, but is "
        f"{shown(entry)}"
    )


def _checked_end(name: str, entry: dict[str, Any], begin: int) -> int:
    """Find the end of a tensor that should begin where the one before it ends."""
    dtype, shape = entry["dtype"], tuple(entry["shape"])
    if dtype not in TYPES:
        raise Refused(
            f"{shown(name)} is of type {shown(dtype)}, but should be one of {', '.join(TYPES)}"
        )
    check_shape(shape, name)
    expected = [begin, begin + byte_size(shape, TYPES[dtype])]
    if entry["data_offsets"] != expected:
        raise Damaged(
            f"{shown(name)} lies at {entry['data_offsets']} by its header, but should lie at "
            f"{expected}"
        )
    return expected[1]


def _add(opened: Opened, file: StoredBytes, start: int, name: str, entry: dict[str, Any]) -> None:
    dtype, shape = TYPES[entry["dtype"]], tuple(entry["shape"])
    begin = start + entry["data_offsets"][0]
    opened.add(name, shape, dtype, lambda dtype: file.array(begin, shape, dtype))


def write(output: Output) -> None:
    output.check_types(CODES, "safetensors files")
    if "__metadata__" in output.tensors:
        raise Refused("'__metadata__' can't be a tensor's name in a safetensors file")
    # Wide elements first keeps every array aligned.
    order = sorted(output.tensors, key=lambda name: -ITEM_SIZES[output.tensors[name].dtype])
    with output.temporary.open("wb") as file:
        file.write(_written_header(output.tensors, order, output.metadata))
        for _, array in output.arrays(order):
            file.write(little_endian_bytes(array))


def _written_header(tensors: Tensors, order: list[str], metadata: Mapping[str, str]) -> bytes:
    begin, offsets = 0, {}
    for name in order:
        end = begin + byte_size(tensors[name].shape, tensors[name].dtype)
        offsets[name] = [begin, end]
        begin = end
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    for name, tensor in tensors.items():
        header[name] = {
            "dtype": CODES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": offsets[name],
        }
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    return struct.pack("<Q", len(text)) + text
