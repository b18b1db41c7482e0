"""Defines what containers share: an open file, the types of arrays, limits and errors."""

from __future__ import annotations

import contextlib
import functools
import math
import mmap
import os
import sys
import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal, Self

import numpy as np

from densespec.errors import LONGEST, PackageMissing, WeightsError, shown
from densespec.installed import imported
from densespec.texts import JsonError
from densespec.weights.tensors import Tensor, Tensors

ReadArray = Callable[[np.dtype], np.ndarray]
"""Reads an array of a given type from a file that is open."""

ByteOrder = Literal["<", ">"]
"""Says how numbers lie in a file: little-endian or big-endian."""

Progress = Callable[[int], None]
"""Is told the number of bytes of each array after the array is written."""

ITEM_SIZES = {
    "bool": 1,
    "int8": 1,
    "int16": 2,
    "int32": 4,
    "int64": 8,
    "uint8": 1,
    "uint16": 2,
    "uint32": 4,
    "uint64": 8,
    "float16": 2,
    "float32": 4,
    "float64": 8,
    "complex64": 8,
    "complex128": 16,
    "bfloat16": 2,
    "float8_e4m3fn": 1,
    "float8_e5m2": 1,
}
"""Gives the bytes of one element by its type's name: numpy's types, then those of ``ml_dtypes``."""

EXTENDED = ("bfloat16", "float8_e4m3fn", "float8_e5m2")

MAX_DIMS = 64  # numpy's
MAX_TENSORS = 50_000
MOST_TEXT = 32 * 2**20
"""All names and texts together may have at most this many characters."""
MAX_DEPTH = 64
"""A name may have at most this many parts that are joined by "/"."""
MAX_PART = 1000
"""Such a part may have at most this many bytes."""
LONGEST_NAME = 10_000
"""An array's name may have at most this many characters."""

FLOOR = 64 * 2**20
MAX_EXPANSION = 100


def plausible(claimed: int, stored: int) -> bool:
    """Say whether ``stored`` bytes may hold ``claimed`` bytes of weights.

    Compression, repeated views and fill values can make a small file claim any size. Trained
    weights hardly compress, so a hundredfold is a trap, unless all of it is small anyway.
    """
    return claimed <= max(FLOOR, MAX_EXPANSION * stored)


class Refused(ValueError):
    """Says what is wrong with a file, and what to do. The path is put before the message."""


class Damaged(ValueError):
    """Says what is damaged in a file. The path is put before the message, and advice after it."""


@contextlib.contextmanager
def damage(path: Path, kind: str) -> Iterator[None]:
    """Turn what a parser raises into a WeightsError that starts with the path.

    Parsers answer damaged files with exceptions of nearly every type.
    """
    try:
        yield
    except (WeightsError, PackageMissing):
        raise
    except Refused as error:
        raise WeightsError(f"{path}: {error}") from error
    except Exception as error:
        raise WeightsError(
            f"{path}: not a readable {kind}, or damaged: {_reason(error)}; get the file anew"
        ) from error


