"""Computes batch norm on TensorFlow as its one kernel for float32, and blocks with little memory.

If asked for, a block's derivative keeps the features alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import tensorflow as tf

from densespec.network import ops
from densespec.network.passes import SMALLEST_SCALE
from densespec_keras.kernels import BlockOperands, FeatureMaps, NormOperands, UnitOperands, common
from densespec_keras.kernels.common import avg_pool as avg_pool
from densespec_keras.kernels.common import whole as whole

Array = Any


def norm(features: FeatureMaps, norm: NormOperands, rectified: bool) -> Array:
    y, mean, variance = _normalised(features.x, norm)
    if norm.batch:
        norm.record(mean, variance, common.count(features.x))
    return relu(y) if rectified else y


def relu(x: Array) -> Array:
    """Keep NaN, which the ReLU that TensorFlow makes part of the op before it makes 0."""
    return tf.where(x < 0, tf.zeros([], x.dtype), x)


def conv(x: Array, kernel: Array, bias: Array, op: ops.Conv) -> Array:
    y = common.conv(x, kernel, None, op)
    return y if bias is None else tf.nn.bias_add(y, bias)  # which is fused, where + is not


def max_pool(x: Array, op: ops.MaxPool) -> Array:
    """Make a channel NaN that has NaN, which TensorFlow on CPUs takes for the least number."""
    y = common.max_pool(x, op)
    total = tf.reduce_sum(x, list(range(1, len(x.shape) - 1)), keepdims=True)
    return tf.where(tf.math.is_nan(total), tf.constant(float("nan"), x.dtype), y)


def _normalised(x: Array, norm: NormOperands) -> tuple[Array, Array, Array]:
    """Compute a norm, and the mean and the biased variance that it used."""
    if x.dtype != tf.float32:
        return _composed(x, norm)
    flat = x if len(x.shape) == 4 else tf.reshape(x, (tf.shape(x)[0], 1, -1, x.shape[-1]))
    given = (tf.constant([]),) * 2 if norm.batch else (norm.mean, norm.variance)
    y, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
        x=flat,
        scale=norm.gamma,
        offset=norm.beta,
        mean=given[0],
        variance=given[1],
        epsilon=norm.epsilon,
        is_training=norm.batch,
    )
    if norm.batch:  # it gives the unbiased one, and the biased one of a single value
        count = tf.cast(common.count(x), x.dtype)
        variance = variance * (tf.maximum(count - 1, 1) / count)
    return tf.reshape(y, tf.shape(x)) if flat is not x else y, mean, variance


def _composed(x: Array, norm: NormOperands) -> tuple[Array, Array, Array]:
    mean, variance = norm.mean, norm.variance
    if norm.batch:
        mean, variance = tf.nn.moments(x, list(range(len(x.shape) - 1)))
    y = (x - mean) * (norm.gamma * tf.math.rsqrt(variance + norm.epsilon)) + norm.beta
    return y, mean, variance


def block(features: FeatureMaps, layers: BlockOperands, recompute: bool) -> FeatureMaps:
    if recompute and any(unit.norm.batch for units in layers for unit in units):
        return FeatureMaps(_remembered(features.x, layers))
    x = features.x
    for units in layers:
        new, moments = _layer(x, units)
        _record(units, moments, x)
        x = tf.concat([x, new], -1)
    return FeatureMaps(x)


def _layer(x: Array, units: Sequence[UnitOperands]) -> tuple[Array, list[tuple[Array, Array]]]:
    """Compute what a dense layer adds, and the statistics that its norms used."""
    moments = []
    for unit, after in zip(units, [*units[1:], None], strict=True):
        mean, variance = unit.norm.mean, unit.norm.variance
        kernel, bias = unit.kernel, unit.bias
        if after is not None and after.folded:
            kernel, bias = _folded(kernel, bias, after.norm)
        if unit.folded:
            x = tf.nn.relu(x) if unit.relu else x
        elif _clips(unit):
            x, kernel, bias = _clipped(x, kernel, bias, unit.norm)
        else:
            x, mean, variance = _normalised(x, unit.norm)
            x = tf.nn.relu(x) if unit.relu else x
        x = conv(x, kernel, bias, unit.op)
        x = x if unit.scale is None else x * unit.scale
        moments.append((mean, variance))
    return x, moments


def _folded(kernel: Array, bias: Array, norm: NormOperands) -> tuple[Array, Array]:
    """Make a norm part of the convolution before it: give that one's kernel and bias."""
    scale = norm.gamma * tf.math.rsqrt(norm.variance + norm.epsilon)
    mean = norm.mean if bias is None else norm.mean - bias
    return kernel * scale, norm.beta - mean * scale


