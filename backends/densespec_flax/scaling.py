"""Scales the loss so that gradients of float16 do not vanish."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

START, PATIENCE = 2.0**16, 2000


class LossScale(NamedTuple):
    """Holds a factor on the loss, by which gradients are divided again.

    If gradients overflow, the factor is halved and the step is left out. After 2000 steps without
    an overflow it is doubled. This is PyTorch's rule.

    Attributes:
        steps: The number of steps since it last changed.
    """

    factor: Any
    steps: Any

    def after(self, finite: Any) -> LossScale:
        """Return the factor for the next step."""
        steps = jnp.where(finite, self.steps + 1, 0)
        grows = steps == PATIENCE
        kept = jnp.where(grows, self.factor * 2, self.factor)
        return LossScale(jnp.where(finite, kept, self.factor / 2), jnp.where(grows, 0, steps))


def first_scale() -> LossScale:
    """Return the factor of the first step."""
    return LossScale(jnp.float32(START), jnp.int32(0))


def all_finite(tree: Any) -> Any:
    """Say whether every value of a tree of arrays is finite."""
    return jnp.stack([jnp.isfinite(array).all() for array in jax.tree.leaves(tree)]).all()
