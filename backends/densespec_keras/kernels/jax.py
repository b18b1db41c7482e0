"""On JAX: 1x1 convolutions as matrix products, and derivatives written out.

XLA's own derivative of a norm keeps what it need not and makes separate passes of what one does.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from densespec.network import ops
from densespec_keras.kernels import BlockOperands, FeatureMaps, NormOperands, UnitOperands

Array = Any


class _UnitStatic(NamedTuple):
    """What of a unit is no array, and so is known when a function is compiled."""

    op: ops.Conv
    epsilon: float
    batch: bool
    relu: bool


class _UnitArrays(NamedTuple):
    """The arrays of a unit; the mean and the variance are running ones."""

    gamma: Array
    beta: Array
    mean: Array
    variance: Array
    kernel: Array
    bias: Array
    scale: Array


class _Statistics(NamedTuple):
    mean: Array
    variance: Array


def norm(features: FeatureMaps, norm: NormOperands, relu: bool) -> Array:
    x = features.x
    mean, variance = norm.mean, norm.variance
    if norm.batch:
        known = features.mean is not None
        mean, variance = (features.mean, features.variance) if known else _moments(x)
        norm.record(lax.stop_gradient(mean), lax.stop_gradient(variance), _count(x))
    return _normalised((norm.epsilon, relu), x, mean, variance, norm.gamma, norm.beta)


def relu(x: Array) -> Array:
    """Keep NaN, of which XLA's maximum can make 0 on CPUs."""
    return jnp.where(x < 0, 0, x)


def conv(x: Array, kernel: Array, bias: Array, op: ops.Conv) -> Array:
    y = _convolved(x, kernel, op)
    return y if bias is None else y + bias


def block(features: FeatureMaps, layers: BlockOperands, recompute: bool) -> FeatureMaps:
    statics = tuple(
        tuple(_UnitStatic(u.op, u.norm.epsilon, u.norm.batch, u.relu) for u in units)
        for units in layers
    )
    arrays = tuple(tuple(_arrays(unit) for unit in units) for units in layers)
    entry = _Statistics(features.mean, features.variance)
    if entry.mean is None and any(static.batch for units in statics for static in units):
        entry = _Statistics(*_moments(features.x))
    x, whole, inner = _block((statics, recompute), features.x, entry, arrays)
    for units, moments in zip(layers, inner, strict=True):
        for place, unit in enumerate(units):
            if unit.norm.batch:
                channels = unit.op.in_channels
                mean, variance = (m[:channels] for m in whole) if not place else moments[place]
                unit.norm.record(lax.stop_gradient(mean), lax.stop_gradient(variance), _count(x))
    return FeatureMaps(x, *whole)


def _arrays(unit: UnitOperands) -> _UnitArrays:
    norm = unit.norm
    return _UnitArrays(
        norm.gamma, norm.beta, norm.mean, norm.variance, unit.kernel, unit.bias, unit.scale
    )


# Moments


def _axes(x: Array) -> tuple[int, ...]:
    return tuple(range(x.ndim - 1))


def _count(x: Array) -> int:
    return math.prod(x.shape[:-1])


@jax.custom_vjp
def _moments(x: Array) -> tuple[Array, Array]:
    """Compute the mean and the biased variance of each channel."""
    mean = x.mean(_axes(x))
    return mean, jnp.square(x - mean).mean(_axes(x))


def _moments_forward(x: Array) -> tuple[Any, Any]:
    mean, variance = _moments(x)
    return (mean, variance), (x, mean)


def _moments_backward(kept: Any, grown: Any) -> tuple[Array]:
    x, mean = kept
    return (_through_moments(x, mean, *grown),)


def _through_moments(x: Array, mean: Array, dmean: Array, dvariance: Array) -> Array:
    count = _count(x)
    return dmean / count + (x - mean) * (dvariance * (2 / count))


_moments.defvjp(_moments_forward, _moments_backward)


# Norms


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _normalised(
    static: tuple[float, bool], x: Array, mean: Array, variance: Array, gamma: Array, beta: Array
) -> Array:
    epsilon, rectified = static
    y = (x - mean) * (gamma * lax.rsqrt(variance + epsilon)) + beta
    return relu(y) if rectified else y


