"""msgpack as Flax writes it: nested maps whose leaves are arrays of an extension type.

Tensor names are paths joined by "/". Arrays beyond a gibibyte are split into chunks, as Flax does.
Written and read here rather than by the ``msgpack`` package, which needs the whole file in memory
to read it, and a whole array to write one. Metadata are a map of texts under ``__metadata__``.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

import numpy as np

from densespec.errors import shown
from densespec.weights.containers.base import (
    ITEM_SIZES,
    MAX_DEPTH,
    MAX_TENSORS,
    Damaged,
    MappedFile,
    Opened,
    Output,
    Refused,
    byte_size,
    check_shape,
    write_little_endian,
)

CHUNKED = "__msgpack_chunked_array__"
METADATA = "__metadata__"
CHUNK_SIZE = 2**30
NDARRAY, SCALAR = 1, 3
"""Flax's extension types of arrays; of complex Python numbers there is another."""

KINDS = {
    0xC4: ("bytes", "B"),
    0xC5: ("bytes", "H"),
    0xC6: ("bytes", "I"),
    0xC7: ("extension", "B"),
    0xC8: ("extension", "H"),
    0xC9: ("extension", "I"),
    0xCA: ("value", "f"),
    0xCB: ("value", "d"),
    0xCC: ("value", "B"),
    0xCD: ("value", "H"),
    0xCE: ("value", "I"),
    0xCF: ("value", "Q"),
    0xD0: ("value", "b"),
    0xD1: ("value", "h"),
    0xD2: ("value", "i"),
    0xD3: ("value", "q"),
    0xD9: ("text", "B"),
    0xDA: ("text", "H"),
    0xDB: ("text", "I"),
    0xDC: ("list", "H"),
    0xDD: ("list", "I"),
    0xDE: ("map", "H"),
    0xDF: ("map", "I"),
}
"""Kind of what follows a first byte, and the format of its size or value."""

CONSTANTS = {0xC0: None, 0xC2: False, 0xC3: True}


@dataclass(frozen=True)
class _Array:
    """Where an array lies in the file."""

    shape: tuple[int, ...]
    dtype: str
    start: int


def read(opened: Opened) -> None:
    file = MappedFile.at(opened.path)
    tree = _Parser(opened, file).parse()
    if not isinstance(tree, dict):
        raise Refused("it should be a map of names to arrays, as Flax writes it")
    if _are_texts(tree.get(METADATA)):
        opened.metadata.update(tree.pop(METADATA))
    for name, leaf in _leaves(tree, ""):
        _add(opened, file, name, leaf)


def _are_texts(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(text, str) for text in value.values())


def _leaves(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, list):
        value = {str(index): entry for index, entry in enumerate(value)}
    if not isinstance(value, dict) or CHUNKED in value:
        yield name, value
        return
    for key, entry in value.items():
        yield from _leaves(entry, f"{name}/{key}" if name else str(key))


def _add(opened: Opened, file: MappedFile, name: str, leaf: Any) -> None:
    if isinstance(leaf, _Array):
        opened.add(
            name, leaf.shape, leaf.dtype, lambda dtype: file.array(leaf.start, leaf.shape, dtype)
        )
    elif isinstance(leaf, dict):
        _add_chunked(opened, file, name, leaf)
    else:
        opened.skipped.append(name)


def _add_chunked(opened: Opened, file: MappedFile, name: str, leaf: dict[Any, Any]) -> None:
    shape, chunks = _numbered(leaf.get("shape")), _numbered(leaf.get("chunks"))
    dtypes = {chunk.dtype for chunk in chunks if isinstance(chunk, _Array)}
    if len(dtypes) != 1 or not all(isinstance(chunk, _Array) for chunk in chunks):
        raise Damaged(f"{shown(name)} should be in chunks of one type")

    def read_chunks(dtype: np.dtype) -> np.ndarray:
        flat = [file.array(chunk.start, chunk.shape, dtype).reshape(-1) for chunk in chunks]
        return np.concatenate(flat).reshape(shape)

    opened.add(name, shape, dtypes.pop(), read_chunks)
    sizes = [math.prod(chunk.shape) for chunk in chunks]
    if sum(sizes) != math.prod(shape):
        raise Damaged(f"{shown(name)} has shape {shape}, but its chunks have {sum(sizes)} elements")


