"""Lists what a pool may do instead."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from densespec.network import ops
from densespec.reference.kernels import Array, Context, windows_of
from densespec_conformance.explaining.local.alternatives.alternative import (
    Alternative,
    Forward,
    Observation,
)
from densespec_conformance.explaining.local.alternatives.padding import other_pads, pads_of

Reduce = Callable[[Array, tuple[int, ...]], Array]


def _pooled(pads: ops.Pads, outside: float, reduce: Reduce) -> Forward:
    def forward(op: Any, ctx: Context, x: Array) -> Array:
        padded = np.pad(x, ((0, 0), (0, 0), *pads), constant_values=outside)
        windows = windows_of(padded, op.window, op.stride)
        return reduce(windows, tuple(range(x.ndim, windows.ndim)))

    return forward


def _mean_there(windows: Array, axes: tuple[int, ...]) -> Array:
    return np.nanmean(windows, axes)


def _first(windows: Array, axes: tuple[int, ...]) -> Array:
    place: Any = (..., *[0] * len(axes))
    return windows[place]


def _norm(windows: Array, axes: tuple[int, ...]) -> Array:
    return np.sqrt((windows**2).mean(axes))


def windows(seen: Observation) -> Iterator[Alternative]:
    """Find another way to make one value of a window, or another place of it."""
    op, pads = seen.op, pads_of(seen)
    if pads is None:
        return
    is_max = isinstance(op, ops.MaxPool)
    outside = -np.inf if is_max else 0.0
    own: Reduce = np.max if is_max else np.mean
    if is_max:
        yield Alternative("its padding is zero", _pooled(pads, 0.0, np.max))
        words = "it averages what is there, where the maximum is meant"
        yield Alternative(words, _pooled(pads, np.nan, _mean_there))
        words = "it averages, zeros outside included, where the maximum is meant"
        yield Alternative(words, _pooled(pads, 0.0, np.mean))
    else:
        yield Alternative("it takes the maximum, not the average", _pooled(pads, -np.inf, np.max))
    yield Alternative("it takes each window's first value", _pooled(pads, outside, _first))
    yield Alternative("it takes the minimum", _pooled(pads, np.inf, np.min))
    yield Alternative("it sums", _pooled(pads, 0.0, np.sum))
    yield Alternative("it takes the root of the mean square", _pooled(pads, 0.0, _norm))
    for words, other in other_pads(pads, seen):
        if other != pads:
            yield Alternative(words, _pooled(other, outside, own))
            if not is_max:
                yield Alternative(
                    f"{words}, and what is outside does not count",
                    _pooled(other, np.nan, _mean_there),
                )
    if seen.inputs is not None:
        yield from _over_the_edge(op, pads, seen.inputs[0].shape[2:], own, is_max)


def _over_the_edge(
    op: Any, pads: Any, size: tuple[int, ...], own: Reduce, is_max: bool
) -> Iterator[Alternative]:
    """Round the number of windows up: the last may reach over the edge."""
    more = tuple(
        (before, after + -(length + before + after - width) % op.stride)
        for (before, after), length, width in zip(pads, size, op.window, strict=True)
    )
    if more == pads:
        return
    words = "the number of windows is rounded up"
    if is_max:
        yield Alternative(words, _pooled(more, -np.inf, own))
    else:
        yield Alternative(
            f"{words}, and what is there averaged", _pooled(more, np.nan, _mean_there)
        )
        yield Alternative(f"{words}, and zeros there count", _pooled(more, 0.0, np.mean))


def _both(first: Array, second: Array) -> Array:
    return np.concatenate((first, second), axis=1)


GLOBAL: tuple[tuple[str, Reduce], ...] = (
    ("it takes the maximum, not the average", np.max),
    ("it takes the average, not the maximum", np.mean),
    ("it sums", np.sum),
    ("it takes the root of the mean square", _norm),
    ("it takes the minimum", np.min),
    ("it takes the first position", _first),
    ("it takes the mean of maximum and average", lambda x, axes: (x.max(axes) + x.mean(axes)) / 2),
    ("it takes the sum of maximum and average", lambda x, axes: x.max(axes) + x.mean(axes)),
    ("it has all averages and then all maxima", lambda x, axes: _both(x.mean(axes), x.max(axes))),
    ("it has all maxima and then all averages", lambda x, axes: _both(x.max(axes), x.mean(axes))),
    ("it takes the median", lambda x, axes: np.median(x, axes)),
)


def whole_maps(seen: Observation) -> Iterator[Alternative]:
    """Find another way to make one value of a feature map."""
    for words, reduce in GLOBAL:
        yield Alternative(words, _over_maps(reduce))


def _over_maps(reduce: Reduce) -> Forward:
    def forward(op: ops.GlobalPool, ctx: Context, x: Array) -> Array:
        assert math.prod(x.shape[2:])
        return reduce(x, tuple(range(2, x.ndim)))

    return forward


MIRRORS: tuple[tuple[str, str], ...] = (
    ("constant", "it pads with zeros, where a mirror is meant"),
    ("edge", "it repeats the edge, where a mirror is meant"),
    ("symmetric", "its mirror repeats the edge"),
    ("wrap", "it pads with the other side, where a mirror is meant"),
)
"""Lists ways to pad by numpy's names."""


def blurs(seen: Observation) -> Iterator[Alternative]:
    """Find another way to pad a blur, or other factors of it."""
    own = functools.reduce(np.multiply.outer, np.asarray(seen.op.factors))
    for mode, words in MIRRORS:
        yield Alternative(words, _blurred(mode, own))
    even, middle = np.full_like(own, 1 / own.size), (own == own.max()).astype(float)
    yield Alternative("it averages its windows evenly", _blurred("reflect", even))
    yield Alternative("it leaves positions out without a blur", _blurred("reflect", middle))
    yield Alternative("its factors are not normalised", _blurred("reflect", own / own.min()))


def _blurred(mode: Any, factors: Array) -> Forward:
    def forward(op: ops.BlurPool, ctx: Context, x: Array) -> Array:
        padded = np.pad(x, ((0, 0), (0, 0), *op.pads), mode=mode)
        windows = windows_of(padded, op.window, op.stride)
        places = tuple(range(x.ndim, windows.ndim))
        return np.tensordot(windows, factors, (places, range(len(places))))

    return forward


FIND = (windows,)
FIND_BLUR = (blurs,)
FIND_GLOBAL = (whole_maps,)
