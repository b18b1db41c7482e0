"""The one layer that standard Keras lacks: batch norm with unbiased running variance."""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="densespec")
class BatchNormalization(keras.layers.BatchNormalization):
    """Keras's batch norm, but running variance averages variances over n-1 values, not n.

    That is what the paper's Torch7 code and PyTorch do. Inference, and the normalisation of a
    training batch, are the same in both. The variance of a batch is taken around its mean, never
    as E[x^2] - E[x]^2, which loses digits and can turn negative in float32.

    One value per channel has no such variance: training on it is an error or, where TensorFlow
    learns the batch size only as it runs, makes the running variance NaN.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for option in ("renorm", "synchronized"):
            if getattr(self, option, False):
                raise ValueError(f"{option} = True, but unbiased running variance goes without it")

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        if not (training and self.trainable):
            return super().call(inputs, training=training, mask=mask)
        if mask is not None:
            raise ValueError(f"{self.name}: unbiased running variance takes no masked batches")
        dtype = keras.backend.result_type(inputs.dtype, "float32")
        x = ops.cast(inputs, dtype)
        if keras.config.backend() == "torch" and not x.is_meta:
            return ops.cast(self._call_torch(x), self.compute_dtype)
        mean = ops.mean(x, self._reduction_axes, keepdims=True)
        variance = ops.mean(ops.square(x - mean), self._reduction_axes)
        mean = ops.squeeze(mean, self._reduction_axes)
        self._update_running(mean, variance, self._count(x))
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
        """PyTorch's own batch norm, which is the same in one pass over memory."""
        from torch.nn import functional

        self._count(x)
        y = functional.batch_norm(
            x.movedim(self.axis, 1),
            self.moving_mean.value,
            self.moving_variance.value,
            ops.cast(self.gamma, x.dtype) if self.scale else None,
            ops.cast(self.beta, x.dtype) if self.center else None,
            training=True,
            momentum=1 - self.momentum,
            eps=self.epsilon,
        )
        return y.movedim(1, self.axis)

    def _count(self, x: Any) -> Any:
        """Values per channel."""
        shape = ops.shape(x)
        sizes = [shape[axis] for axis in self._reduction_axes]
        if all(isinstance(size, int) and size == 1 for size in sizes):
            raise ValueError(
                f"{self.name}: one value per channel has no unbiased variance: train on larger "
                "batches or inputs"
            )
        return math.prod(ops.cast(size, x.dtype) for size in sizes)

    def _update_running(self, mean: Any, variance: Any, count: Any) -> None:
        unbiased = variance * (count / (count - 1))
        for running, new in ((self.moving_mean, mean), (self.moving_variance, unbiased)):
            old = ops.cast(running, new.dtype)
            kept = ops.stop_gradient(old * self.momentum + new * (1 - self.momentum))
            running.assign(ops.cast(kept, running.dtype))
