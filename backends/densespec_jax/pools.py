"""Computes pools: means, maxima and blurs over windows."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from densespec.network import ops

Array = Any


def avg_pool(x: Array, op: ops.AvgPool) -> Array:
    """Compute the means over windows."""
    window = (1, *op.window, 1)
    strides = (1, *(op.stride,) * len(op.window), 1)
    return lax.reduce_window(x, 0.0, lax.add, window, strides, "VALID") / math.prod(op.window)


def blur_pool(x: Array, op: ops.BlurPool) -> Array:
    """Compute binomial means over windows of a mirrored input, one dimension after another."""
    for axis, factors in enumerate(op.factors, start=1):
        x = _blurred(jnp.moveaxis(x, axis, 1), factors, op)
        x = jnp.moveaxis(x, 1, axis)
    return x


def _blurred(x: Array, factors: Sequence[float], op: ops.BlurPool) -> Array:
    """Blur along the first dimension."""
    pad = (len(factors) - 1) // 2
    padded = jnp.pad(x, ((0, 0), (pad, pad), *[(0, 0)] * (x.ndim - 2)), mode="reflect")
    last = padded.shape[1] - len(factors) + 1
    views = (padded[:, place : place + last : op.stride] for place in range(len(factors)))
    return functools.reduce(jnp.add, map(jnp.multiply, factors, views))


def global_pool(x: Array, op: ops.GlobalPool) -> Array:
    """Compute the mean or the maximum over all positions, or both."""
    spatial = tuple(range(1, x.ndim - 1))
    match op.kind:
        case "avg":
            return x.mean(spatial)
        case "max":
            return x.max(spatial)
        case "avgmax":
            return 0.5 * (x.mean(spatial) + x.max(spatial))
    return jnp.concatenate((x.mean(spatial), x.max(spatial)), 1)


def max_pool(x: Array, op: ops.MaxPool) -> Array:
    """Compute the maxima over windows; gradients go to the first maximum of each."""
    return _max_pool(op, x.shape[1:-1], x)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _max_pool(op: ops.MaxPool, sizes: tuple[int, ...], x: Array) -> Array:
    return _maxima(op, x)[0]


def _maxima(op: ops.MaxPool, x: Array) -> tuple[Array, Array]:
    """Return the maximum of each window, and at which place of the window it is first.

    NaN is larger than any number; XLA's own maximum can pass over it on CPUs.
    """
    y, *others = _views(op, x)
    first = jnp.zeros(y.shape, jnp.uint8 if len(others) < 256 else jnp.int32)
    for place, view in enumerate(others, 1):
        stays = (y >= view) | (y != y)
        y, first = jnp.where(stays, y, view), jnp.where(stays, first, place)
    return y, first


def _views(op: ops.MaxPool, x: Array) -> list[Array]:
    """Pad the input, and view each place in a window over all positions, in row-major order."""
    dims = len(op.window)
    padding = ops.resolve_padding(op.padding, x.shape[1:-1], op.window, op.stride)
    padded = jnp.pad(x, ((0, 0), *padding, (0, 0)), constant_values=-jnp.inf)
    sizes: Any = op.output((x.shape[-1], *x.shape[1:-1]))[1:]
    views = []
    for place in itertools.product(*map(range, op.window)):
        stop = [p + op.stride * (size - 1) + 1 for p, size in zip(place, sizes, strict=True)]
        strides = (1, *(op.stride,) * dims, 1)
        limits = (len(x), *stop, x.shape[-1])
        views.append(lax.slice(padded, (0, *place, 0), limits, strides))
    return views


def _max_pool_forward(op: ops.MaxPool, sizes: tuple[int, ...], x: Array) -> tuple[Array, Array]:
    """Keep places, which are computed once: XLA may compute a value again with other roundings,
    and the maximum of a window would then be none of its values.
    """
    y, first = _maxima(op, x)
    return y, lax.optimization_barrier(first)  # type: ignore[no-untyped-call]


def _max_pool_backward(
    op: ops.MaxPool, sizes: tuple[int, ...], first: Array, dy: Array
) -> tuple[Array]:
    """Send the gradient to the first maximum of each window."""
    padding: Any = ops.resolve_padding(op.padding, sizes, op.window, op.stride)
    padded = [size + sum(around) for size, around in zip(sizes, padding, strict=True)]
    zero = jnp.zeros((), dy.dtype)
    dx = jnp.zeros((dy.shape[0], *padded, dy.shape[-1]), dy.dtype)
    for number, place in enumerate(itertools.product(*map(range, op.window))):
        reach = zip(place, padded, dy.shape[1:-1], strict=True)
        pads = [(p, n - p - op.stride * (m - 1) - 1, op.stride - 1) for p, n, m in reach]
        dx += lax.pad(jnp.where(first == number, dy, 0), zero, _around(pads))
    return (lax.pad(dx, zero, _around([(-a, -b, 0) for a, b in padding])),)


def _around(pads: Sequence[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    return [(0, 0, 0), *pads, (0, 0, 0)]


_max_pool.defvjp(_max_pool_forward, _max_pool_backward)
