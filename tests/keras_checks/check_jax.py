"""What is particular to the JAX engine."""

from __future__ import annotations

import jax
import pytest

import densespec


def test_float64_without_x64_is_refused_with_what_to_do() -> None:
    assert jax.numpy.zeros(1, "float64").dtype == "float32"
    with pytest.raises(ValueError, match="set JAX_ENABLE_X64=1"):
        densespec.build("densenet-40-12", backend="jax", dtype="float64")
