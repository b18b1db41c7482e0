"""Converts between canonical arrays and the variables of a module tree."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from densespec.network.arrays import Arrays
from densespec.network.graph import Graph
from densespec.weights.layouts import kernel_to_canonical
from densespec_flax.layers import from_canonical, path_of


def variables(model: nnx.Module, graph: Graph) -> dict[str, Any]:
    """Find the variable of every array of a network, by canonical name."""
    return {weight.name: at(model, path_of(weight.name)) for weight in graph.weights}


def at(model: Any, path: Sequence[Any]) -> Any:
    """Find what lies at a path of attributes, such as a variable by its path in a state."""
    return functools.reduce(getattr, path, model)


def read(model: nnx.Module, graph: Graph) -> Arrays:
    """Read every array of a model, under its canonical name and in its canonical shape."""
    return {name: to_canonical(name, v.get_value()) for name, v in variables(model, graph).items()}


def to_canonical(name: str, array: Any) -> np.ndarray:
    """Copy an array in Flax's order of axes into a canonical one."""
    array = to_numpy(array)
    return kernel_to_canonical(array) if name.endswith(".kernel") else array


def to_numpy(array: Any) -> np.ndarray:
    """Copy an array; bfloat16, which numpy lacks, becomes float32."""
    array = np.array(array)
    return array.astype(np.float32) if array.dtype == jnp.bfloat16 else array


def write(model: nnx.Module, graph: Graph, arrays: Mapping[str, np.ndarray]) -> None:
    """Replace every array of a model, each in its type. They are known to fit."""
    for name, variable in variables(model, graph).items():
        variable.set_value(from_canonical(name, arrays[name], variable.dtype))


@contextlib.contextmanager
def replaced(model: nnx.Module, graph: Graph, arrays: Mapping[str, Any]) -> Iterator[None]:
    """Let a model compute by other arrays for a while.

    Args:
        arrays: Those that are replaced, by canonical name, in Flax's order of axes.
    """
    found = {name: v for name, v in variables(model, graph).items() if name in arrays}
    before = {name: variable.get_value() for name, variable in found.items()}
    for name, variable in found.items():
        variable.set_value(arrays[name])
    try:
        yield
    finally:
        for name, variable in found.items():
            variable.set_value(before[name])


def count(model: nnx.Module) -> tuple[int, int]:
    """Count the values of parameters that train, and of all other arrays of the network."""
    trainable = _size(nnx.state(model, nnx.Param))
    return trainable, _size(nnx.state(model, nnx.Not(nnx.RngState))) - trainable


def _size(state: Any) -> int:
    return sum(math.prod(variable.shape) for _, variable in nnx.to_flat_state(state))
