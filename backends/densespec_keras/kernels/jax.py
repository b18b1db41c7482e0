"""Computes on JAX with the functions of ``densespec_jax``, which Flax's modules use too."""

from __future__ import annotations

from typing import Any

from jax import lax

from densespec_jax import blocks
from densespec_jax.convolutions import conv as conv
from densespec_jax.norms import Moments, NormConfig, count_of, moments, normalised
from densespec_jax.norms import relu as relu
from densespec_jax.pools import avg_pool as avg_pool
from densespec_jax.pools import max_pool as max_pool
from densespec_keras.kernels import BlockOperands, FeatureMaps, NormOperands, UnitOperands
from densespec_keras.kernels.common import whole as whole

Array = Any


def norm(features: FeatureMaps, norm: NormOperands, rectified: bool) -> Array:
    x, used = features.x, Moments(norm.mean, norm.variance)
    if norm.batch:
        used = _known(features) or moments(x)
        _record(norm, used, x)
    return normalised(NormConfig(norm.epsilon, rectified), x, *used, norm.gamma, norm.beta)


def block(features: FeatureMaps, layers: BlockOperands, recompute: bool) -> FeatureMaps:
    config = tuple(tuple(_config(unit) for unit in units) for units in layers)
    arrays = tuple(tuple(_arrays(unit) for unit in units) for units in layers)
    y = blocks.block(config, recompute, features.x, _known(features), arrays)
    for units, inner in zip(layers, y.inner, strict=True):
        for unit, own in zip(units, inner, strict=True):
            if unit.norm.batch:
                channels = unit.op.in_channels
                _record(unit.norm, own or Moments(*(m[:channels] for m in y.whole)), y.x)
    return FeatureMaps(y.x, *y.whole)


def _known(features: FeatureMaps) -> Moments | None:
    return None if features.mean is None else Moments(features.mean, features.variance)


def _record(norm: NormOperands, used: Moments, x: Array) -> None:
    mean, variance = map(lax.stop_gradient, used)
    norm.record(mean, variance, count_of(x))


def _config(unit: UnitOperands) -> blocks.UnitConfig:
    return blocks.UnitConfig(unit.op, NormConfig(unit.norm.epsilon, unit.relu), unit.norm.batch)


def _arrays(unit: UnitOperands) -> blocks.UnitArrays:
    norm = unit.norm
    return blocks.UnitArrays(
        norm.gamma, norm.beta, norm.mean, norm.variance, unit.kernel, unit.bias, unit.scale
    )
