"""The one layer that standard Keras lacks: batch norm with unbiased running variance."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="densespec")
class BatchNormalization(keras.layers.BatchNormalization):
    """Keras's batch norm, but running variance averages variances over n-1 values, not n.

    That is what the paper's Torch7 code and PyTorch do. Inference, and the normalisation of a
    training batch, are the same in both. The variance of a batch is taken around its mean, never
    as E[x^2] - E[x]^2, which loses digits and can turn negative in float32.
    """

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        if not (training and self.trainable):
            return super().call(inputs, training=training, mask=mask)
        dtype = keras.backend.result_type(inputs.dtype, "float32")
        x = ops.cast(inputs, dtype)
        mean = ops.mean(x, self._reduction_axes, keepdims=True)
        variance = ops.mean(ops.square(x - mean), self._reduction_axes)
        mean = ops.squeeze(mean, self._reduction_axes)
        self._update_running(mean, variance, self._count(x))
        outputs = ops.batch_normalization(
            x,
            mean=mean,
            variance=variance,
            axis=self.axis,
            offset=ops.cast(self.beta, dtype),
            scale=ops.cast(self.gamma, dtype),
            epsilon=self.epsilon,
        )
        return ops.cast(outputs, self.compute_dtype)

    def _count(self, x: Any) -> Any:
        """Values per channel."""
        shape = ops.shape(x)
        count = ops.cast(1, x.dtype)
        for axis in self._reduction_axes:
            count = count * ops.cast(shape[axis], x.dtype)
        return count

    def _update_running(self, mean: Any, variance: Any, count: Any) -> None:
        unbiased = variance * (count / (count - 1))
        for running, new in ((self.moving_mean, mean), (self.moving_variance, unbiased)):
            old = ops.cast(running, new.dtype)
            kept = ops.stop_gradient(old * self.momentum + new * (1 - self.momentum))
            running.assign(ops.cast(kept, running.dtype))