def _clips(unit: UnitOperands) -> bool:
    """Say whether a norm and its ReLU become a clip, as in ``densespec.network.passes``."""
    return unit.relu and not unit.norm.batch and unit.op.is_pointwise


def _clipped(
    x: Array, kernel: Array, bias: Array, norm: NormOperands
) -> tuple[Array, Array, Array]:
    """Make a norm part of the convolution behind it: clip x, and give kernel and bias of that."""
    scale = norm.gamma * tf.math.rsqrt(norm.variance + norm.epsilon)
    least = tf.where(scale < 0, -SMALLEST_SCALE, SMALLEST_SCALE)
    scale = tf.where(tf.abs(scale) < SMALLEST_SCALE, tf.cast(least, scale.dtype), scale)
    bound = norm.mean - norm.beta / scale
    kernel = kernel * scale[:, None]
    held = tf.reduce_sum(kernel * bound[:, None], list(range(len(kernel.shape) - 1)))
    y = tf.cond(
        tf.reduce_all(scale > 0),
        lambda: tf.maximum(x, bound),
        lambda: tf.where(scale > 0, tf.maximum(x, bound), tf.minimum(x, bound)),
    )
    return y, kernel, -held if bias is None else bias - held


def _record(
    units: Sequence[UnitOperands], moments: Sequence[tuple[Array, Array]], x: Array
) -> None:
    for unit, (mean, variance) in zip(units, moments, strict=True):
        if unit.norm.batch:
            unit.norm.record(mean, variance, common.count(x))


def _remembered(x: Array, layers: BlockOperands) -> Array:
    """Compute the features of a block whose backward pass has nothing else to start from."""
    arrays = [[_arrays(unit) for unit in units] for units in layers]
    found: list[Any] = []

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def run(x: Array, *flat: Array) -> tuple[Array, Any]:
        given = tf.nest.pack_sequence_as(arrays, flat)
        for units, own in zip(layers, given, strict=True):
            new, moments = _layer(x, _with_arrays(units, own))
            found.append(moments)
            x = tf.concat([x, new], -1)
        features = x

        def backward(slope: Array) -> tuple[Array, ...]:
            gradients: list[Array] = []
            for units, own in zip(reversed(layers), reversed(given), strict=True):
                channels = units[0].op.in_channels
                before, new_slope = slope[..., :channels], slope[..., channels:]
                # Without this the layer would be the forward pass's, whose activations then stay.
                with tf.control_dependencies([new_slope]):
                    before = tf.identity(features[..., :channels])
                flat = tf.nest.flatten(own)
                with tf.GradientTape(watch_accessed_variables=False) as tape:
                    tape.watch([before, *flat])
                    new, _ = _layer(before, _with_arrays(units, own))
                first, *rest = tape.gradient(new, [before, *flat], new_slope)
                slope, gradients = slope[..., :channels] + first, rest + gradients
            return slope, *gradients

        return features, backward

    features = run(x, *tf.nest.flatten(arrays))
    for units, moments in zip(layers, found, strict=True):
        _record(units, moments, x)
    return features


def _arrays(unit: UnitOperands) -> list[Array]:
    arrays = [unit.norm.gamma, unit.norm.beta, unit.kernel]
    arrays += [] if unit.bias is None else [unit.bias]
    return [tf.convert_to_tensor(array) for array in arrays]


def _with_arrays(
    units: Sequence[UnitOperands], arrays: Sequence[Sequence[Array]]
) -> list[UnitOperands]:
    return [
        replace(
            unit,
            norm=replace(unit.norm, gamma=own[0], beta=own[1]),
            kernel=own[2],
            bias=own[3] if len(own) > 3 else None,
        )
        for unit, own in zip(units, arrays, strict=True)
    ]
