"""Comparisons that say where, what was, what should have been, and how far apart the two may be."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from densespec.weights import Arrays
from densespec_conformance.requests import Step


class Mismatch(AssertionError):
    """A target's answer differs from what it should be.

    Attributes:
        where: the op, weight or figure that differs first.
    """

    def __init__(self, where: str, message: str) -> None:
        super().__init__(f"{where}: {message}")
        self.where = where


@dataclass(frozen=True)
class Tolerance:
    """How far an answer may be from the reference, relative to its largest value, and why."""

    relative: float
    reason: str


def assert_equal(*, where: str, actual: object, expected: object, source: str) -> None:
    """Both are the same; ``source`` says where the expectation comes from."""
    if actual != expected:
        raise Mismatch(where, f"is {actual!r}, but should be {expected!r} ({source})")


def assert_identical(*, actual: Mapping[str, np.ndarray], expected: Arrays) -> None:
    """Same names, dtypes, shapes and bits."""
    assert_equal(
        where="names", actual=sorted(actual), expected=sorted(expected), source="the graph"
    )
    for name, array in expected.items():
        got = actual[name]
        if got.dtype != array.dtype or got.shape != array.shape:
            described = f"{got.dtype} {got.shape}, but should be {array.dtype} {array.shape}"
            raise Mismatch(name, f"is {described}")
        if not np.array_equal(got, array):
            count = int((got != array).sum())
            raise Mismatch(name, f"{count} of {array.size} values differ, but should be identical")


def relative_error(actual: np.ndarray, expected: np.ndarray, floor: float = 0.0) -> float:
    """Largest difference over the largest expected magnitude; NaN and infinity count as infinite.

    Args:
        floor: least magnitude to divide by, for arrays that are zero but for rounding.
    """
    if actual.shape != expected.shape or not np.isfinite(actual).all():
        return float("inf")
    if expected.size == 0:
        return 0.0
    scale = max(float(np.abs(expected).max()), floor)
    difference = float(np.abs(actual.astype(np.float64) - expected).max())
    return difference if scale == 0 else difference / scale


def assert_close(
    *,
    actual: Mapping[str, np.ndarray],
    expected: Arrays,
    tolerance: Tolerance,
    order: Iterable[str],
) -> float:
    """Arrays are close, or the first in ``order`` that is not is named; gives the largest error."""
    worst = 0.0
    for name in order:
        if name not in actual:
            raise Mismatch(name, "is missing from the answer")
        error = relative_error(actual[name], expected[name])
        if not error <= tolerance.relative:
            raise Mismatch(name, _apart(actual[name], expected[name], error, tolerance))
        worst = max(worst, error)
    return worst


ZERO_BUT_FOR_ROUNDING = 1e-3
"""Arrays of one kind smaller than this fraction of the largest are measured against it: the
gradient of a bias before a norm, say, is zero in exact arithmetic, and only noise in any other."""


def assert_same_step(*, index: int, actual: Step, expected: Step, tolerance: Tolerance) -> float:
    """A training step matches: its loss, then gradients, momentum, weights and statistics."""
    parts = {
        "loss": ({"": np.array(actual.loss)}, {"": np.array(expected.loss)}),
        "gradient": (actual.gradients, expected.gradients),
        "momentum": (actual.velocity, expected.velocity),
        "weight": (actual.weights, expected.weights),
    }
    worst = 0.0
    for kind, (got, wanted) in parts.items():
        largest = max((float(np.abs(array).max()) for array in wanted.values()), default=0.0)
        floor = ZERO_BUT_FOR_ROUNDING * largest
        for name, array in wanted.items():
            where = f"step {index}, {_label(kind, name)}"
            if name not in got:
                raise Mismatch(where, "is missing from the answer")
            error = relative_error(got[name], array, floor)
            if not error <= tolerance.relative:
                raise Mismatch(where, _apart(got[name], array, error, tolerance))
            worst = max(worst, error)
    return worst


def _label(kind: str, name: str) -> str:
    if name.endswith((".running_mean", ".running_variance")):
        kind = "running statistic"
    return f"{kind} {name}".strip()


def _apart(actual: np.ndarray, expected: np.ndarray, error: float, tolerance: Tolerance) -> str:
    if actual.shape != expected.shape:
        return f"has shape {actual.shape}, but should have {expected.shape}"
    return (
        f"{_summary(actual)}, but should be {_summary(expected)}: relative difference "
        f"{error:.2e}, allowed {tolerance.relative:.0e} ({tolerance.reason})"
    )


def _summary(array: np.ndarray) -> str:
    if array.ndim == 0:
        return f"is {float(array):.10g}"
    finite = np.isfinite(array)
    bad = "" if finite.all() else f", {int((~finite).sum())} values not finite"
    kept = array[finite] if finite.any() else np.zeros(1)
    return (
        f"has mean {kept.mean():.6g}, deviation {kept.std():.6g}, "
        f"range [{kept.min():.6g}, {kept.max():.6g}]{bad}"
    )
