"""Runs a built network on canonical arrays, channels first."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from densespec.network.arrays import Arrays
from densespec_flax.arrays import to_numpy
from densespec_flax.modules import DenseNet


def in_training(model: DenseNet, training: bool) -> DenseNet:
    """Return a network of the same arrays that is in training mode, or in inference mode."""
    modes = {"use_running_average": not training, "deterministic": not training}
    return nnx.with_attributes(model, raise_if_not_found=False, **modes)


def as_input(model: DenseNet, x: np.ndarray) -> jax.Array:
    """Bring an array (batch, channels, *spatial) into a model's layout and type."""
    last = model.data_format == "channels_last"
    return jnp.asarray(np.moveaxis(x, 1, -1) if last else x, model.precision.dtype)


def forward(model: DenseNet, x: np.ndarray, taps: Sequence[str]) -> Arrays:
    """Compute the outputs of the named nodes in inference mode, of those that have a value."""
    graphdef, state = nnx.split(in_training(model, False))
    values = _values(graphdef, state, as_input(model, x), tuple(taps))
    return {
        name: np.ascontiguousarray(np.moveaxis(to_numpy(value), -1, 1))
        for name, value in values.items()
    }


def shapes(
    model: DenseNet, size: Sequence[int], taps: Sequence[str]
) -> dict[str, tuple[int | None, ...]]:
    """Find the shapes (channels, *spatial) of the named nodes' outputs, without computing them."""
    graphdef, state = nnx.split(in_training(model, False))
    x = as_input(model, np.zeros((1, *size), np.float32))
    values = jax.eval_shape(lambda state, x: _values(graphdef, state, x, tuple(taps)), state, x)
    return {name: (value.shape[-1], *value.shape[1:-1]) for name, value in values.items()}


def predict(model: DenseNet, x: np.ndarray) -> np.ndarray:
    """Compute what a model gives for x (batch, channels, *spatial) in inference mode."""
    graphdef, state = nnx.split(in_training(model, False))
    return to_numpy(_output(graphdef, state, as_input(model, x)))


def caller(model: DenseNet, x: np.ndarray) -> Callable[[], object]:
    """Return what computes a model's output once, compiled, and returns when that is done."""
    graphdef, state = nnx.split(in_training(model, False))
    given = as_input(model, x)
    return lambda: jax.block_until_ready(  # type: ignore[no-untyped-call]
        _output(graphdef, state, given)
    )


@functools.partial(jax.jit, static_argnums=(0, 3))
def _values(graphdef: Any, state: Any, x: Any, names: tuple[str, ...]) -> dict[str, Any]:
    shown = nnx.merge(graphdef, state).values(x)
    return {name: shown[name] for name in names if name in shown}


@functools.partial(jax.jit, static_argnums=0)
def _output(graphdef: Any, state: Any, x: Any) -> Any:
    return nnx.merge(graphdef, state)(x)
