"""Defines functions of each value, other than a ReLU."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from densespec.network import ops

Array = Any


def activation(op: ops.Activation, x: Array) -> Array:
    """Compute an activation of every value."""
    return _FUNCTIONS[op.kind](x, op.slope)


def _relu6(x: Array, slope: float) -> Array:
    """Keep NaN, which XLA's maximum can turn into 0 on CPUs."""
    return jnp.where(x <= 0, 0, jnp.where(x >= 6, 6, x))


_FUNCTIONS: Mapping[str, Callable[[Array, float], Array]] = {
    "leaky-relu": lambda x, slope: jnp.where(x > 0, x, slope * x),
    "elu": lambda x, slope: jax.nn.elu(x),
    "silu": lambda x, slope: jax.nn.silu(x),
    "gelu": lambda x, slope: jax.nn.gelu(x, approximate=False),
    "gelu-tanh": lambda x, slope: jax.nn.gelu(x, approximate=True),
    "relu6": _relu6,
}