def _normalised_forward(static: Any, *args: Array) -> tuple[Array, Any]:
    return _normalised(static, *args), args


def _normalised_backward(static: tuple[float, bool], kept: Any, dy: Array) -> tuple[Array, ...]:
    x, mean, variance, gamma, _ = kept
    y = _normalised(static, *kept)
    g = jnp.where(y > 0, dy, 0) if static[1] else dy
    inverse = lax.rsqrt(variance + static[0])
    dbeta = g.sum(_axes(x))
    dscale = (g * (x - mean)).sum(_axes(x))
    scale = gamma * inverse
    dvariance = -0.5 * dscale * scale * inverse * inverse
    return g * scale, -scale * dbeta, dvariance, dscale * inverse, dbeta


_normalised.defvjp(_normalised_forward, _normalised_backward)


# Convolutions


def _convolved(x: Array, kernel: Array, op: ops.Conv) -> Array:
    if op.is_pointwise:
        return _product(x, kernel.reshape(kernel.shape[-2:]))
    spatial = "DHW"[3 - len(op.window) :]
    layout = f"N{spatial}C", f"{spatial}IO", f"N{spatial}C"
    padding = ops.resolve_padding(op.padding, x.shape[1:-1], op.window, op.stride)
    strides = (op.stride,) * len(op.window)
    return lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=layout)


def _product(x: Array, matrix: Array) -> Array:
    return (x.reshape(-1, x.shape[-1]) @ matrix).reshape(*x.shape[:-1], -1)


# Pools


def avg_pool(x: Array, op: ops.AvgPool) -> Array:
    window = (1, *op.window, 1)
    strides = (1, *(op.stride,) * len(op.window), 1)
    return lax.reduce_window(x, 0.0, lax.add, window, strides, "VALID") / math.prod(op.window)


def max_pool(x: Array, op: ops.MaxPool) -> Array:
    return _max_pool(op, x)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _max_pool(op: ops.MaxPool, x: Array) -> Array:
    _, views = _views(op, x)
    return functools.reduce(_larger, views)


def _larger(a: Array, b: Array) -> Array:
    """Give the larger one of each pair, or NaN, which XLA's maximum can pass over on CPUs."""
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


# Dense blocks


BlockStatic = tuple[tuple[_UnitStatic, ...], ...]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _block(config: tuple[BlockStatic, bool], x: Array, entry: _Statistics, arrays: Any) -> Any:
    return _block_forward(config, x, entry, arrays)[0]


def _block_forward(
    config: tuple[BlockStatic, bool], x: Array, entry: _Statistics, arrays: Any
) -> tuple[Any, Any]:
    """Compute the features, their moments, and those of what lies between convolutions."""
    statics, recompute = config
    shared = entry.mean is not None
    whole, kept, inner = entry, [], []
    for units, layer in zip(statics, arrays, strict=True):
        z, values = x, []
        moments: list[Any] = [whole]
        for place, (static, unit) in enumerate(zip(units, layer, strict=True)):
            if place:
                values.append(z)
                moments.append(_Statistics(*_moments(z)) if static.batch else None)
            z = _unit(static, unit, z, moments[place])
        x = jnp.concatenate([x, z], -1)
        if shared:
            whole = _Statistics(*map(_joined, whole, _moments(z)))
        kept.append(None if recompute else tuple(values))
        inner.append((None, *moments[1:]))
    return (x, whole, tuple(inner)), (x, whole, tuple(inner), tuple(kept), arrays)


def _joined(a: Array, b: Array) -> Array:
    return jnp.concatenate([a, b])


def _unit(static: _UnitStatic, unit: _UnitArrays, x: Array, moments: Any) -> Array:
    a = _normalised(
        (static.epsilon, static.relu), x, *_of(static, unit, moments), unit.gamma, unit.beta
    )
    z = conv(a, unit.kernel, unit.bias, static.op)
    return z if unit.scale is None else z * unit.scale