def _numbered(entries: Any) -> tuple[Any, ...]:
    """Flax's spelling of a tuple, as a map by "0", "1" and so on."""
    if not isinstance(entries, dict):
        raise Damaged("it has a chunked array without shape or chunks")
    return tuple(entries[str(index)] for index in range(len(entries)))


class _Parser:
    """Reads the tree of a file, but not its arrays' elements."""

    def __init__(self, opened: Opened, file: MappedFile) -> None:
        self.opened, self.file = opened, file
        self.position = 0
        self.count = 0

    def parse(self) -> Any:
        tree = self._value(0)
        if self.position != self.opened.size:
            raise Damaged(f"it ends after {self.position} of {self.opened.size} bytes")
        return tree

    def _value(self, depth: int) -> Any:
        self.count += 1
        if depth > MAX_DEPTH + 2 or self.count > MAX_TENSORS:
            raise Refused(
                f"it is nested deeper than {MAX_DEPTH}, or has more than {MAX_TENSORS} entries"
            )
        kind, value = self._header()
        match kind:
            case "map":
                return self._map(value, depth)
            case "list":
                return [self._value(depth + 1) for _ in range(value)]
            case "text":
                return self._take(value).decode()
            case "bytes":
                self._skip(value)
                return None
            case "extension":
                return self._extension(value)
        return value

    def _header(self) -> tuple[str, Any]:
        """Kind of the next object, and its size, or its value where it is a number."""
        first = self._take(1)[0]
        for start, end, kind in (
            (0x80, 0x90, "map"),
            (0x90, 0xA0, "list"),
            (0xA0, 0xC0, "text"),
            (0, 0x80, "value"),
        ):
            if start <= first < end:
                return kind, first - start
        if first >= 0xE0:
            return "value", first - 256
        if first in CONSTANTS:
            return "value", CONSTANTS[first]
        if 0xD4 <= first <= 0xD8:
            return "extension", 1 << (first - 0xD4)
        if first not in KINDS:
            raise Damaged(f"no object starts with the byte {first:#x}")
        kind, form = KINDS[first]
        (value,) = struct.unpack(f">{form}", self._take(struct.calcsize(form)))
        return kind, value

    def _map(self, size: int, depth: int) -> dict[Any, Any]:
        found: dict[Any, Any] = {}
        for _ in range(size):
            key = self._value(depth + 1)
            if not isinstance(key, str | int):
                raise Damaged("it has a key that is neither a text nor a whole number")
            if key in found:
                raise Damaged(f"{shown(key)} is there twice in one map")
            found[key] = self._value(depth + 1)
        return found

    def _extension(self, size: int) -> Any:
        code = self._take(1)[0]
        end = self._skip(size) + size
        if code not in (NDARRAY, SCALAR):
            return None
        self.position = end - size
        match self._header():
            case ("list", 3):
                array = self._array(end)
            case _:
                raise Damaged("it has an array that is not of shape, type and elements")
        if self.position != end:
            raise Damaged("it has an array that ends before or after its elements")
        return array

    def _array(self, end: int) -> _Array:
        kind, dims = self._header()
        if kind != "list" or dims > end - self.position:
            raise Damaged("it has an array whose shape is no list")
        shape = tuple(self._number() for _ in range(dims))
        kind, size = self._header()
        dtype = self._take(size).decode() if kind in ("text", "bytes") else ""
        kind, size = self._header()
        start = self._skip(size) if kind in ("text", "bytes") else 0
        if dtype not in ITEM_SIZES:
            raise Refused(
                f"it has an array of type {shown(dtype)}, but should have one of "
                f"{', '.join(ITEM_SIZES)}"
            )
        check_shape(shape, "an array")
        if not start or size != byte_size(shape, dtype):
            raise Damaged(f"it has an array of shape {shape} and {dtype} in {size} bytes")
        return _Array(shape, dtype, start)

    def _number(self) -> Any:
        kind, value = self._header()
        return value if kind == "value" else None

    def _take(self, size: int) -> bytes:
        start = self._skip(size)
        return self.file.take(start, size)

    def _skip(self, size: int) -> int:
        """Where the skipped bytes start."""
        start = self.position
        if size > self.opened.size - start:
            raise Damaged(
                f"it ends at {self.opened.size} bytes, but {size} more are announced at {start}"
            )
        self.position += size
        return start


