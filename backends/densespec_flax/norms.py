"""Defines batch norms beyond Flax's own: of unbiased variance, and frozen."""

from __future__ import annotations

from typing import Any

import jax
from flax import nnx


class BatchNorm(nnx.BatchNorm):
    """This is Flax's batch norm, but its running variance averages variances over n - 1 values.

    The paper's Torch7 code and PyTorch do the same. Inference, and the normalisation of a training
    batch, are the same in both.
    """

    def __call__(
        self, x: Any, use_running_average: bool | None = None, *, mask: Any = None
    ) -> jax.Array:
        """Normalise x (batch, *spatial, channels).

        Raises:
            ValueError: In training, there is one value per channel, or a mask.
        """
        running = self.use_running_average if use_running_average is None else use_running_average
        if running:
            return super().__call__(x, True)
        count, before = self._count(x, mask), self.var[...]
        y = super().__call__(x, False)
        added = self.var[...] - self.momentum * before
        self.var[...] = self.var[...] + added / (count - 1)
        return y

    def kept(self, variance: jax.Array, count: int) -> jax.Array:
        """Return what the running variance averages, by the biased variance of ``count`` values."""
        return variance * (_several(count) / (count - 1))

    def _count(self, x: jax.Array, mask: Any) -> int:
        """Count the values of a channel, over all devices."""
        if mask is not None:
            raise ValueError("unbiased running variance takes no masked batches")
        devices = 1 if self.axis_name is None else jax.lax.axis_size(self.axis_name)
        return _several(x.size // x.shape[self.axis] * devices)


def _several(count: int) -> int:
    if count < 2:
        raise ValueError(
            "one value per channel has no unbiased variance: train on larger batches or inputs"
        )
    return count


class GroupNorm(nnx.GroupNorm):
    """This is Flax's group norm, but takes variances around the mean, and knows its size."""

    def __init__(self, num_features: int, num_groups: int, **options: Any) -> None:
        super().__init__(num_features, num_groups, use_fast_variance=False, **options)
        self.num_features = num_features


class FrozenBatchNorm(nnx.BatchNorm):
    """Computes by its running statistics, in training mode too."""

    def __call__(
        self, x: Any, use_running_average: bool | None = None, *, mask: Any = None
    ) -> jax.Array:
        """Normalise x (batch, *spatial, channels)."""
        return super().__call__(x, True)


def kept_variance(norm: nnx.BatchNorm, variance: jax.Array, count: int) -> jax.Array:
    """Return what a norm's running variance averages, by the biased variance of a batch."""
    return norm.kept(variance, count) if isinstance(norm, BatchNorm) else variance
