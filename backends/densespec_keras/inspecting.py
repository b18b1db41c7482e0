"""Finds which network a Keras model's layers are now, whatever was changed since they were made.

The model's config says it, and is read like a file's config. A change that a config does not state,
such as another ``call`` of a layer, is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import keras

from densespec.errors import ModelChanged, SpecError, WeightsError, shown
from densespec.network.graph import Graph, Node, freeze, lower
from densespec.weights.layouts.densespec_keras import layer_name
from densespec.weights.stated.keras_network import StatedGraph, graph_of_entry, part_of_entry
from densespec.weights.stated.network import StatedOtherwise
from densespec_keras.axes import TO_CHANNELS_FIRST

SETTINGS = (
    "activation",
    "axis",
    "center",
    "data_format",
    "dilation_rate",
    "groups",
    "max_value",
    "kind",
    "negative_slope",
    "noise_shape",
    "padding",
    "pool_mode",
    "pool_size",
    "scale",
    "strides",
    "threshold",
    "use_bias",
)
"""These attributes of layers say what they compute, besides numbers such as epsilon and rates."""

_CALLED = ("call", "forward", "convolution_op")
"""Calls of Keras's layers go through these methods."""
_HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
)
"""PyTorch has the hooks of a module under these names. On PyTorch, Keras's layers are modules."""

_PACKAGES = ("keras", "densespec_keras")
"""Layers come from these packages: no config says what other packages' layers do."""

_PLAIN = (bool, int, float, str, tuple)
_STATES = ("built", "training")
"""These attributes of layers change as they are used."""

_CARRIED = (
    "batch_norm_epsilon",
    "batch_norm_momentum",
    "running_variance",
    "dropout_rate",
    "classes",
    "head_units",
    "head_dropout_rate",
    "classifier_bias",
    "global_pool",
    "activation",
    "activation_slope",
    "norm",
    "norm_groups",
    "norm_affine",
)
"""Changes of a model change these fields of its spec."""


def graph_of(model: Any, graph: Graph) -> Graph:
    """Return the graph that a model, which was built of another graph, is of now.

    Raises:
        ModelChanged: A layer is not what any spec says.
    """
    try:
        now = _stated(model, graph).graph
    except (WeightsError, SpecError) as error:
        raise _changed(error, model, graph) from error
    frozen = {node.name for node in graph.nodes if node.frozen}
    nodes = tuple(replace(node, frozen=node.name in frozen) for node in now.nodes)
    if nodes == graph.nodes:
        return graph
    spec = now.spec if graph.outputs else _in_words_of(graph, now)
    return Graph(spec, nodes, graph.outputs)


def stated_graph(model: Any) -> StatedGraph:
    """Read the graph of a model from its layers, with nothing frozen, and the layer of each node.

    Raises:
        StatedOtherwise: No spec says what a layer computes; the message names it.
        WeightsError: It is no network of densespec's kind.
    """
    _check_parts(model)
    return graph_of_entry({"class_name": _class_of(model), "config": model.get_config()})


def _check_parts(model: Any) -> None:
    for part in (model, *leaves(model)):
        if problem := _hidden_change(part):
            raise StatedOtherwise(f"{part.name} {problem}, which no spec can say", part.name)


def paths_of(model: Any, graph: Graph) -> Mapping[str, str]:
    """Return the paths of the layers that compute the nodes of a model's graph, by their names.

    Raises:
        WeightsError: As for :func:`stated_graph`.
    """
    return _stated(model, graph).layers


def _stated(model: Any, graph: Graph) -> StatedGraph:
    return _stated_part(model, graph) if graph.outputs else stated_graph(model)


def _stated_part(model: Any, graph: Graph) -> StatedGraph:
    """Read the graph of a model with outputs, which is a part of a network.

    Raises:
        WeightsError: As for :func:`stated_graph`, or it gives other parts than it was built for.
    """
    _check_parts(model)
    config = model.get_config()
    layers = [entry for entry in config["layers"] if entry["name"] != TO_CHANNELS_FIRST]
    last = [[layer_name(graph.output.name), 0, 0]]
    parts = {"layers": layers, "output_layers": last}
    return part_of_entry({"class_name": _class_of(model), "config": config | parts}, graph)


def layers_of(model: Any, graph: Graph) -> dict[str, Any]:
    """Return the layer of every node that has arrays: by its name, or by what the model states."""
    nodes = [node for node in graph.nodes if node.weights]
    named = {layer.name: layer for layer in model.layers}
    found = {node.name: named.get(layer_name(node.name)) for node in nodes}
    if all(_fits(found[node.name], node) for node in nodes):
        return found
    paths = paths_of(model, graph)
    return {node.name: layer_at(model, paths[node.name]) for node in nodes}


