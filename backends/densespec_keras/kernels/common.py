"""Holds what Keras's own operations do well enough on every engine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keras import ops as keras_ops

from densespec.network import ops
from densespec.network.graph import Graph
from densespec_keras.emitter import keras_padding

Array = Any


def conv(x: Array, kernel: Array, bias: Array, op: ops.Conv) -> Array:
    x, padding = _padded(x, op, 0.0)
    y = keras_ops.conv(x, kernel, strides=op.stride, padding=padding, data_format="channels_last")
    return y if bias is None else y + bias


def max_pool(x: Array, op: ops.MaxPool) -> Array:
    x, padding = _padded(x, op, -float("inf"))
    return keras_ops.max_pool(x, op.window, op.stride, padding, data_format="channels_last")


def avg_pool(x: Array, op: ops.AvgPool) -> Array:
    return keras_ops.average_pool(x, op.window, op.stride, "valid", data_format="channels_last")


def _padded(x: Array, op: ops.Conv | ops.MaxPool, value: float) -> tuple[Array, str]:
    """Pad the input where Keras has no word for an op's padding, and give that word."""
    padding = keras_padding(op)
    if padding is None:
        x = keras_ops.pad(x, [(0, 0), *op.padding, (0, 0)], constant_values=value)
    return x, padding or "valid"


def whole(graph: Graph, layers: Mapping[str, Any]) -> None:
    """Say that nothing computes a whole network at a time."""


def count(x: Array) -> Any:
    """Count the values of a channel: a number where the shape is known."""
    total: Any = 1
    for size in keras_ops.shape(x)[:-1]:
        total = total * size
    return total
