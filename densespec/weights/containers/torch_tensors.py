"""Makes PyTorch's tensors from the stand-ins of a pickle: views of storages outside of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from densespec.errors import shown
from densespec.weights.containers.base import (
    ITEM_SIZES,
    ByteOrder,
    Damaged,
    ReadArray,
    Refused,
    elements,
)
from densespec.weights.pickles.standins import Dict, Global, Made, called, text_of

STORAGES = {
    "FloatStorage": "float32",
    "DoubleStorage": "float64",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
    "UntypedStorage": "uint8",
}
"""Maps PyTorch's classes of storages to types of elements; the last holds any bytes."""

PARAMETERS = (
    "torch.nn.parameter.Parameter",
    "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_parameter_with_state",
)
SUBCLASSES = ("torch._tensor._rebuild_from_type", "torch._tensor._rebuild_from_type_v2")
REBUILDING = "torch._utils._rebuild_"
"""The names of all functions that make tensors start with this."""

MOST_WRAPPERS = 8
"""A call that makes a tensor may lie within at most this many calls, such as a parameter's."""


@dataclass(frozen=True)
class Storage:
    """Describes elements that lie outside of a pickle.

    Attributes:
        key: the name of the file or record that holds them.
        dtype: the type of its elements; PyTorch's name for it if densespec does not read the type.
        size: the number of its elements.
        start: the position of the first element that is meant.
    """

    key: str
    dtype: str
    size: int
    start: int = 0

    @property
    def item_size(self) -> int:
        """Return the bytes of an element; 0 if its type is not read."""
        return ITEM_SIZES.get(self.dtype, 0)

    @property
    def bytes_before(self) -> int:
        """Return the number of bytes before the first element that is meant."""
        return self.start * self.item_size

    @property
    def byte_count(self) -> int:
        return self.size * self.item_size


@dataclass(frozen=True)
class TorchTensor:
    """Describes a view of a storage.

    Attributes:
        offset: the position at which it starts, in elements.
        strides: the steps along each axis, in elements.
        conjugate: whether its elements are the conjugates of what is stored.
        negative: whether its elements are the negatives of what is stored.
    """

    storage: Storage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    conjugate: bool = False
    negative: bool = False

    def check(self, name: str) -> None:
        """Check that it lies within its storage.

        Raises:
            Damaged: it does not; the message names the tensor.
        """
        numbers = (self.offset, *self.strides)
        if any(type(number) is not int or number < 0 for number in numbers) or (
            len(self.strides) != len(self.shape)
        ):
            raise Damaged(f"{shown(name)} has strides or an offset that are no whole numbers")
        last = sum((dim - 1) * step for dim, step in zip(self.shape, self.strides, strict=True))
        end = (self.offset + last + 1) * ITEM_SIZES[self.dtype] if all(self.shape) else 0
        if self.storage.bytes_before + end > self.storage.byte_count:
            raise Damaged(
                f"{shown(name)} takes {end} bytes from {self.storage.bytes_before} on, but its "
                f"storage has {self.storage.byte_count}"
            )

    def reader(self, content: Callable[[], np.ndarray], order: ByteOrder) -> ReadArray:
        """Make what reads it from its storage's bytes, whose numbers have this byte order."""

        def read(dtype: np.dtype) -> np.ndarray:
            stored = content()[self.storage.bytes_before :]
            flat = elements(stored[: stored.size - stored.size % dtype.itemsize], dtype, order)
            start = self.offset * dtype.itemsize if all(self.shape) else 0
            steps = tuple(step * dtype.itemsize for step in self.strides)
            view = np.ndarray(self.shape, flat.dtype, flat.view(np.uint8), start, steps)
            return self._signed(np.asarray(view, order="C"))

        return read

    def _signed(self, array: np.ndarray) -> np.ndarray:
        array = np.conj(array) if self.conjugate else array
        return np.negative(array) if self.negative else array


def storage_of(reference: Any) -> Storage:
    """Return the storage that a pickle's persistent reference means.

    Raises:
        Damaged: it means none.
    """
    match reference:
        case (_, Global(kind), str() | memoryview() as key, _, int(size), *view) if size >= 0:
            name = kind.rpartition(".")[2]
            return Storage(
                text_of(key, "utf-8") or "", STORAGES.get(name, name), size, _start(view)
            )
    raise Damaged("its pickle refers to what is no storage of a tensor")


def _start(view: list[Any]) -> int:
    """Return where a part of a storage starts, which old files have a name for."""
    match view:
        case [] | [None]:
            return 0
        case [(_, int(start), int())] if start >= 0:
            return start
    raise Damaged("its pickle refers to a part of a storage that is none")


def tensor_of(value: Any, name: str) -> TorchTensor | None:
    """Return the tensor that a value stands for, or None if it stands for none.

    Raises:
        Refused: it stands for a tensor that is not dense, or has no values; the message names the
            tensor.
    """
    for _ in range(MOST_WRAPPERS):
        match called(value), getattr(value, "arguments", None):
            case function, (inner, *_) if function in PARAMETERS:
                value = inner
            case function, (inner, _, arguments, *_) if function in SUBCLASSES:
                value = Made(inner, arguments)
            case function, tuple() as arguments if function.startswith(REBUILDING):
                return _rebuilt(function.removeprefix(REBUILDING), arguments, name)
            case _:
                return None
    raise Refused(f"{shown(name)} is wrapped more than {MOST_WRAPPERS} times")


def is_tensor(value: Any) -> bool:
    """Say whether a value stands for a tensor of any kind."""
    try:
        return tensor_of(value, "") is not None
    except Refused:
        return True


def _rebuilt(function: str, arguments: tuple[Any, ...], name: str) -> TorchTensor:
    match arguments:
        case (Storage() as storage, offset, tuple() as shape, tuple() as strides, *rest):
            view = (offset, shape, strides)
            match function, rest:
                case "tensor", []:
                    return TorchTensor(storage, storage.dtype, *view)
                case "tensor_v2", [_, _, *signs]:
                    return TorchTensor(storage, storage.dtype, *view, *_signs(signs))
                case "tensor_v3", [_, _, Global(kind), *signs]:
                    dtype = kind.removeprefix("torch.")
                    return TorchTensor(storage, dtype, *view, *_signs(signs))
    raise Refused(
        f"{shown(name)} is sparse, quantized or without values, but should be a dense tensor; "
        "save it as one"
    )


def _signs(metadata: list[Any]) -> tuple[bool, bool]:
    """Say whether a tensor is the conjugate, and the negative, of what is stored."""
    match metadata:
        case [Dict(pairs)]:
            true = [key for key, value in pairs if value is True and isinstance(key, str)]
            return "conj" in true, "neg" in true
    return False, False
