"""Comparisons say where an answer differs, what was, what should have been, and how far apart."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from densespec.network.arrays import Arrays
from densespec_conformance.asking.requests import StepTrace
from densespec_conformance.judging.expected import Expectation
from densespec_conformance.judging.measure import parts_of_steps, relative_error
from densespec_conformance.judging.outcome import EXACT, Outcome
from densespec_conformance.judging.tolerance import Bounds


@dataclass(frozen=True)
class Stats:
    """Describes an array in a few figures, which are those of its finite values."""

    shape: tuple[int, ...]
    mean: float
    deviation: float
    lowest: float
    highest: float
    not_finite: int

    def __str__(self) -> str:
        if not self.shape:
            return f"{self.mean:.10g}"
        bad = f", {self.not_finite} values not finite" if self.not_finite else ""
        return (
            f"mean {self.mean:.6g}, deviation {self.deviation:.6g}, "
            f"range [{self.lowest:.6g}, {self.highest:.6g}]{bad}"
        )


def stats(array: np.ndarray) -> Stats:
    """Work out the figures of an array."""
    finite = array[np.isfinite(array)].astype(np.float64)
    kept = finite if finite.size else np.full(1, np.nan)
    return Stats(
        shape=array.shape,
        mean=float(kept.mean()),
        deviation=float(kept.std()),
        lowest=float(kept.min()),
        highest=float(kept.max()),
        not_finite=array.size - finite.size,
    )


@dataclass(frozen=True)
class Comparison:
    """Compares one array of an answer with what it should be. Errors are relative."""

    name: str
    error: float
    allowed: float
    actual: Stats
    expected: Stats

    @property
    def ok(self) -> bool:
        return self.error <= self.allowed

    def describe(self, reason: str) -> str:
        """Say what is wrong with the array, after its name."""
        if self.actual.shape != self.expected.shape:
            return f"has shape {self.actual.shape}, but should have {self.expected.shape}"
        has, have = ("has", "have") if self.expected.shape else ("is", "be")
        return (
            f"{has} {self.actual}, but should {have} {self.expected}: relative difference "
            f"{self.error:.2e}, allowed {self.allowed:.1e} ({reason})"
        )


class Mismatch(AssertionError):
    """A target's answer differs from what it should be.

    Attributes:
        where: The op, weight or figure that differs first.
        comparisons: Every array that was compared, in order; it is empty if none was compared.
    """

    def __init__(self, where: str, message: str, comparisons: tuple[Comparison, ...] = ()) -> None:
        super().__init__(f"{where}: {message}")
        self.where, self.comparisons = where, comparisons


def assert_equal(*, where: str, actual: object, expected: object, source: str) -> None:
    """Check that both are the same; ``source`` says where the expectation comes from."""
    if actual != expected:
        raise Mismatch(where, f"is {actual!r}, but should be {expected!r} ({source})")


def assert_identical(*, actual: Mapping[str, np.ndarray], expected: Arrays) -> Outcome:
    """Check that names, dtypes, shapes and bits are the same."""
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
    return EXACT


def shown(answer: Mapping[str, np.ndarray], taps: Sequence[str]) -> list[str]:
    """Return the taps that an answer has, and in any case the last, which is the output."""
    return [name for name in taps if name in answer or name == taps[-1]]


def assert_close(
    *, actual: Mapping[str, np.ndarray], expected: Expectation, order: Iterable[str]
) -> Outcome:
    """Check that arrays are within their bounds, and name the first in ``order`` that is not."""
    assert isinstance(expected.values, dict)
    return _assert_within(actual, expected.values, expected, order)


def assert_same_steps(*, actual: list[StepTrace], expected: Expectation) -> Outcome:
    """Check training steps: the loss of each, its gradients, moments, weights and statistics."""
    assert isinstance(expected.values, list)
    source = "those that were asked for"
    assert_equal(
        where="number of steps", actual=len(actual), expected=len(expected.values), source=source
    )
    values = parts_of_steps(expected.values)
    return _assert_within(parts_of_steps(actual), values, expected, values)


def _assert_within(
    actual: Mapping[str, np.ndarray],
    values: Arrays,
    expected: Expectation,
    order: Iterable[str],
) -> Outcome:
    bounds, closest = expected.bounds, EXACT
    for name in order:
        error = relative_error(actual[name], values[name]) if name in actual else float("inf")
        allowed = bounds.of(name)
        if not error <= allowed:
            compared = _comparisons(actual, values, bounds)
            failed = next((item for item in compared if item.name == name), None)
            message = failed.describe(bounds.reason) if failed else "is missing from the answer"
            raise Mismatch(name, message, compared)
        outcome = Outcome(error, allowed, name, bounds.reason)
        closest = max(closest, outcome, key=lambda one: one.strain)
    return closest


def _comparisons(
    actual: Mapping[str, np.ndarray], values: Arrays, bounds: Bounds
) -> tuple[Comparison, ...]:
    return tuple(
        Comparison(
            name=name,
            error=relative_error(actual[name], array),
            allowed=bounds.of(name),
            actual=stats(actual[name]),
            expected=stats(array),
        )
        for name, array in values.items()
        if name in actual
    )
