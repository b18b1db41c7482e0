"""Says what is peculiar about an array that is not what it should be."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

Array = np.ndarray

CLOSE = 1e-6
"""Two arrays with this relative difference are taken for the same."""


def peculiarities(actual: Array, expected: Array) -> tuple[str, ...]:
    """Return remarks that complete the array's name to a sentence. The first that holds of how the
    values relate is enough; others say where they differ.

    Args:
        actual, expected: Arrays of shape (batch, channels, *spatial), or of any other.
    """
    if actual.shape != expected.shape:
        return (f"has shape {actual.shape}, but should have {expected.shape}",)
    if not np.isfinite(actual).all():
        return (_not_finite(actual),)
    if not actual.size or _same(actual, expected):
        return ()
    related = next((remark for find in RELATIONS for remark in find(actual, expected)), None)
    placed = [remark for find in PLACES for remark in find(actual, expected)]
    return tuple(remark for remark in (related, *placed) if remark)


def _not_finite(actual: Array) -> str:
    nans, infinite = int(np.isnan(actual).sum()), int(np.isinf(actual).sum())
    return f"has {nans} values that are no number and {infinite} infinite ones, of {actual.size}"


def _same(a: Array, b: Array) -> bool:
    scale = float(np.abs(b).max(initial=0.0)) or 1.0
    return a.shape == b.shape and bool(np.abs(a - b).max(initial=0.0) <= CLOSE * scale)


def _is_constant(actual: Array, expected: Array) -> Iterator[str]:
    if expected.std() > 0 and actual.size > 1 and actual.std() <= CLOSE * abs(actual).max():
        yield f"is {actual.flat[0]:.6g} everywhere"


def _is_multiple(actual: Array, expected: Array) -> Iterator[str]:
    factor = float((actual * expected).sum() / (expected**2).sum()) if expected.any() else 0.0
    if factor and _same(actual, factor * expected):
        yield f"is the expected value times {factor:.6g}"


def _is_shifted(actual: Array, expected: Array) -> Iterator[str]:
    offset = float((actual - expected).mean())
    if actual.size > 1 and _same(actual, expected + offset):
        yield f"is the expected value plus {offset:.6g}"


def _is_multiple_by_channel(actual: Array, expected: Array) -> Iterator[str]:
    """Find a factor, an offset or both in each channel."""
    a, b = _by_channel(actual), _by_channel(expected)
    if a is None or b is None or a.shape[1] < 4:
        return
    mean_a, mean_b = a.mean(1, keepdims=True), b.mean(1, keepdims=True)
    spread = ((b - mean_b) ** 2).sum(1, keepdims=True)
    if not spread.all():
        return
    factor = ((a - mean_a) * (b - mean_b)).sum(1, keepdims=True) / spread
    offset = mean_a - factor * mean_b
    if not _same(a, factor * b + offset):
        return
    if np.allclose(factor, 1, atol=CLOSE):
        yield "is off by a constant in each channel, as with another beta, bias or mean"
    elif _same(a, factor * b):
        yield "is the expected value times a constant in each channel, as with another gamma"
    else:
        yield "is a linear function of the expected value in each channel, as with another norm"


def _is_permuted(actual: Array, expected: Array) -> Iterator[str]:
    a, b = _by_channel(actual), _by_channel(expected)
    if a is None or b is None or len(a) < 2:
        return
    scale = float(np.abs(b).max()) or 1.0
    order = [int(np.abs(b - row).max(1).argmin()) for row in a]
    fits = all(np.abs(a[i] - b[j]).max() <= CLOSE * scale for i, j in enumerate(order))
    if fits and sorted(order) == list(range(len(a))):
        yield f"has the expected channels in another order: {_listed(order)}"


def _is_turned(actual: Array, expected: Array) -> Iterator[str]:
    spatial = expected.ndim - 2
    if spatial < 1:
        return
    for axis in range(2, expected.ndim):
        if _same(actual, np.flip(expected, axis)):
            yield f"is the expected value flipped along spatial axis {axis - 2}"
    if spatial > 1 and _same(actual, np.swapaxes(expected, 2, 3)):
        yield "is the expected value with height and width exchanged"


def _is_moved(actual: Array, expected: Array) -> Iterator[str]:
    """Find the expected picture one place further along some axes."""
    spatial = expected.ndim - 2
    if spatial < 1 or min(expected.shape[2:]) < 4:
        return
    for moves in np.ndindex(*[3] * spatial):
        shift = tuple(move - 1 for move in moves)
        there: Any = [slice(max(-s, 0), n - max(s, 0)) for s, n in _zip(shift, expected)]
        here: Any = [slice(max(s, 0), n - max(-s, 0)) for s, n in _zip(shift, expected)]
        if any(shift) and _same(actual[(..., *here)], expected[(..., *there)]):
            yield f"is the expected picture moved by {shift}"


def _zip(shift: tuple[int, ...], array: Array) -> Iterator[tuple[int, int]]:
    return zip(shift, array.shape[2:], strict=True)


def _is_clipped(actual: Array, expected: Array) -> Iterator[str]:
    if _same(actual, np.maximum(expected, 0)):
        yield "is the expected value where that is positive and 0 elsewhere, as after a ReLU"
    elif (expected >= 0).all() and _same(np.maximum(actual, 0), expected):
        yield "is negative where 0 was expected, as before a ReLU"


def _is_only_somewhere(actual: Array, expected: Array) -> Iterator[str]:
    scale = float(np.abs(expected).max()) or 1.0
    wrong = np.abs(actual - expected) > CLOSE * scale
    if not wrong.any() or wrong.all():
        return
    yield from _samples(wrong)
    yield from _border(wrong)
    yield from _channels(wrong)


def _samples(wrong: Array) -> Iterator[str]:
    if wrong.ndim < 2 or len(wrong) < 2:
        return
    off = [int(i) for i in np.flatnonzero(wrong.reshape(len(wrong), -1).any(1))]
    if off == list(range(1, len(wrong))):
        yield "differs in all samples but the first"
    elif len(off) < len(wrong):
        yield f"differs in samples {_listed(off)} alone"


def _border(wrong: Array) -> Iterator[str]:
    sizes = wrong.shape[2:]
    if not sizes or min(sizes) < 5:
        return
    places = np.asarray(wrong.any((0, 1)))
    inner = places[tuple(slice(2, -2) for _ in sizes)]
    if places.any() and not inner.any():
        yield "differs at the border alone, as with another padding"


def _channels(wrong: Array) -> Iterator[str]:
    if wrong.ndim < 2 or wrong.shape[1] < 2:
        return
    axes = (0, *range(2, wrong.ndim))
    off = [int(i) for i in np.flatnonzero(wrong.any(axes))]
    if len(off) < wrong.shape[1]:
        yield f"differs in channels {_listed(off)} alone, of {wrong.shape[1]}"


def _of_few_bits(actual: Array, expected: Array) -> Iterator[str]:
    """Find values that are all of a narrower type, next to values that are not."""
    narrow = narrowest(actual)
    if narrow and narrowest(expected) != narrow:
        yield f"has values of {BITS[narrow]} bits alone, as {narrow} has"


def narrowest(array: Array) -> str | None:
    """Name the narrowest type that holds all values of an array; None if there are none to tell
    by."""
    if array.size < 4 or (array == np.rint(array)).all():
        return None
    return next((dtype for dtype, bits in BITS.items() if _has_bits(array, bits)), None)


def _has_bits(array: Array, bits: int) -> bool:
    mantissa = np.frexp(array)[0] * 2.0**bits
    return bool((mantissa == np.rint(mantissa)).all())


def _by_channel(array: Array) -> Array | None:
    """Return the array in the shape (channels, everything else)."""
    return None if array.ndim < 2 else np.moveaxis(array, 1, 0).reshape(array.shape[1], -1)


def _listed(numbers: list[int]) -> str:
    shown = ", ".join(map(str, numbers[:8]))
    return f"{shown}, ..." if len(numbers) > 8 else shown


BITS = {"bfloat16": 8, "float16": 11, "float32": 24}
"""Gives the number of significant bits."""

Finder = Callable[[Array, Array], Iterator[str]]

RELATIONS: tuple[Finder, ...] = (
    *(_is_constant, _is_multiple, _is_shifted, _is_clipped, _is_permuted, _is_turned, _is_moved),
    _is_multiple_by_channel,
)
PLACES: tuple[Finder, ...] = (_is_only_somewhere, _of_few_bits)
