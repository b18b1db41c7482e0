"""Reads and writes msgpack as Flax does: nested maps, with arrays as an extension type.

Tensor names are paths joined by "/". Arrays of more than one gibibyte are split into chunks, as
Flax does. Metadata are a map of texts under ``__metadata__``. The ``msgpack`` package reads and
writes one entry at a time, so that only one array is in memory. Maps and lists are walked here,
because the package would allocate any size that they claim.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Any

import numpy as np

from densespec.errors import shown
from densespec.installed import require
from densespec.weights.containers.base import (
    ITEM_SIZES,
    MAX_DEPTH,
    MAX_TENSORS,
    MOST_TEXT,
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

CHUNKED = "__msgpack_chunked_array__"
METADATA = "__metadata__"
CHUNK_SIZE = 2**30
NDARRAY, COMPLEX, SCALAR = 1, 2, 3
"""Flax's extension types for arrays, for complex Python numbers, and for numpy's scalars."""

LONGEST_COMPLEX = 19
"""A list of two floating-point numbers has this many bytes."""

SMALLEST_BUFFER, LARGEST_BUFFER = 2**16, 2**31 - 1
"""At least and at most this many bytes are read ahead; the largest entry has to fit."""

LONGEST_LIST = 100
"""A list within an array's description, such as its shape, has at most this many entries."""

MOST_ENTRIES = 3 * MAX_TENSORS
"""A tree has at most this many keys and leaves together: an array in chunks has several."""


@dataclass(frozen=True)
class ExtensionArray:
    """Says where an array lies in the file."""

    shape: tuple[int, ...]
    dtype: str
    start: int


def read(opened: Opened) -> None:
    require("reading msgpack files", "msgpack", extra="msgpack")
    file = BytesOfFile(opened.path)
    with opened.path.open("rb") as stream:
        tree = _TreeReader(stream, file).read()
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


def _add(opened: Opened, file: StoredBytes, name: str, leaf: Any) -> None:
    if isinstance(leaf, ExtensionArray):
        opened.add(
            name, leaf.shape, leaf.dtype, lambda dtype: file.array(leaf.start, leaf.shape, dtype)
        )
    elif isinstance(leaf, dict):
        _add_chunked(opened, file, name, leaf)
    else:
        opened.skip(name)


def _add_chunked(opened: Opened, file: StoredBytes, name: str, leaf: dict[Any, Any]) -> None:
    shape, chunks = _numbered(leaf.get("shape")), _numbered(leaf.get("chunks"))
    dtypes = {chunk.dtype for chunk in chunks if isinstance(chunk, ExtensionArray)}
    if len(dtypes) != 1 or not all(isinstance(chunk, ExtensionArray) for chunk in chunks):
        raise Damaged(f"{shown(name)} should be in chunks of one type")

    def read_chunks(dtype: np.dtype) -> np.ndarray:
        flat = [file.array(chunk.start, chunk.shape, dtype).reshape(-1) for chunk in chunks]
        return np.concatenate(flat).reshape(shape)

    opened.add(name, shape, dtypes.pop(), read_chunks)
    sizes = [math.prod(chunk.shape) for chunk in chunks]
    if sum(sizes) != math.prod(shape):
        raise Damaged(f"{shown(name)} has shape {shape}, but its chunks have {sum(sizes)} elements")


def _numbered(entries: Any) -> tuple[Any, ...]:
    """Read Flax's spelling of a tuple, a map by "0", "1" and so on."""
    if not isinstance(entries, dict):
        raise Damaged("it has a chunked array without shape or chunks")
    return tuple(entries[str(index)] for index in range(len(entries)))


