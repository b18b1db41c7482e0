"""Running a built Keras model on canonical arrays, channels first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from densespec.weights import Arrays
from densespec.weights.layouts.densespec_keras import layer_name
from densespec_keras.emitter import TO_CHANNELS_LAST


@dataclass(frozen=True)
class Formats:
    """Layouts of a built model: of its input, and of the layers within."""

    outer: str
    inner: str


def formats_of(model: Any) -> Formats:
    inner = model.get_layer("stem_conv").data_format
    permuted = any(layer.name == TO_CHANNELS_LAST for layer in model.layers)
    return Formats("channels_first" if permuted else inner, inner)


def as_input(x: np.ndarray, data_format: str, dtype: str) -> np.ndarray:
    """A channels-first array in a model's layout and dtype."""
    ordered = x if data_format == "channels_first" else np.moveaxis(x, 1, -1)
    return np.ascontiguousarray(ordered).astype(dtype)


def channels_first(y: np.ndarray, data_format: str) -> np.ndarray:
    """A layer's output, channels first; (batch, channels) as it is."""
    return y if data_format == "channels_first" else np.moveaxis(y, -1, 1)


def forward(model: Any, x: np.ndarray, taps: Sequence[str]) -> Arrays:
    """Outputs of the named nodes in inference mode."""
    formats = formats_of(model)
    outputs = {name: model.get_layer(layer_name(name)).output for name in taps}
    x = as_input(x, formats.outer, model.input.dtype)
    values = keras.Model(model.input, outputs).predict_on_batch(x)
    return {
        name: np.ascontiguousarray(channels_first(np.asarray(value), formats.inner))
        for name, value in values.items()
    }
