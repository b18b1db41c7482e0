"""Defines what standard Keras lacks, such as unbiased running variance and dropout that freezes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from densespec.network.ops import BlurPool


@keras.saving.register_keras_serializable(package="densespec")
class BatchNormalization(keras.layers.BatchNormalization):
    """This is Keras's batch norm, but its running variance averages variances over n - 1 values.

    The paper's Torch7 code and PyTorch do the same. Inference, and the normalisation of a training
    batch, are the same in both. The variance of a batch is taken around its mean, never as E[x^2] -
    E[x]^2, which loses digits and can turn negative in float32.

    One value per channel has no such variance: training on it is an error or, where TensorFlow
    learns the batch size only as it runs, makes the running variance NaN.

    With ``synchronized`` (only on TensorFlow) the statistics are taken over the batch of all
    replicas of the distribution strategy.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.renorm:
            raise ValueError("renorm = True, but unbiased running variance goes without it")

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        if not (training and self.trainable):
            return super().call(inputs, training=training, mask=mask)
        if mask is not None:
            raise ValueError(f"{self.name}: unbiased running variance takes no masked batches")
        dtype = keras.backend.result_type(inputs.dtype, "float32")
        x = ops.cast(inputs, dtype)
        if keras.config.backend() == "torch" and not x.is_meta:
            return ops.cast(self._call_torch(x), self.compute_dtype)
        mean, variance, count = self._synchronised(x) if self.synchronized else self._statistics(x)
        move_statistics(self, mean, variance, count)
        outputs = ops.batch_normalization(
            x,
            mean=mean,
            variance=variance,
            axis=self.axis,
            offset=ops.cast(self.beta, dtype) if self.center else None,
            scale=ops.cast(self.gamma, dtype) if self.scale else None,
            epsilon=self.epsilon,
        )
        return ops.cast(outputs, self.compute_dtype)

    def _call_torch(self, x: Any) -> Any:
        """Compute by PyTorch's own batch norm, which is the same in one pass over memory."""
        from torch.nn import functional

        self._count(x)
        running = (self.moving_mean, self.moving_variance)
        mean, variance = (ops.cast(each.value, x.dtype) for each in running)  # a copy, if in half
        y = functional.batch_norm(
            x.movedim(self.axis, 1),
            mean,
            variance,
            ops.cast(self.gamma, x.dtype) if self.scale else None,
            ops.cast(self.beta, x.dtype) if self.center else None,
            training=True,
            momentum=1 - self.momentum,
            eps=self.epsilon,
        )
        for each, new in zip(running, (mean, variance), strict=True):
            if new is not each.value:
                each.assign(new)
        return y.movedim(1, self.axis)

    def _statistics(self, x: Any) -> tuple[Any, Any, Any]:
        """Compute mean, biased variance and number of a channel's values."""
        mean = ops.mean(x, self._reduction_axes, keepdims=True)
        variance = ops.mean(ops.square(x - mean), self._reduction_axes)
        return ops.squeeze(mean, self._reduction_axes), variance, self._count(x)

    def _synchronised(self, x: Any) -> tuple[Any, Any, Any]:
        """Compute the same over all replicas, which each have a part of the batch.

        Gradients go through these sums too, and replicas must meet in them in the same order. Here
        each sum needs the one before it; Keras's own synchronised norm has sums side by side, and
        TensorFlow differentiates those in any order.
        """
        import tensorflow as tf

        replica = tf.distribute.get_replica_context()
        if replica is None:
            return self._statistics(x)
        shape = ops.shape(x)
        count = math.prod(ops.cast(shape[axis], x.dtype) for axis in self._reduction_axes)
        count = replica.all_reduce("sum", count)
        mean = replica.all_reduce("sum", ops.sum(x, self._reduction_axes, keepdims=True)) / count
        squares = ops.sum(ops.square(x - mean), self._reduction_axes)
        variance = replica.all_reduce("sum", squares) / count
        return ops.squeeze(mean, self._reduction_axes), variance, count

    def _count(self, x: Any) -> Any:
        """Count the values of a channel."""
        shape = ops.shape(x)
        sizes = [shape[axis] for axis in self._reduction_axes]
        if all(isinstance(size, int) for size in sizes):
            require_several(self, math.prod(sizes))
        return math.prod(ops.cast(size, x.dtype) for size in sizes)

    def kept(self, variance: Any, count: Any) -> Any:
        """Return what the running variance averages."""
        return variance * (count / (count - 1))


class BiasedSynchronised(BatchNormalization):
    """This is a synchronised norm of biased running variance: see ``_synchronised``."""

    def kept(self, variance: Any, count: Any) -> Any:
        return variance


@keras.saving.register_keras_serializable(package="densespec")
class Dropout(keras.layers.Dropout):
    """This is Keras's dropout, but drops nothing with ``trainable = False``.

    Keras's own goes on dropping in a frozen backbone, whose output then changes from step to step.
    As with Keras's batch norm, a compiled model takes up a change when it is compiled again.
    """

    def call(self, inputs: Any, training: bool = False) -> Any:
        return super().call(inputs, training=bool(training and self.trainable))


@keras.saving.register_keras_serializable(package="densespec")
class LeakyReLU(keras.layers.LeakyReLU):
    """This is Keras's leaky ReLU, but exact in float64: TensorFlow's has its slope in float32."""

    def call(self, inputs: Any) -> Any:
        return ops.where(inputs > 0, inputs, self.negative_slope * inputs)


