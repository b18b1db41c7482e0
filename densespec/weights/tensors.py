"""Defines named arrays that are read when they are needed, as containers give and take them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np


@dataclass(frozen=True)
class Tensor:
    """Describes one array of a file, one in memory, or one to be written.

    Attributes:
        shape: The array's shape.
        dtype: The dtype's name, such as ``float32`` or ``bfloat16`` (which ``ml_dtypes`` has).
        read: The function that returns the array as numpy, in ``shape`` and ``dtype``. Each call
            may read the file again.
    """

    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], np.ndarray]

    @classmethod
    def of(cls, array: np.ndarray) -> Tensor:
        """Make a tensor of an array in memory."""
        return cls(array.shape, array.dtype.name, lambda: array)


Tensors = Mapping[str, Tensor]
"""Holds tensors by name. Their order matters where names do not tell enough."""


class OpenFile(Protocol):
    """Represents an open file, whose tensors can be read until it is closed.

    Arrays that were read remain usable after it is closed. They may be read-only views of the file.

    Attributes:
        container: The kind of file, such as ``safetensors`` or ``keras-weights``.
        naming: The container that decides how arrays are named: its own, or one that layouts know.
        tensors: The file's tensors by name, in the order of the file.
        metadata: The texts that the file has beside the tensors.
        notes: Sentences that say what a user should know of how the file was read.
    """

    @property
    def container(self) -> str: ...

    @property
    def naming(self) -> str: ...

    @property
    def tensors(self) -> Tensors: ...

    @property
    def metadata(self) -> Mapping[str, str]: ...

    @property
    def notes(self) -> Sequence[str]: ...

    def close(self) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exception: object) -> None: ...
