"""Holds the type in which a network computes, and the types of its arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

TYPES = ("float16", "bfloat16", "float32", "float64")


@dataclass(frozen=True)
class Precision:
    """Holds the types of a network.

    Attributes:
        dtype: The type in which it computes.
        param_dtype: The type of its arrays; running statistics have at least float32.
    """

    dtype: Any
    param_dtype: Any

    @property
    def statistics(self) -> Any:
        """Return the type of running statistics."""
        return jnp.promote_types(self.param_dtype, jnp.float32)


def precision_of(name: str) -> Precision:
    """Return the types that a name stands for: mixed ones keep arrays in float32.

    Raises:
        ValueError: There is no such type, or JAX is set to compute in float32.
    """
    narrow = name.removeprefix("mixed_")
    if narrow not in TYPES:
        raise ValueError(
            f"dtype = {name!r}, but should be one of {', '.join(TYPES)}, 'mixed_bfloat16' and "
            "'mixed_float16'"
        )
    if narrow == "float64" and not jax.config.read("jax_enable_x64"):  # type: ignore[no-untyped-call]
        raise ValueError(
            "dtype = 'float64', but JAX computes in float32 unless told otherwise: set "
            "JAX_ENABLE_X64=1, or call jax.config.update('jax_enable_x64', True) first"
        )
    return Precision(jnp.dtype(narrow), jnp.dtype("float32" if narrow != name else narrow))