def _of(static: _UnitStatic, unit: _UnitArrays, moments: Any) -> tuple[Array, Array]:
    """Give the statistics that a unit normalises with."""
    return (moments.mean, moments.variance) if static.batch else (unit.mean, unit.variance)


def _block_backward(config: tuple[BlockStatic, bool], residual: Any, grown: Any) -> Any:
    statics, _ = config
    x, whole, inner, kept, arrays = residual
    dx, dwhole, _ = grown
    shared = whole.mean is not None
    gradients: list[Any] = [None] * len(statics)
    zero: Any = 0 * dx.ravel()[0]
    for index in reversed(range(len(statics))):
        units, layer = statics[index], arrays[index]
        channels, end = units[0].op.in_channels, dx.shape[-1]
        before, y = x[..., :channels], x[..., channels:end]
        moments: list[Any] = [
            _Statistics(*(m[:channels] + zero for m in whole)) if shared else None
        ]
        moments += inner[index][1:]
        values = kept[index]
        if values is None:
            values = _values(units, layer, before, moments)
        dz, dx = dx[..., channels:], dx[..., :channels]
        if shared:
            last = [d[channels:] for d in dwhole]
            dz = dz + _through_moments(y, whole.mean[channels:end], *last)
            dwhole = _Statistics(*(d[:channels] for d in dwhole))
        layer_gradients: list[Any] = [None] * len(units)
        for place in reversed(range(len(units))):
            z = values[place - 1] if place else before
            dz, dmoments, layer_gradients[place] = _unit_backward(
                units[place], layer[place], z, moments[place], dz
            )
            if not units[place].batch:
                continue
            if place:
                dz = dz + _through_moments(z, moments[place].mean, *dmoments)
            else:
                dwhole = _Statistics(*(a + b for a, b in zip(dwhole, dmoments, strict=True)))
        dx = dx + dz
        zero = _zero_after(layer_gradients)
        gradients[index] = tuple(layer_gradients)
    return dx, dwhole if shared else _Statistics(None, None), tuple(gradients)


def _zero_after(arrays: Any) -> Array:
    """Give a zero that is known only when these arrays are.

    XLA chooses the order of what does not depend on each other. Left alone, it would begin the
    backward pass of every layer at once, and have the memory for all of them.
    """
    return 0 * sum(array.sum() for array in jax.tree.leaves(arrays))


def _values(units: Any, layer: Any, x: Array, moments: Sequence[Any]) -> tuple[Array, ...]:
    """Compute again what lies between a layer's convolutions."""
    values = []
    for static, unit, its in zip(units[:-1], layer[:-1], moments[:-1], strict=True):
        x = _unit(static, unit, x, its)
        values.append(x)
    return tuple(values)


def _unit_backward(
    static: _UnitStatic, unit: _UnitArrays, x: Array, moments: Any, dz: Array
) -> tuple[Array, tuple[Array, Array], _UnitArrays]:
    """Compute the gradients of the input, of its moments, and of the arrays."""
    mean, variance = _of(static, unit, moments)
    norm = (static.epsilon, static.relu)
    a = _normalised(norm, x, mean, variance, unit.gamma, unit.beta)
    dscale = None
    if unit.scale is not None:
        dscale, dz = jnp.zeros_like(unit.scale), dz * unit.scale
    da, dkernel = _convolved_backward(static.op, a, unit.kernel, dz)
    dx, dmean, dvariance, dgamma, dbeta = _normalised_backward(
        norm, (x, mean, variance, unit.gamma, unit.beta), da
    )
    gradients = _UnitArrays(
        dgamma,
        dbeta,
        jnp.zeros_like(unit.mean),
        jnp.zeros_like(unit.variance),
        dkernel,
        None if unit.bias is None else dz.sum(_axes(dz)),
        dscale,
    )
    return dx, (dmean, dvariance), gradients


def _convolved_backward(op: ops.Conv, x: Array, kernel: Array, dy: Array) -> tuple[Array, Array]:
    derivative = jax.vjp(lambda x, kernel: _convolved(x, kernel, op), x, kernel)[1]
    dx, dkernel = derivative(dy)
    return dx, dkernel


_block.defvjp(_block_forward, _block_backward)
