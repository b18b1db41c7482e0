"""Carries over what a model has beyond the values of its arrays to another of the same network."""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager
from typing import Any

import keras

from densespec.network.graph import Graph
from densespec.weights.layouts.densespec_keras import layer_name
from densespec_keras.inspecting import layer_at, leaves, paths_of


def policy_of(model: Any) -> Any:
    """Return the dtype policy of a model's first layer that computes."""
    first, *rest = leaves(model)
    return next(iter(rest), first).dtype_policy


def policies_of(model: Any, graph: Graph) -> dict[str, Any]:
    """Return the dtype policies of layers, by the names that they have where densespec builds."""
    return {
        layer_name(node): layer.dtype_policy for node, layer in _layers_of(model, graph).items()
    }


def on_device_of(model: Any) -> AbstractContextManager[Any]:
    """Build on the device of a model's arrays; on Keras's own choice where those are on several."""
    device = _device_of(model.variables[0].value)
    return keras.device(device) if device else contextlib.nullcontext()


def _device_of(value: Any) -> str | None:
    """Return Keras's name for the device of an array."""
    match keras.config.backend():
        case "tensorflow":
            _, *parts = str(value.device).split(":")
            return ":".join(parts[-2:]) if len(parts) > 1 else None
        case "jax":
            device, *others = value.devices()
            return None if others else f"{device.platform}:{device.id}"
    return str(value.device)


def keep_state(model: Any, source: Any, graph: Graph, *, trainable: bool) -> None:
    """Give the layers of a model what those of another do in training.

    Args:
        graph: The network of both.
        trainable: Whether what trains is taken over too.
    """
    if trainable:
        model.trainable = source.trainable
    others = _layers_of(source, graph)
    for node, layer in _layers_of(model, graph).items():
        if trainable:
            layer.trainable = others[node].trainable
        pairs = zip(layer.weights, others[node].weights, strict=True) if layer.weights else ()
        for own, other in pairs:  # a ReLU may be the activation of a layer with weights
            own.regularizer, own.constraint = other.regularizer, other.constraint
            if trainable:
                own.trainable = other.trainable


def _layers_of(model: Any, graph: Graph) -> dict[str, Any]:
    """Return the layers that compute nodes, by the names of those; the input does not."""
    paths = paths_of(model, graph)
    return {node.name: layer_at(model, paths[node.name]) for node in graph.nodes[1:]}