def _reason(error: Exception) -> str:
    if isinstance(error, Damaged | JsonError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    first = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {first[:LONGEST]}" if first else type(error).__name__


def numpy_dtype(name: str) -> np.dtype:
    """Return the type of arrays of this name.

    Raises:
        PackageMissing: it is one of ``ml_dtypes``, which is not installed.
    """
    if name in EXTENDED:
        types = imported(f"reading {name} arrays", "ml_dtypes", extra="dtypes")
        return np.dtype(getattr(types, name))
    return np.dtype(name)


def byte_size(shape: tuple[int, ...], dtype: str) -> int:
    """Count the bytes of an array."""
    return math.prod(shape) * ITEM_SIZES[dtype]


class Opened:
    """Represents an :class:`~densespec.weights.tensors.OpenFile` that a container fills.

    Attributes:
        size: the size of the file, or of all files together, in bytes.
        naming: the container whose names its arrays have, if layouts know it by another container.
        key: the place in the file of the wanted arrays; None for the usual place.
        skipped: the names of entries that are not arrays; they end up in the metadata.
        resources: the resources that are closed with the file.
    """

    def __init__(self, path: Path, container: str, key: str | None = None, *, size: int) -> None:
        self.path, self.container, self.key, self.size = path, container, key, size
        self._naming: str | None = None
        self.metadata: dict[str, str] = {}
        self.notes: list[str] = []
        self.skipped: list[str] = []
        self.resources = contextlib.ExitStack()
        self._tensors: dict[str, Tensor] = {}
        self._readers: dict[str, ReadArray] = {}
        self._claimed, self._texts_left = 0, MOST_TEXT

    @property
    def tensors(self) -> Tensors:
        return self._tensors

    @property
    def naming(self) -> str:
        return self._naming or self.container

    def name_as(self, container: str) -> None:
        """Say that its arrays have the names that they would have in another container."""
        self._naming = container

    def add(self, name: str, shape: tuple[int, ...], dtype: str, read: ReadArray) -> None:
        """Add a tensor, once its name, shape and type are known to be sound."""
        if name in self._tensors:
            raise Refused(f"{shown(name)} is there twice")
        if dtype not in ITEM_SIZES:
            raise Refused(
                f"{shown(name)} is of type {shown(dtype)}, but should be one of "
                f"{', '.join(ITEM_SIZES)}"
            )
        check_shape(shape, name)
        if len(name) > LONGEST_NAME:
            raise Refused(f"{shown(name)} is a name of {len(name)} characters; it is a trap")
        self.count_text(len(name))
        self._claimed += byte_size(shape, dtype)
        if not plausible(self._claimed, self.size) or len(self._tensors) == MAX_TENSORS:
            raise Refused(
                f"it claims {self._claimed} bytes of arrays up to {shown(name)}, but has only "
                f"{self.size} bytes; it is damaged or a trap"
            )
        self._readers[name] = read
        self._tensors[name] = Tensor(shape, dtype, functools.partial(self._read, name))

    def skip(self, name: str) -> None:
        """Note an entry that is no array."""
        self.count_text(len(name))
        self.skipped.append(name)

    def count_text(self, size: int) -> None:
        """Count characters of names and other texts.

        Raises:
            Refused: there are far too many.
        """
        self._texts_left -= size
        if self._texts_left < 0:
            raise Refused(f"its texts take more than {MOST_TEXT} characters; it is a trap")

    def _read(self, name: str) -> np.ndarray:
        if name not in self._readers:
            raise WeightsError(f"{self.path}: was closed before {shown(name)} was read")
        expected = self._tensors[name]
        with damage(self.path, f"{self.container} file"):
            dtype = numpy_dtype(expected.dtype)
            array = self._readers[name](dtype)
            if array.shape != expected.shape or array.dtype.name != expected.dtype:
                raise Damaged(f"{shown(name)} is another array than its header says")
            return array.astype(dtype, copy=False)

    def close(self) -> None:
        self._readers.clear()
        self.resources.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def check_shape(shape: tuple[int, ...], name: str) -> None:
    """Check what numpy can't hold, or answers with something else than an error.

    Raises:
        Refused: names the array.
    """
    if len(shape) > MAX_DIMS or any(type(dim) is not int or dim < 0 for dim in shape):
        raise Refused(
            f"{shown(name)} has shape {shown(shape)}, but should have at most {MAX_DIMS} whole "
            "numbers from 0"
        )
    if math.prod(dim for dim in shape if dim) >= 2**59:  # of 16 bytes each
        raise Refused(f"{shown(name)} has shape {shown(shape)}, which is too large")


class StoredBytes(ABC):
    """Holds bytes in a file or in memory, and the arrays in them.

    Attributes:
        size: the number of bytes.
    """

    size: int

    @abstractmethod
    def part(self, start: int, size: int) -> np.ndarray:
        """Return some of the bytes, of type uint8; they are fewer where the bytes end."""

    def take(self, start: int, size: int) -> bytes:
        """Copy some of the bytes; they are fewer where the bytes end."""
        return self.part(start, size).tobytes()

    def array(
        self, start: int, shape: tuple[int, ...], dtype: np.dtype, order: ByteOrder = "<"
    ) -> np.ndarray:
        """Return elements in this byte order."""
        content = self.part(start, math.prod(shape) * dtype.itemsize)
        return elements(content, dtype, order).reshape(shape)


class BytesOfFile(StoredBytes):
    """Reads the bytes of a file that others may change.

    They are read and not mapped. If another process truncates a mapped file, the operating system
    ends the process that reads the rest.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb", buffering=0)
        weakref.finalize(self, self._file.close)
        self._lock = threading.Lock()
        self.size = os.fstat(self._file.fileno()).st_size

    def part(self, start: int, size: int) -> np.ndarray:
        """Read some of the bytes.

        Raises:
            Damaged: the file has become shorter since it was opened.
        """
        content = np.empty(max(0, min(size, self.size - start)), np.uint8)
        left = content.data
        with self._lock:
            self._file.seek(start)
            while len(left):
                read = self._file.readinto(left)
                if not read:
                    raise Damaged("it was cut off while it was read")
                left = left[read:]
        return content


class BytesInMemory(StoredBytes):
    """Holds bytes in memory, or mapped from a file that nobody else can change."""

    def __init__(self, content: np.ndarray) -> None:
        self._content, self.size = content, content.size

    def part(self, start: int, size: int) -> np.ndarray:
        return self._content[start : start + size]


def mapped(file: IO[bytes]) -> np.ndarray:
    """Map a file without a name, which nobody else can change, into memory."""
    if not os.fstat(file.fileno()).st_size:
        return np.empty(0, np.uint8)  # which can't be mapped
    return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)


def elements(content: np.ndarray, dtype: np.dtype, order: ByteOrder) -> np.ndarray:
    """Return bytes as elements in this byte order: a view, or a copy if they are not aligned.

    Elements of ``ml_dtypes`` have no byte order of their own, so theirs is changed here.
    """
    stored = np.dtype(f"u{dtype.itemsize}") if dtype.name in EXTENDED else dtype
    array = content.view(stored.newbyteorder(order))
    array = array if array.flags.aligned else array.copy()
    return array if stored is dtype else array.astype(stored, copy=False).view(dtype)


@dataclass(frozen=True)
class Output:
    """Describes what a container is asked to write.

    Attributes:
        path: the path that the user asked for; messages show it.
        temporary: the path that is written to.
    """

    path: Path
    temporary: Path
    tensors: Tensors
    metadata: Mapping[str, str]
    progress: Progress

    def arrays(self, names: Iterable[str] | None = None) -> Iterator[tuple[str, np.ndarray]]:
        """Read every array as it is asked for, C-contiguous and in native byte order.

        Raises:
            Refused: one is not what its tensor says it is.
        """
        for name in self.tensors if names is None else names:
            tensor = self.tensors[name]
            array = np.asarray(tensor.read(), order="C")
            if array.shape != tensor.shape or array.dtype.name != tensor.dtype:
                raise Refused(
                    f"{shown(name)} should have shape {tensor.shape} and type {tensor.dtype}, but "
                    f"has {array.shape} and {array.dtype.name}"
                )
            yield name, array.astype(array.dtype.newbyteorder("="), copy=False)
            self.progress(array.nbytes)

    def check_types(self, known: Container[str], kind: str) -> None:
        """Check that a container can hold arrays of these types.

        Raises:
            Refused: it can't; the message names the first tensor.
        """
        for name, tensor in self.tensors.items():
            if tensor.dtype not in known:
                raise Refused(
                    f"{kind} can't hold {shown(name)}, which is of type {tensor.dtype}; convert it "
                    "to float32, or write a .safetensors file"
                )

    def check_tree(self) -> None:
        """Check that names joined by "/" form a tree that can be read: an array holds no others.

        Raises:
            Refused: they do not; the message names the first offender.
        """
        for name in self.tensors:
            parts = name.split("/")
            sizes = [len(part.encode()) for part in parts]
            if not 0 < min(sizes) <= max(sizes) <= MAX_PART or "." in parts:
                raise Refused(
                    f"{shown(name)} has a part that is empty, '.' or longer than {MAX_PART} bytes"
                )
            if len(parts) > MAX_DEPTH:
                raise Refused(f"{shown(name)} has more than {MAX_DEPTH} parts")
            for end in range(1, len(parts)):
                if (parent := "/".join(parts[:end])) in self.tensors:
                    raise Refused(f"{shown(parent)} is an array, and so is {shown(name)}")


def little_endian_bytes(array: np.ndarray) -> memoryview:
    """Return a C-contiguous array's elements; little-endian machines make no copy."""
    if sys.byteorder == "big":
        array = array.byteswap()
    return array.reshape(-1).view(np.uint8).data