class _TreeReader:
    """Reads the tree of a file, but keeps no array's elements."""

    def __init__(self, stream: IO[bytes], file: StoredBytes) -> None:
        import msgpack  # type: ignore[import-untyped]

        self.package, self.file = msgpack, file
        self.entries_left, self.texts_left = MOST_ENTRIES, MOST_TEXT
        self.unpacker = msgpack.Unpacker(
            stream,
            max_buffer_size=min(LARGEST_BUFFER, max(SMALLEST_BUFFER, file.size)),
            strict_map_key=False,
            ext_hook=lambda code, content: (code, content),
        )

    def read(self) -> Any:
        tree = self._value(0)
        if self.unpacker.tell() != self.file.size:
            raise Damaged(f"it ends after {self.unpacker.tell()} of {self.file.size} bytes")
        return tree

    def _value(self, depth: int) -> Any:
        self.entries_left -= 1
        if depth > MAX_DEPTH + 2 or self.entries_left < 0:
            raise Refused(
                f"it is nested deeper than {MAX_DEPTH}, or has more than {MOST_ENTRIES} entries"
            )
        match self._kind():
            case "map":
                return self._map(self._next(self.unpacker.read_map_header), depth + 1)
            case "list":
                count = self._next(self.unpacker.read_array_header)
                return [self._value(depth + 1) for _ in range(count)]
        return self._leaf(self._next(self.unpacker.unpack))

    def _next(self, take: Callable[[], Any]) -> Any:
        """Take what comes next, by a method of the package."""
        try:
            return take()
        except (self.package.UnpackException, ValueError) as error:
            kind = f"{type(error).__name__} {error}".strip()
            at = self.unpacker.tell()
            raise Damaged(f"it is cut off, or no msgpack, from {at} on ({kind})") from error

    def _kind(self) -> str:
        """Look at what the next byte starts; the package tells it only by reading on."""
        at = self.unpacker.tell()
        first = (self.file.take(at, 1) or b"\0")[0]
        if 0x80 <= first <= 0x8F or first in (0xDE, 0xDF):
            return "map"
        return "list" if 0x90 <= first <= 0x9F or first in (0xDC, 0xDD) else "leaf"

    def _map(self, count: int, depth: int) -> dict[Any, Any]:
        found: dict[Any, Any] = {}
        for _ in range(count):
            key = self._value(depth)
            if not isinstance(key, str | int):
                raise Damaged("it has a key that is neither a text nor a whole number")
            if str(key) in found:
                raise Damaged(f"{shown(key)} is there twice in one map")
            found[str(key)] = self._value(depth)
        return found

    def _leaf(self, value: Any) -> Any:
        match value:
            case str():
                self.texts_left -= len(value)
                if self.texts_left < 0:
                    raise Refused(f"its texts take more than {MOST_TEXT} characters")
                return value
            case (int(code), bytes() as content) if code in (NDARRAY, SCALAR):
                return self._array(content)
            case (int(code), bytes() as content) if (
                code != COMPLEX or len(content) > LONGEST_COMPLEX
            ):
                raise Damaged(f"it has {len(content)} bytes of the extension {code}, not Flax's")
            case bool() | int() | float():
                return value
        return None

    def _array(self, content: bytes) -> ExtensionArray:
        """Read an array's description, which ends in its elements."""
        limits = {"max_array_len": LONGEST_LIST, "max_map_len": 0}
        try:
            parts = self.package.unpackb(content, raw=True, **limits)
        except ValueError as error:
            raise Damaged("it has an array that is not of shape, type and elements") from error
        match parts:
            case [[*sizes], bytes() as name, bytes() as elements]:
                shape, dtype = tuple(sizes), name.decode("latin1")
            case _:
                raise Damaged("it has an array that is not of shape, type and elements")
        if dtype not in ITEM_SIZES:
            raise Refused(
                f"it has an array of type {shown(dtype)}, but should have one of "
                f"{', '.join(ITEM_SIZES)}"
            )
        check_shape(shape, "an array")
        if len(elements) != byte_size(shape, dtype):
            raise Damaged(f"it has an array of shape {shape} and {dtype} in {len(elements)} bytes")
        return ExtensionArray(shape, dtype, self.unpacker.tell() - len(elements))


# Writing


def write(output: Output) -> None:
    require("writing msgpack files", "msgpack", extra="msgpack")
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
        node[leaf] = TensorName(name)
    with output.temporary.open("wb") as file:
        _TreeWriter(output, file).value(tree)


class TensorName(str):
    """Names a tensor, as a leaf of the tree that is written."""


class _TreeWriter:
    """Writes a tree, and holds one array at a time."""

    def __init__(self, output: Output, file: IO[bytes]) -> None:
        import msgpack

        self.output, self.file = output, file
        self.package, self.packer = msgpack, msgpack.Packer()

    def value(self, value: Any) -> None:
        match value:
            case dict():
                self.file.write(self.packer.pack_map_header(len(value)))
                for key, entry in value.items():
                    self.value(key)
                    self.value(entry)
            case TensorName():
                ((_, array),) = self.output.arrays([value])
                self._tensor(array)
            case np.ndarray():
                self._array(value)
            case _:
                self.file.write(self.packer.pack(value))

    def _tensor(self, array: np.ndarray) -> None:
        if array.nbytes <= CHUNK_SIZE:
            self._array(array)
            return
        length = max(1, CHUNK_SIZE // array.itemsize)
        flat = array.reshape(-1)
        chunks = [flat[start : start + length] for start in range(0, flat.size, length)]
        self.value({CHUNKED: True, "shape": _numbering(array.shape), "chunks": _numbering(chunks)})

    def _array(self, array: np.ndarray) -> None:
        elements = little_endian_bytes(array)
        parts = self.package.packb((array.shape, array.dtype.name, elements))
        self.file.write(self.packer.pack_ext_type(NDARRAY, parts))


def _numbering(values: Sequence[Any]) -> dict[str, Any]:
    """Spell a tuple as Flax does, as a map by "0", "1" and so on."""
    return {str(number): value for number, value in enumerate(values)}
