"""Computes dense blocks as one function, whose backward pass may compute activations again."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from densespec.network import ops
from densespec_jax.convolutions import conv, conv_backward
from densespec_jax.norms import (
    Moments,
    NormConfig,
    axes_of,
    normalised,
    normalised_backward,
    through_moments,
)
from densespec_jax.norms import moments as moments_of

Array = Any


class UnitConfig(NamedTuple):
    """Holds what is known of a unit when a function is compiled: everything that is no array.

    Attributes:
        batch: Whether its norm normalises with the statistics of the batch.
    """

    op: ops.Conv
    norm: NormConfig
    batch: bool


class UnitArrays(NamedTuple):
    """Holds the arrays of a unit.

    Attributes:
        mean, variance: The running statistics.
        bias: The convolution's bias; None if there is none.
        scale: The dropout behind the convolution, as a factor; None if nothing is dropped.
    """

    gamma: Array
    beta: Array
    mean: Array
    variance: Array
    kernel: Array
    bias: Array
    scale: Array


BlockConfig = tuple[tuple[UnitConfig, ...], ...]
"""Holds the units by layer."""


class BlockOutput(NamedTuple):
    """Holds what a block gives.

    Attributes:
        x: The features.
        whole: The moments of the features; two None if no norm takes the statistics of the batch.
        inner: The moments of what each unit reads, by layer and unit. A moment is None unless the
            unit reads a value within the layer and its norm takes the statistics of the batch.
    """

    x: Array
    whole: Moments
    inner: tuple[tuple[Moments | None, ...], ...]


def block(
    config: BlockConfig, recompute: bool, x: Array, entry: Moments | None, arrays: Any
) -> BlockOutput:
    """Compute dense layers one after another; each puts its features behind those it reads.

    Args:
        recompute: Whether the backward pass computes activations again.
        entry: The moments of x, if they are known.
        arrays: :class:`UnitArrays` by layer and unit.
    """
    if entry is None:
        batch = any(unit.batch for units in config for unit in units)
        entry = moments_of(x) if batch else Moments(None, None)
    return BlockOutput(*_block((config, recompute), x, entry, arrays))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _block(config: tuple[BlockConfig, bool], x: Array, entry: Moments, arrays: Any) -> Any:
    return _block_forward(config, x, entry, arrays)[0]


def _block_forward(
    config: tuple[BlockConfig, bool], x: Array, entry: Moments, arrays: Any
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
                moments.append(moments_of(z) if static.batch else None)
            z = _unit(static, unit, z, moments[place])
        x = jnp.concatenate([x, z], -1)
        if shared:
            whole = Moments(*map(_joined, whole, moments_of(z)))
        kept.append(None if recompute else tuple(values))
        inner.append((None, *moments[1:]))
    return (x, whole, tuple(inner)), (x, whole, tuple(inner), tuple(kept), arrays)


def _joined(a: Array, b: Array) -> Array:
    return jnp.concatenate([a, b])


def _unit(static: UnitConfig, unit: UnitArrays, x: Array, moments: Any) -> Array:
    a = normalised(static.norm, x, *_of(static, unit, moments), unit.gamma, unit.beta)
    z = conv(a, unit.kernel, unit.bias, static.op)
    return z if unit.scale is None else z * unit.scale


def _of(static: UnitConfig, unit: UnitArrays, moments: Any) -> tuple[Array, Array]:
    """Return the statistics that a unit normalises with."""
    return (moments.mean, moments.variance) if static.batch else (unit.mean, unit.variance)


def _block_backward(config: tuple[BlockConfig, bool], residual: Any, grown: Any) -> Any:
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
        moments: list[Any] = [Moments(*(m[:channels] + zero for m in whole)) if shared else None]
        moments += inner[index][1:]
        values = kept[index]
        if values is None:
            values = _values(units, layer, before, moments)
        dz, dx = dx[..., channels:], dx[..., :channels]
        if shared:
            last = [d[channels:] for d in dwhole]
            dz = dz + through_moments(y, whole.mean[channels:end], *last)
            dwhole = Moments(*(d[:channels] for d in dwhole))
        layer_gradients: list[Any] = [None] * len(units)
        for place in reversed(range(len(units))):
            z = values[place - 1] if place else before
            dz, dmoments, layer_gradients[place] = _unit_backward(
                units[place], layer[place], z, moments[place], dz
            )
            if not units[place].batch:
                continue
            if place:
                dz = dz + through_moments(z, moments[place].mean, *dmoments)
            else:
                dwhole = Moments(*(a + b for a, b in zip(dwhole, dmoments, strict=True)))
        dx = dx + dz
        zero = _zero_after(layer_gradients)
        gradients[index] = tuple(layer_gradients)
    return dx, dwhole if shared else Moments(None, None), tuple(gradients)


def _zero_after(arrays: Any) -> Array:
    """Return a zero that is known only when these arrays are.

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
    static: UnitConfig, unit: UnitArrays, x: Array, moments: Any, dz: Array
) -> tuple[Array, tuple[Array, Array], UnitArrays]:
    """Compute the gradients of the input, of its moments, and of the arrays."""
    mean, variance = _of(static, unit, moments)
    a = normalised(static.norm, x, mean, variance, unit.gamma, unit.beta)
    dscale = None
    if unit.scale is not None:
        dscale, dz = jnp.zeros_like(unit.scale), dz * unit.scale
    da, dkernel = conv_backward(static.op, a, unit.kernel, dz)
    dx, dmean, dvariance, dgamma, dbeta = normalised_backward(
        static.norm, (x, mean, variance, unit.gamma, unit.beta), da
    )
    gradients = UnitArrays(
        dgamma,
        dbeta,
        jnp.zeros_like(unit.mean) if static.batch else dmean,
        jnp.zeros_like(unit.variance) if static.batch else dvariance,
        dkernel,
        None if unit.bias is None else dz.sum(axes_of(dz)),
        dscale,
    )
    return dx, (dmean, dvariance), gradients


_block.defvjp(_block_forward, _block_backward)
