"""Named arrays that are read when they are needed: what containers give and take."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np


@dataclass(frozen=True)
class Tensor:
    """One array of a file, or one to be written.

    Attributes:
        shape: of the array.
        dtype: its name, such as ``float32`` or ``bfloat16`` (an ``ml_dtypes`` one).
        read: gives the array; each call may read it from the file anew.
    """

    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], np.ndarray]

    @classmethod
    def of(cls, array: np.ndarray) -> Tensor:
        """A tensor of an array in memory."""
        return cls(array.shape, array.dtype.name, lambda: array)


Tensors = Mapping[str, Tensor]


class OpenFile(Protocol):
    """An open container: its tensors by name, readable until it is closed.

    Arrays that were read stay when it is closed. They may be read-only views of the file.

    Attributes:
        container: kind of file, such as ``safetensors`` or ``keras-weights``.
        tensors: in the order of the file.
        metadata: what the file says besides.
        notes: what a user should know of how the file was read, a sentence each.
    """

    @property
    def container(self) -> str: ...

    @property
    def tensors(self) -> Tensors: ...

    @property
    def metadata(self) -> Mapping[str, str]: ...

    @property
    def notes(self) -> Sequence[str]: ...

    def close(self) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exception: object) -> None: ...
