"""Runs a built Keras model on canonical arrays, channels first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from densespec.backends import DataFormat
from densespec.network.arrays import Arrays
from densespec.network.graph import Graph
from densespec.weights.layouts.densespec_keras import layer_name
from densespec_keras.axes import TO_CHANNELS_LAST
from densespec_keras.emitter import kind_of
from densespec_keras.inspecting import leaves
from densespec_keras.variables import to_numpy


@dataclass(frozen=True)
class Formats:
    """Holds the layouts of a built model: of its input, and of the layers within."""

    outer: DataFormat
    inner: DataFormat


def formats_of(model: Any) -> Formats:
    """Return a model's layouts. A model of dense layers alone has no maps, so either is right."""
    stated = (getattr(layer, "data_format", None) for layer in leaves(model))
    inner: DataFormat = next(filter(None, stated), "channels_last")
    permuted = any(layer.name == TO_CHANNELS_LAST for layer in leaves(model))
    return Formats("channels_first" if permuted else inner, inner)


def precision_of(model: Any) -> str:
    """Return the precision of inputs, losses and rates: ``float64`` or else ``float32``.

    It is ``float64`` for models that compute in it. Models of lower precision round their inputs
    themselves.
    """
    return "float64" if model.inputs[0].dtype == "float64" else "float32"


def as_input(x: np.ndarray, data_format: str, dtype: str) -> np.ndarray:
    """Convert a channels-first array to a model's layout and dtype."""
    ordered = x if data_format == "channels_first" else np.moveaxis(x, 1, -1)
    return np.ascontiguousarray(ordered).astype(dtype)


def channels_first(y: np.ndarray, data_format: str) -> np.ndarray:
    """Transpose a layer's output to channels first; (batch, channels) stays as it is."""
    return y if data_format == "channels_first" else np.moveaxis(y, -1, 1)


def shapes(model: Any, names: Sequence[str]) -> dict[str, tuple[int | None, ...]]:
    """Return the shapes of the named nodes' outputs, channels first, without the batch."""
    inner = formats_of(model).inner
    found = {name: tuple(model.get_layer(layer_name(name)).output.shape[1:]) for name in names}
    if inner == "channels_first":
        return found
    return {name: (shape[-1], *shape[:-1]) for name, shape in found.items()}


def forward(model: Any, graph: Graph, x: np.ndarray, taps: Sequence[str]) -> Arrays:
    """Compute the named nodes' outputs in inference mode, as far as the model computes them."""
    formats = formats_of(model)
    x = as_input(x, formats.outer, precision_of(model))
    given = [node.name for node in graph.given]
    if set(given).issuperset(taps):
        y = keras.tree.flatten(model.predict_on_batch(x))
        return {
            name: np.ascontiguousarray(channels_first(to_numpy(value), formats.outer))
            for name, value in zip(given, y, strict=True)
            if name in taps
        }
    values = _showing(model, graph, taps).predict_on_batch(x)
    return {
        name: np.ascontiguousarray(channels_first(to_numpy(value), formats.inner))
        for name, value in values.items()
    }


def caller(model: Any, x: np.ndarray) -> Callable[[], object]:
    """Return the function that predicts a batch on the device once, and copies the answer."""
    formats = formats_of(model)
    given = keras.ops.convert_to_tensor(as_input(x, formats.outer, precision_of(model)))
    return lambda: model.predict_on_batch(given)


def _showing(model: Any, graph: Graph, taps: Sequence[str]) -> Any:
    """Make a model of the same layers that gives the values of nodes by name.

    The layers of a head that a user made have other names, but its output can still be asked for.
    """
    named = {layer.name: layer for layer in model.layers}
    outputs = {name: named[layer_name(name)].output for name in taps if layer_name(name) in named}
    if len(graph.output.shape) == 1 and graph.output.name in taps:
        given = [node.name for node in graph.given]
        outputs[graph.output.name] = model.outputs[given.index(graph.output.name)]
    if kind_of(model) is not keras.Model and model.is_fused():
        return model.showing(taps)
    return keras.Model(model.inputs, outputs)