@keras.saving.register_keras_serializable(package="densespec")
class TanhGelu(keras.layers.Layer):
    """Computes GELU by the hyperbolic tangent; Keras's activation of that name is the exact one.

    In float64 it is written out: TensorFlow's function has its constants in float32.
    """

    def call(self, inputs: Any) -> Any:
        if keras.backend.standardize_dtype(inputs.dtype) != "float64":
            return ops.gelu(inputs, approximate=True)
        inner = math.sqrt(2 / math.pi) * (inputs + 0.044715 * inputs**3)
        return 0.5 * inputs * (1 + ops.tanh(inner))

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape


@keras.saving.register_keras_serializable(package="densespec")
class Gelu(keras.layers.Layer):
    """Computes GELU exactly in float64: TensorFlow's function has its constants in float32."""

    def call(self, inputs: Any) -> Any:
        return 0.5 * inputs * (1 + ops.erf(inputs / math.sqrt(2)))

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape


@keras.saving.register_keras_serializable(package="densespec")
class PRelu(keras.layers.Layer):
    """This is a leaky ReLU with one trained slope, of shape (1,); Keras has one a channel."""

    def __init__(self, slope_initializer: Any = 0.25, **options: Any) -> None:
        super().__init__(**options)
        constant = isinstance(slope_initializer, float)
        self.slope_initializer = (
            keras.initializers.Constant(slope_initializer)
            if constant
            else keras.initializers.get(slope_initializer)
        )

    def build(self, input_shape: Any) -> None:
        self.slope = self.add_weight(
            shape=(1,), initializer=self.slope_initializer, name="slope", trainable=True
        )

    def call(self, inputs: Any) -> Any:
        return ops.where(inputs > 0, inputs, ops.convert_to_tensor(self.slope) * inputs)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        slope = keras.initializers.serialize(self.slope_initializer)
        return {**super().get_config(), "slope_initializer": slope}


@keras.saving.register_keras_serializable(package="densespec")
class BlurPooling(keras.layers.Layer):
    """Takes binomial means over windows of a mirrored input: (batch, *spatial, channels), halved.

    Args:
        pool_size: The size of the windows along each dimension.
        strides: The distance between windows, in positions.
        data_format: ``"channels_last"`` or ``"channels_first"``.
    """

    def __init__(
        self, pool_size: Sequence[int], strides: int, data_format: str, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.pool_size, self.strides = tuple(pool_size), strides
        self.data_format = data_format
        self._op = BlurPool(self.pool_size, strides)

    def call(self, inputs: Any) -> Any:
        first = 2 if self.data_format == "channels_first" else 1
        x = inputs
        for axis, factors in enumerate(self._op.factors, start=first):
            x = self._blurred(x, axis, factors)
        return x

    def _blurred(self, x: Any, axis: int, factors: Sequence[float]) -> Any:
        pad, before = (len(factors) - 1) // 2, (slice(None),) * axis
        # Keras's own mirror has no single axis of its choice on PyTorch.
        start = ops.flip(x[(*before, slice(1, pad + 1))], axis)
        end = ops.flip(x[(*before, slice(-pad - 1, -1))], axis)
        padded = ops.concatenate((start, x, end), axis)
        views = (
            padded[(*before, slice(place, place - 2 * pad or None, self.strides))]
            for place in range(len(factors))
        )
        return sum(factor * view for factor, view in zip(factors, views, strict=True))

    def compute_output_shape(self, input_shape: Any) -> Any:
        channels_first = self.data_format == "channels_first"
        batch, *shape = input_shape
        canonical = tuple(shape) if channels_first else (shape[-1], *shape[:-1])
        channels, *sizes = self._op.output(canonical)
        return (batch, channels, *sizes) if channels_first else (batch, *sizes, channels)

    def get_config(self) -> dict[str, Any]:
        own = {"pool_size": self.pool_size, "strides": self.strides}
        return super().get_config() | own | {"data_format": self.data_format}


@keras.saving.register_keras_serializable(package="densespec")
class GlobalPooling(keras.layers.Layer):
    """Pools globally by both means and maxima: (batch, *spatial, channels) to (batch, n).

    Args:
        kind: ``"avgmax"`` for half their sum, ``"catavgmax"`` for all means and then all maxima.
        data_format: ``"channels_last"`` or ``"channels_first"``.
    """

    def __init__(self, kind: str, data_format: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.kind, self.data_format = kind, data_format

    def call(self, inputs: Any) -> Any:
        first = 2 if self.data_format == "channels_first" else 1
        axes = tuple(range(first, first + len(inputs.shape) - 2))
        mean, maximum = ops.mean(inputs, axes), ops.max(inputs, axes)
        if self.kind == "avgmax":
            return 0.5 * (mean + maximum)
        return ops.concatenate((mean, maximum), axis=1)

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"kind": self.kind, "data_format": self.data_format}


def require_several(layer: Any, count: Any) -> None:
    """Check that there are several values per channel, where their number is known.

    Raises:
        ValueError: There is one value, which has no unbiased variance.
    """
    if isinstance(layer, BatchNormalization) and isinstance(count, int) and count == 1:
        raise ValueError(
            f"{layer.name}: one value per channel has no unbiased variance: train on larger "
            "batches or inputs"
        )


def move_statistics(layer: Any, mean: Any, variance: Any, count: Any) -> None:
    """Let a norm's running statistics follow a batch's mean and biased variance."""
    if isinstance(layer, BatchNormalization):
        variance = layer.kept(variance, count)
    for running, new in ((layer.moving_mean, mean), (layer.moving_variance, variance)):
        old = ops.cast(running, new.dtype)
        moved = ops.stop_gradient(old * layer.momentum + new * (1 - layer.momentum))
        running.assign(ops.cast(moved, running.dtype))