# Writing


def write(output: Output) -> None:
    output.check_types(ITEM_SIZES, "msgpack files")
    output.check_tree()
    for name in output.tensors:
        if CHUNKED in name.split("/") or name.split("/")[0] == METADATA:
            raise Refused(f"{shown(name)} can't be a name in a msgpack file of Flax")
    tree: dict[str, Any] = {METADATA: dict(output.metadata)} if output.metadata else {}
    for name in output.tensors:
        *parents, leaf = name.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = _Name(name)
    with output.temporary.open("wb") as file:
        _Writer(output, file).value(tree)


class _Name(str):
    """A tensor's name, as a leaf of the tree that is written."""


class _Writer:
    def __init__(self, output: Output, file: IO[bytes]) -> None:
        self.output, self.file = output, file

    def value(self, value: Any) -> None:
        match value:
            case dict():
                self._map(value)
            case _Name():
                ((_, array),) = self.output.arrays([value])
                self._tensor(array)
            case str():
                self.file.write(_text(value))

    def _map(self, entries: dict[str, Any]) -> None:
        self.file.write(_sized("map", len(entries)))
        for key, entry in entries.items():
            self.file.write(_text(key))
            self.value(entry)

    def _tensor(self, array: np.ndarray) -> None:
        if array.nbytes > CHUNK_SIZE:
            self._chunks(array)
        else:
            self._array(array)

    def _chunks(self, array: np.ndarray) -> None:
        length = max(1, CHUNK_SIZE // array.itemsize)
        flat = array.reshape(-1)
        chunks = [flat[start : start + length] for start in range(0, flat.size, length)]
        self.file.write(_sized("map", 3) + _text(CHUNKED) + b"\xc3" + _text("shape"))
        self.file.write(_sized("map", array.ndim))
        for axis, dim in enumerate(array.shape):
            self.file.write(_text(str(axis)) + _number(dim))
        self.file.write(_text("chunks") + _sized("map", len(chunks)))
        for index, chunk in enumerate(chunks):
            self.file.write(_text(str(index)))
            self._array(chunk)

    def _array(self, array: np.ndarray) -> None:
        head = _sized("list", 3) + _sized("list", array.ndim)
        head += b"".join(_number(dim) for dim in array.shape)
        head += _text(array.dtype.name) + _sized("bytes", array.nbytes)
        size = len(head) + array.nbytes
        self.file.write(_sized("extension", size) + bytes([NDARRAY]) + head)
        write_little_endian(array, self.file)


def _sized(kind: str, size: int) -> bytes:
    """The header of an object of this size, as short as can be."""
    short = {"map": (0x80, 16), "list": (0x90, 16), "text": (0xA0, 32)}
    first, limit = short.get(kind, (0, 0))
    if size < limit:
        return bytes([first + size])
    if kind == "extension" and size in (1, 2, 4, 8, 16):
        return bytes([0xD4 + size.bit_length() - 1])
    return _shortest(kind, size)


def _shortest(kind: str, value: int) -> bytes:
    for first, (known, form) in KINDS.items():
        if known == kind and form in "BHIQ" and value < 256 ** struct.calcsize(form):
            return struct.pack(f">B{form}", first, value)
    raise ValueError(f"a {kind} of {value} does not fit msgpack")


def _number(value: int) -> bytes:
    return bytes([value]) if value < 128 else _shortest("value", value)


def _text(text: str) -> bytes:
    encoded = text.encode()
    return _sized("text", len(encoded)) + encoded