def leaves(model: Any) -> Iterator[Any]:
    """Yield the layers of a model and of the models in it."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from leaves(layer)
        else:
            yield layer


def layer_at(model: Any, path: str) -> Any:
    """Return the layer at a path, which names the models that it is in."""
    for name in path.split("/"):
        model = model.get_layer(name)
    return model


def settings_of(layer: Any) -> tuple[Any, ...]:
    """Return what says whether a layer computes what it did; it is read at every call."""
    own = vars(layer)
    hooked = map(bool, map(own.get, _HOOKS))
    return (type(layer), *map(own.get, SETTINGS), *map(own.get, _CALLED), *hooked)


def frozen_as(model: Any, stated: StatedGraph) -> Graph:
    """Return the graph of a model with those parts frozen whose layers are.

    Raises:
        WeightsError: A layer is frozen behind one that trains, or none trains.
    """
    graph = stated.graph
    flags = {
        node.name: bool(layer_at(model, stated.layers[node.name]).trainable)
        for node in graph.nodes
        if node.weights
    }
    trains = [name for name, flag in flags.items() if flag]
    if not trains:
        raise WeightsError("no layer of the model trains")
    names = list(flags)
    first = names.index(trains[0])
    behind = [name for name in names[first:] if not flags[name]]
    if behind:
        raise WeightsError(
            f"{behind[0]} is frozen, but {trains[0]} before it trains: a training state has "
            "only leading parts frozen"
        )
    return freeze(graph, trains[0]) if first else graph


def _class_of(model: Any) -> str:
    return "Sequential" if isinstance(model, keras.Sequential) else "Functional"


def _fits(layer: Any, node: Node) -> bool:
    """Say whether a layer has as many values as a node."""
    return layer is not None and layer.count_params() == sum(w.size for w in node.weights)


def _hidden_change(layer: Any) -> str | None:
    """Say what was changed in a layer that its config does not say; None if nothing was."""
    own = vars(layer)
    for name in _CALLED:
        method = getattr(type(layer), name, None)
        if name in own or (method and method.__module__.partition(".")[0] not in _PACKAGES):
            return f"has another {name} than Keras's"
    if any(own.get(name) for name in _HOOKS):
        return "has hooks"
    if getattr(layer, "quantization_mode", None) or getattr(layer, "lora_enabled", None):
        return "is quantised, or has LoRA's arrays"
    return None if isinstance(layer, keras.Model) else _unstated(layer)


def _unstated(layer: Any) -> str | None:
    """Name what a layer has that one of its config has not, such as the mode of a pool."""
    kind = type(layer)
    try:
        stated = vars(kind.from_config(layer.get_config()))
    except (TypeError, ValueError):
        return None  # a config that Keras does not understand says no network
    for name, value in vars(layer).items():
        if name not in stated and callable(getattr(kind, name, None)):
            return f"has another {name} than Keras's"
        plain = not name.startswith("_") and isinstance(value, _PLAIN) and name not in _STATES
        if plain and stated.get(name, value) != value:
            return f"has {name} = {shown(value)} beside its config"
    return None


def _in_words_of(graph: Graph, now: Graph) -> Any:
    """Say by the spec of a graph, with what has changed, what another spec says in other words."""
    changed = {name: getattr(now.spec, name) for name in _CARRIED}
    if not now.has_classifier:
        changed |= {"classes": graph.spec.classes, "head_units": graph.spec.head_units}
    try:
        spec = graph.spec.replace(**changed)
        same = lower(
            spec,
            now.input_size,
            include_top=now.has_classifier,
            pooling=None if now.has_classifier else now.pooling,
            classifier_activation=now.classifier_activation,
        )
    except SpecError:
        return now.spec
    return spec if same.nodes == now.nodes else now.spec


def _changed(error: Exception, model: Any, graph: Graph) -> ModelChanged:
    nodes = {layer_name(node.name): node for node in graph.nodes}
    path = getattr(error, "layer", None)
    name = (path or "").rpartition("/")[2]
    layer = next((layer for layer in leaves(model) if layer.name == name), model)
    node = nodes.get(layer.name)
    expected = "nothing there" if node is None else shown(node.op)
    return ModelChanged(path or model.name, _described(layer), expected, str(error))


def _described(layer: Any) -> str:
    own = vars(layer)
    values = {name: getattr(own[name], "__name__", own[name]) for name in SETTINGS if name in own}
    said = ", ".join(f"{name}={shown(value)}" for name, value in values.items())
    return f"{type(layer).__name__}({said})"
