"""Remembers the values of tensors, and tells whether any of them was written to since.

PyTorch counts the writes that its autograd has to know of. It does not count those that go through
``tensor.data``, or through a numpy array of the same memory. Its copy-on-write sees them all: what
is remembered shares the tensor's memory until somebody asks for a pointer to write there, and only
then does the tensor get other memory. Where memory can't be shared in this way, it is copied.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_C: Any = torch._C
_SHARES = hasattr(torch, "_lazy_clone") and all(
    hasattr(_C, name) for name in ("_is_cow_tensor", "_data_address", "_storage_Use_Count")
)
_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(frozen=True, slots=True)
class _Remembered:
    """Holds the values of a tensor.

    Attributes:
        address: Where they are as long as the memory is shared; None if they are a copy.
    """

    tensor: Tensor
    values: Tensor
    address: int | None
    version: int


class Snapshot:
    """Holds the values that tensors have.

    Raises:
        RuntimeError: One was made in PyTorch's inference mode, where writes are not counted.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        with torch.inference_mode(mode=False), torch.no_grad():
            self._all = [_remembered(tensor) for tensor in tensors]

    def copies(self) -> list[Tensor]:
        """Copy the values."""
        return [one.values.clone() for one in self._all]

    def is_untouched(self, tensors: Sequence[Tensor]) -> bool:
        """Say whether these are the tensors, and nobody can have written to them."""
        is_shared, address = _C._is_cow_tensor, _C._data_address
        for tensor, one in zip(tensors, self._all, strict=True):
            if (
                tensor is not one.tensor
                or one.address is None
                or not is_shared(tensor)
                or address(tensor) != one.address
                or tensor._version != one.version
            ):
                return False
        return True

    def equals(self, other: Snapshot) -> bool:
        """Say whether it holds the same values as another, to the bit."""
        pairs = zip(self._all, other._all, strict=True)
        return all(_same(one.values, another.values) for one, another in pairs)


def _remembered(tensor: Tensor) -> _Remembered:
    version = tensor._version  # before the values: what is written meanwhile is then seen
    if _is_alone(tensor):
        try:
            values = torch._lazy_clone(tensor.detach())
            return _Remembered(tensor, values, _C._data_address(values), version)
        except RuntimeError:  # the memory is numpy's, or shared with other processes
            pass
    return _Remembered(tensor, tensor.detach().clone(), None, version)


def _is_alone(tensor: Tensor) -> bool:
    """Say whether no other tensor and no array has the memory: they could have pointers to it."""
    return _SHARES and _users(tensor) == _users(torch.empty(1))


def _users(tensor: Tensor) -> int:
    storage = tensor.untyped_storage()
    users: int = _C._storage_Use_Count(storage._cdata)
    return users


def _same(one: Tensor, other: Tensor) -> bool:
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    bits = _BITS[one.element_size()]
    return torch.equal(one.view(bits), other.view(bits))
