"""Defines a leaky ReLU with a trained slope of shape (1,), as in other frameworks; Flax's is ()."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx


class PRelu(nnx.Module):
    """Returns x if it is positive, and its slope times x otherwise.

    Args:
        dtype: The type in which it computes.
        param_dtype: The type of its slope.
    """

    def __init__(self, *, dtype: Any, param_dtype: Any, rngs: nnx.Rngs) -> None:
        self.dtype, self.param_dtype = dtype, param_dtype
        self.slope = nnx.Param(jnp.full((1,), 0.25, param_dtype))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Compute a value of each of x, of any shape."""
        x = jnp.asarray(x, self.dtype)
        return jnp.where(x > 0, x, jnp.asarray(self.slope[...], self.dtype) * x)
