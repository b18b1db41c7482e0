"""Makes numpy's arrays from their stand-ins in pickles: numpy itself would trust their sizes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from densespec.errors import shown
from densespec.weights.pickles.instructions import damaged
from densespec.weights.pickles.standins import LongText, Made, called, text_of

RECONSTRUCT = ("numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct")
FROM_BUFFER = ("numpy.core.numeric._frombuffer", "numpy._core.numeric._frombuffer")

MAX_DIMS = 64
"""An array in numpy has at most this many axes."""

_NUMBERS = {np.dtype(code).str[1:]: np.dtype(code).name for code in "?bBhHiIqQefdFD"}
"""Gives types by their code in a pickle; arrays of objects, texts and records are not read."""


@dataclass(frozen=True)
class PickledArray:
    """Describes a numpy array in a pickle.

    Attributes:
        dtype: the name of its type, such as ``float32``.
        byte_order: ``<`` or ``>``: little-endian or big-endian.
        order: ``C``, or ``F`` if the first axis moves fastest.
        content: its elements, as bytes or as a text with a character for each byte.
    """

    shape: tuple[int, ...]
    dtype: str
    byte_order: Literal["<", ">"]
    order: Literal["C", "F"]
    content: memoryview | bytes | LongText

    def read(self) -> np.ndarray:
        """Read the array, in the machine's byte order.

        Raises:
            PickleError: its elements are a text that is not as many bytes.
        """
        stored = np.dtype(self.dtype).newbyteorder(self.byte_order)
        content = _encoded(self.content)
        if len(content) != math.prod(self.shape) * stored.itemsize:
            raise damaged(f"an array of shape {self.shape} has {len(content)} bytes")
        elements = np.frombuffer(content, stored)
        return elements.reshape(self.shape, order=self.order).astype(self.dtype, copy=False)


def array_of(value: Any) -> PickledArray | None:
    """Return the numpy array that a value stands for, or None if it is not one of numbers.

    Raises:
        PickleError: its parts contradict one another.
    """
    match called(value), value:
        case name, Made(state=(int(), shape, kind, bool() | int() as fortran, content)) if (
            name in RECONSTRUCT
        ):
            return _array(shape, kind, "F" if fortran else "C", content)
        case name, Made(arguments=(content, kind, shape, "C" | "F" as order)) if (
            name in FROM_BUFFER
        ):
            return _array(shape, kind, order, content)
    return None


def _array(shape: Any, kind: Any, order: Any, content: Any) -> PickledArray | None:
    code, byte_order = _type_of(kind)
    elements = _bytes_of(content)
    if code not in _NUMBERS or elements is None:
        return None
    sizes = shape if isinstance(shape, tuple) else (-1,)
    if len(sizes) > MAX_DIMS or any(type(size) is not int or size < 0 for size in sizes):
        raise damaged(f"an array's shape should be up to {MAX_DIMS} whole numbers")
    found, expected = _sizes(elements), math.prod(sizes) * np.dtype(code).itemsize
    if not found[0] <= expected <= found[1]:
        raise damaged(f"an array of shape {shown(sizes)} and type {code} has {found[1]} bytes")
    return PickledArray(sizes, _NUMBERS[code], byte_order, order, elements)


def _sizes(content: memoryview | bytes | LongText) -> tuple[int, int]:
    """Return the fewest and the most bytes of a content; UTF-8 takes one or two for each."""
    if isinstance(content, LongText):
        return len(content.view) // 2, len(content.view)
    return len(content), len(content)


def _type_of(kind: Any) -> tuple[str, Literal["<", ">"]]:
    """Return the code of an array's type, empty if it is not numpy's own, and its byte order."""
    match called(kind), kind:
        case "numpy.dtype", Made(arguments=(str() | memoryview() as code, *_), state=state):
            order = text_of(state[1], "latin1") if isinstance(state, tuple) and state[1:] else None
            return (text_of(code, "latin1") or "").lstrip("|"), ">" if order == ">" else "<"
    return "", "<"


def _bytes_of(value: Any) -> memoryview | bytes | LongText | None:
    """Return bytes, which Python 3 writes as a text and a call in old protocols."""
    match called(value), value:
        case _, memoryview() | bytes():
            return value
        case "_codecs.encode", Made(arguments=(LongText() as text, "latin1")):
            return text
        case "_codecs.encode", Made(arguments=(str() as text, "latin1")):
            return _encoded(text)
        case (("builtins.bytes" | "builtins.bytearray"), Made(arguments=())):
            return b""
    return None


def _encoded(content: memoryview | bytes | str | LongText) -> memoryview | bytes:
    try:
        text = str(content.view, "utf-8") if isinstance(content, LongText) else content
        return text.encode("latin1") if isinstance(text, str) else text
    except UnicodeError as error:
        raise damaged("an array's elements are no bytes") from error
