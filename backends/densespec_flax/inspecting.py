"""Finds which network a model's modules are now, whatever was changed since they were made.

Numbers that a spec has (epsilon, momentum, the rate of dropouts, the sizes of the head) are read
from the modules. Everything else has to be what this package makes of the graph.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NoReturn

from flax import nnx

from densespec.errors import ModelChanged
from densespec.network.graph import HEAD_DROPOUT, Graph, Node, in_head, with_spec
from densespec.network.ops import BatchNorm, Dense, Dropout, GroupNorm
from densespec_flax.as_built import NUMBERS, difference
from densespec_flax.layers import kind_of
from densespec_flax.modules import DenseNet, Part


def graph_of(model: DenseNet, graph: Graph, kind: type[DenseNet]) -> Graph:
    """Return the graph that a model of some kind, which was built of another graph, is of now.

    Raises:
        ModelChanged: A module is not what any spec says.
    """
    if type(model) is not kind:
        _refuse("the model itself", type(model).__name__, kind.__name__)
    now = _restated(model, graph)
    _check_parts(model, graph)
    for node in now.nodes[1:]:
        _check(model, node)
    return now


# What a spec can say


def _restated(model: DenseNet, graph: Graph) -> Graph:
    """Lower the graph anew, with the numbers that the modules have."""
    spec = graph.spec.replace(**_numbers(model, graph), **_sizes(model, graph))
    now = with_spec(graph, spec)
    frozen = {node.name for node in graph.nodes if node.frozen}
    nodes = tuple(replace(n, frozen=n.name in frozen) for n in now.nodes)
    return replace(now, nodes=nodes)


def _numbers(model: DenseNet, graph: Graph) -> dict[str, float]:
    """Read what modules of one kind share: what most of them have, and the others should have."""
    read: tuple[tuple[Any, str, str, Callable[[float], float]], ...] = (
        (BatchNorm, "batch_norm_epsilon", "epsilon", lambda value: value),
        (GroupNorm, "batch_norm_epsilon", "epsilon", lambda value: value),
        (BatchNorm, "batch_norm_momentum", "momentum", lambda value: round(1 - value, 12)),
        (Dropout, "dropout_rate", "rate", lambda value: value),
    )
    numbers = {}
    for op, field, attribute, stated in read:
        nodes = [node for node in graph.nodes_of(op) if kind_of(node, model.precision)[0]]
        nodes = [node for node in nodes if not in_head(node.name)]
        values = [getattr(model.module(node.name), attribute, None) for node in nodes]
        value = statistics.mode(values) if values else None
        built = kind_of(nodes[0], model.precision)[1][attribute] if nodes else None
        if value == built or not isinstance(value, float):
            continue
        if 0 < value < 1 or (op is Dropout and value == 0):
            numbers[field] = stated(value)
    return numbers


def _sizes(model: DenseNet, graph: Graph) -> dict[str, Any]:
    """Read the sizes of the head's layers, where those are still linear ones."""
    layers = [model.module(node.name) for node in graph.nodes_of(Dense)]
    if not layers or not all(type(layer) is nnx.Linear for layer in layers):
        return {}
    *units, classes = (layer.out_features for layer in layers)
    bias = layers[-1].bias is not None
    return {"head_units": units, "classes": classes, "classifier_bias": bias} | _dropout(model)


def _dropout(model: DenseNet) -> dict[str, Any]:
    """Read the rate of the dropout before the classifier, where there still is one."""
    rate = getattr(model.module(HEAD_DROPOUT), "rate", None)
    return {"head_dropout_rate": rate} if isinstance(rate, float) and 0 < rate < 1 else {}


# Whether modules are what the spec says


def _check(model: DenseNet, node: Node) -> None:
    """Compare the module of a node with what the node says."""
    module, (kind, settings) = model.module(node.name), kind_of(node, model.precision)
    precision = model.precision
    if _is_new(module, node):
        precision = replace(precision, dtype=module.dtype, param_dtype=module.param_dtype)
    if differing := difference(module, node, precision):
        _refuse(node.name, *differing)
    for name in sorted(NUMBERS & settings.keys()):
        if (value := getattr(module, name)) != settings[name]:
            _refuse(node.name, f"{kind.__name__} with {name} = {value!r}", repr(settings[name]))


def _is_new(module: Any, node: Node) -> bool:
    """Say whether a module may be made by a user who left its types to Flax."""
    return in_head(node.name) and type(module) is nnx.Linear


def _check_parts(model: DenseNet, graph: Graph) -> None:
    """Refuse modules where the graph has none, and parts of another kind."""
    names = {node.name for node in graph.nodes}
    parts = {part for name in names for part in _parts_of(name)}
    for path, module in nnx.iter_modules(model):
        name = ".".join(map(str, path))
        if name in parts and type(module) is not Part:
            _refuse(name, type(module).__name__, "a part of the network")
        if name and name not in parts | names and not _within(name, names):
            _refuse(name, type(module).__name__, "nothing there")


def _parts_of(name: str) -> set[str]:
    """Return the names of the parts that a node lies in."""
    return set(itertools.accumulate(name.split(".")[:-1], lambda *names: ".".join(names)))


def _within(name: str, names: set[str]) -> bool:
    """Say whether a module is part of a node's module, as a dropout's source of randomness is."""
    return any(name.startswith(f"{node}.") for node in names)


def _refuse(name: str, actual: str, expected: str) -> NoReturn:
    raise ModelChanged(name, actual, expected)
