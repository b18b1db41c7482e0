"""Connects canonical arrays and a Keras model's variables: names, axes, initializers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np

from densespec.network import ops
from densespec.network.arrays import Arrays
from densespec.network.graph import Graph, Node
from densespec.weights.layouts import kernel_from_canonical, kernel_to_canonical
from densespec_keras.inspecting import layers_of

_VARIABLES = {"running_mean": "moving_mean", "running_variance": "moving_variance"}
_NUMPY_DTYPES = {"bfloat16": "float32"}
"""Maps dtypes that numpy lacks to the ones to convert from."""


def to_numpy(tensor: Any) -> np.ndarray:
    """Copy a tensor into an array; bfloat16, which numpy lacks, becomes float32."""
    array = np.array(keras.ops.convert_to_numpy(tensor))
    return array.astype(np.float32) if array.dtype.name == "bfloat16" else array


def variables(model: Any, graph: Graph) -> dict[str, Any]:
    """Find the variable of every array of a network, by canonical name."""
    layers = layers_of(model, graph)
    return {
        weight.name: getattr(layers[node.name], attribute_of(weight))
        for node in graph.nodes
        for weight in node.weights
    }


def attribute_of(weight: ops.Weight) -> str:
    """Return the name that an array of a node has as an attribute of its layer."""
    return _VARIABLES.get(weight.short, weight.short)


def read(model: Any, graph: Graph) -> Arrays:
    """Read every array of a model, under its canonical name and in its canonical shape."""
    return canonical({name: to_numpy(v) for name, v in variables(model, graph).items()})


def canonical(arrays: Mapping[str, np.ndarray]) -> Arrays:
    """Bring arrays from Keras's order of axes into the canonical one.

    Keras has kernels as (*window, in, out), and the classifier's as (in, out).
    """
    return {
        name: kernel_to_canonical(array) if name.endswith(".kernel") else array
        for name, array in arrays.items()
    }


def write(model: Any, graph: Graph, arrays: Mapping[str, np.ndarray]) -> None:
    """Replace every array of a model. They are known to fit."""
    for name, variable in variables(model, graph).items():
        variable.assign(from_canonical(name, arrays[name]))


def from_canonical(name: str, array: np.ndarray) -> np.ndarray:
    """Bring a canonical array into Keras's order of axes."""
    array = np.asarray(array)
    return kernel_from_canonical(array) if name.endswith(".kernel") else array


class Given(keras.initializers.Initializer):
    """Starts a variable with an array, which on JAX compiles nothing.

    It is for building alone: see :func:`state_initializers`.
    """

    def __init__(self, array: np.ndarray) -> None:
        self._array = array

    def __call__(self, shape: Any, dtype: Any = None, **kwargs: Any) -> Any:
        array = self._array.astype(_NUMPY_DTYPES.get(dtype, dtype), order="C")  # always a copy
        tensor = keras.ops.convert_to_tensor(array, dtype)
        # PyTorch's would be numpy's memory, in which it can't tell what was written.
        return tensor.clone() if keras.config.backend() == "torch" else tensor


def initializers(node: Node, arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Make the arguments by which the layer of a node starts with its canonical arrays."""
    return {
        f"{attribute_of(weight)}_initializer": Given(
            from_canonical(weight.name, arrays[weight.name])
        )
        for weight in node.weights
    }


def state_initializers(model: Any, graph: Graph) -> None:
    """Give layers the initializers that :mod:`densespec.network.initial` documents.

    Layers are built with the arrays themselves; a clone of the model, or a file of it, initialises
    itself and must know how.
    """
    layers = layers_of(model, graph)
    for node in graph.nodes:
        for weight in node.weights:
            name = f"{attribute_of(weight)}_initializer"
            setattr(layers[node.name], name, _DOCUMENTED[weight.initial]())


_DOCUMENTED: Mapping[ops.Initial, Callable[[], Any]] = {
    "zeros": keras.initializers.Zeros,
    "ones": keras.initializers.Ones,
    "quarter": lambda: keras.initializers.Constant(0.25),
    "he-normal": keras.initializers.HeNormal,
    "uniform": lambda: keras.initializers.VarianceScaling(1 / 3, "fan_in", "uniform"),
}


def trainable(model: Any, graph: Graph) -> dict[str, Any]:
    """Return the trainable variables by canonical name."""
    found = variables(model, graph)
    return {w.name: found[w.name] for w in graph.weights if w.trainable}


def running_statistics(model: Any, graph: Graph) -> list[Any]:
    """Return the variables that training moves but no gradient does."""
    return [
        variable
        for name, variable in variables(model, graph).items()
        if name.endswith((".running_mean", ".running_variance"))
    ]


def layer_policy(model: Any) -> str:
    """Return the name of the dtype policy of a model's layers."""
    return str(model.layers[-1].dtype_policy.name)
