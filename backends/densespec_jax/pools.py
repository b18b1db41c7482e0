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
    return _max_pool(op, x)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _max_pool(op: ops.MaxPool, x: Array) -> Array:
    _, views = _views(op, x)
    return functools.reduce(_larger, views)


def _larger(a: Array, b: Array) -> Array:
    """Return the larger one of each pair, or NaN, which XLA's maximum can pass over on CPUs."""
    return jnp.where((a >= b) | (a != a), a, b)


def _views(op: ops.MaxPool, x: Array) -> tuple[Array, list[Array]]:
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
    return padded, views


def _max_pool_forward(op: ops.MaxPool, x: Array) -> tuple[Array, Any]:
    y = _max_pool(op, x)
    return y, (x, y)


def _max_pool_backward(op: ops.MaxPool, kept: Any, dy: Array) -> tuple[Array]:
    """Send the gradient to the first maximum of each window."""
    x, y = kept
    padded, views = _views(op, x)
    dx, unclaimed = jnp.zeros_like(padded), jnp.ones(y.shape, bool)
    for place, view in zip(itertools.product(*map(range, op.window)), views, strict=True):
        winner = unclaimed & (view == y)
        unclaimed &= ~winner
        reach = zip(place, padded.shape[1:-1], y.shape[1:-1], strict=True)
        pads = [(p, n - p - op.stride * (m - 1) - 1, op.stride - 1) for p, n, m in reach]
        dx += lax.pad(jnp.where(winner, dy, 0), jnp.zeros((), dy.dtype), _around(pads))
    padding: Any = ops.resolve_padding(op.padding, x.shape[1:-1], op.window, op.stride)
    return (lax.pad(dx, jnp.zeros((), dy.dtype), _around([(-a, -b, 0) for a, b in padding])),)


def _around(pads: Sequence[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    return [(0, 0, 0), *pads, (0, 0, 0)]


_max_pool.defvjp(_max_pool_forward, _max_pool_backward)
