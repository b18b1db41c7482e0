"""Knows what each dtype's arithmetic rounds, and rounds arrays to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from densespec_conformance.answering.environment import allows_tf32


@dataclass(frozen=True)
class Arithmetic:
    """Says how a dtype computes.

    Attributes:
        about: Its name where a bound is explained.
        unit: The roundoff of every value: the largest relative error of rounding to the dtype.
        sums: The roundoff of the sums that convolutions, means and the classifier accumulate.
        factors: The roundoff of the factors in convolutions and the classifier, if it is coarser.
        smallest: Half the distance between the smallest numbers of the dtype.
        keeps: The roundoff of weights and of what is kept beside them, where it is finer.
        loss_scale: What the loss is multiplied by while it is differentiated, and gradients are
            divided by, so that fewer of them are below the smallest numbers.
    """

    about: str
    unit: float
    sums: float
    factors: float = 0.0
    smallest: float = 0.0
    keeps: float | None = None
    loss_scale: float = 1.0

    @property
    def of_kept(self) -> float:
        """Return the roundoff of weights after a step, and of all that is kept beside them."""
        return self.unit if self.keeps is None else self.keeps


ARITHMETIC: Mapping[str, Arithmetic] = {
    "float64": Arithmetic("float64", 2.0**-53, 2.0**-53),
    "float32": Arithmetic("float32, TF32 off", 2.0**-24, 2.0**-24),
    "tf32": Arithmetic("float32, TF32 on", 2.0**-24, 2.0**-24, factors=2.0**-11),
    "float16": Arithmetic("float16 with sums in float32", 2.0**-11, 2.0**-24, smallest=2.0**-25),
    "bfloat16": Arithmetic("bfloat16 with sums in float32", 2.0**-8, 2.0**-24),
    "mixed_bfloat16": Arithmetic(
        "bfloat16 with sums and weights in float32",
        unit=2.0**-8,
        sums=2.0**-24,
        factors=2.0**-8,
        keeps=2.0**-24,
    ),
    "mixed_float16": Arithmetic(
        "float16 with sums and weights in float32 and a scaled loss",
        unit=2.0**-11,
        sums=2.0**-24,
        factors=2.0**-11,
        smallest=2.0**-25,
        keeps=2.0**-24,
        loss_scale=2.0**15,
    ),
}
"""Gives arithmetic by name. Kernel libraries accumulate products of 16-bit numbers in float32. The
loss is scaled at first as Keras scales it; PyTorch and Flax scale it by twice as much."""


def arithmetic_of(dtype: str) -> str:
    """Name the arithmetic that a dtype is computed in."""
    return "tf32" if dtype == "float32" and allows_tf32() else dtype


def rounded(array: np.ndarray, dtype: str) -> np.ndarray:
    """Round to the nearest values that a dtype has, ties to even; bfloat16 is held in float32."""
    return _bfloat16(array) if dtype == "bfloat16" else np.asarray(array).astype(dtype)


def _bfloat16(array: np.ndarray) -> np.ndarray:
    """Round away the lower half of the bits of float32: numpy has no bfloat16."""
    bits = np.asarray(array, np.float32).view(np.uint32)
    even = (bits >> 16) & 1
    return ((bits + 0x7FFF + even) & 0xFFFF0000).astype(np.uint32).view(np.float32)
