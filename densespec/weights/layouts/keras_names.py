"""Defines what Keras's files have in common, whichever model they hold.

Keras 3 (``.weights.h5``, ``.keras``) numbers layers of one class in the order of the model:
``layers/conv2d_3/vars/0``. Legacy ``.h5`` files use names of layers and variables:
``conv1_conv/kernel``. Both store kernels as (*window, in, out).
"""

from __future__ import annotations

import itertools
import json
import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from densespec.errors import WeightsError
from densespec.network import ops
from densespec.network.graph import Graph
from densespec.texts import JsonError, parsed_json
from densespec.weights.evidence import Evidence, KernelShape, evidence_by_name, evidence_in_order
from densespec.weights.layouts import canonical_shape, renamed
from densespec.weights.layouts.places import UNIT, by_place
from densespec.weights.tensors import Tensor, Tensors

KERAS_3 = ("keras-weights", "keras")
LEGACY = "keras-legacy"

LayerName = Callable[[str], str]
"""Returns the name of the layer that computes a node, by the node's name."""

_NUMBERED = re.compile(r"(.+)_([1-9][0-9]{0,5})")
_VARIABLES = {"running_mean": "moving_mean", "running_variance": "moving_variance"}
_ORDER = ("kernel", "bias"), ("gamma", "beta", "moving_mean", "moving_variance"), ("slope",)
_CLASSES: Mapping[type, str] = {
    ops.BatchNorm: "batch_normalization",
    ops.GroupNorm: "group_normalization",
    ops.PRelu: "p_relu",
    ops.Dense: "dense",
}
"""Names the layers of an op in Keras 3's files, besides convolutions."""

PORT = {
    "activation": "relu",
    "batch_norm_epsilon": 1.001e-5,
    "batch_norm_momentum": 0.01,
    "bottleneck_width": 4,
    "conv_bias": False,
    "dropout_rate": 0.0,
    "final_norm": True,
    "norm": "batch",
    "norm_affine": True,
    "running_variance": "biased",
    "spatial_dims": 2,
    "stem_kernel": 7,
    "stem_kind": "conv-norm-relu",
    "stem_pool": 3,
    "stem_stride": 2,
    "stem_width": 64,
    "transition_relu": True,
    "head_dropout_rate": 0.0,
    "classifier_bias": True,
    "global_pool": "avg",
    "stem_pool_kind": "max",
    "transition_pool_kind": "avg",
}
"""Keras's ports of torchvision's network have these fields in common."""


def port_names(
    block: Callable[[int], str], transition: Callable[[int], str], leaves: Mapping[str, str]
) -> LayerName:
    """Make the function that names the layers of such a port.

    Args:
        block: the function that returns a block's name by its number.
        transition: the function that returns a transition's name by its number.
        leaves: the names of the layers in a dense layer, by the last part of the node's name.
    """
    named = by_place(
        stem=lambda kind: f"conv1_{UNIT[kind]}",
        layer=lambda number, layer, kind, which: (
            f"{block(number)}_block{layer}_{leaves[kind + which]}"
        ),
        transition=lambda number, kind: f"{transition(number)}_{UNIT[kind]}",
        others={"final.norm": "bn", "classifier": "predictions"},
    )
    return lambda node: named(node).replace(".", "_")


def keys(layer_name: LayerName, backbone: str = "") -> Callable[[Graph, str], dict[str, str]]:
    """Make the function that names a network's arrays.

    Args:
        backbone: the part of Keras 3's paths for the layers below the classifier, if they are a
            model of their own.
    """

    def of(graph: Graph, container: str) -> dict[str, str]:
        if container == LEGACY:
            return {w.name: legacy_key(w.name, layer_name) for w in graph.weights}
        return ordered_keys(graph, backbone)

    return of


def _variable(weight: str) -> str:
    leaf = weight.rpartition(".")[2]
    return _VARIABLES.get(leaf, leaf)


def legacy_key(weight: str, layer_name: LayerName) -> str:
    """Name an array in a legacy file, whose nodes have layers with this name."""
    return f"{layer_name(weight.rpartition('.')[0])}/{_variable(weight)}"


def variable_key(weight: str, path: str) -> str:
    """Name an array in a Keras 3 file, in which its layer has this path."""
    variable = _variable(weight)
    order = next(order for order in _ORDER if variable in order)
    return f"{path}/vars/{order.index(variable)}"


def numbered(name: str, number: int) -> str:
    """Return Keras 3's name of a layer by its class and its number in the class, counted from 0."""
    return name if number == 0 else f"{name}_{number}"


def ordered_keys(graph: Graph, backbone: str = "") -> dict[str, str]:
    """Name arrays as Keras 3 does: by each layer's class and its number in the class."""
    dims = graph.spatial_dims
    classes: Mapping[type, str] = {**_CLASSES, ops.Conv: f"conv{dims}d"}
    counts = {kind: itertools.count() for kind in classes}
    found = {}
    for node in graph.nodes:
        kind = type(node.op)
        if kind not in classes:
            continue
        layer = numbered(classes[kind], next(counts[kind]))
        path = "layers/" if kind is ops.Dense or not graph.has_classifier else f"{backbone}layers/"
        for number, weight in enumerate(node.weights):
            found[weight.name] = f"{path}{layer}/vars/{number}"
    return found


def layer_names(graph: Graph, layer_name: LayerName, backbone: str = "") -> dict[str, str]:
    """Name the layer of each of Keras 3's groups, as Keras notes it in the file."""
    return {
        key.rpartition("/vars/")[0]: layer_name(weight.rpartition(".")[0])
        for weight, key in ordered_keys(graph, backbone).items()
    }


def metadata(layer_name: LayerName, backbone: str = "") -> Callable[[Graph, str], dict[str, str]]:
    """Make the function that names layers as Keras 3's files note them beside their numbers."""

    def of(graph: Graph, container: str) -> dict[str, str]:
        if container == LEGACY:
            return {}
        return {"layer_names": json.dumps(layer_names(graph, layer_name, backbone))}

    return of


def notes_names(metadata: Mapping[str, str]) -> bool:
    """Say whether a Keras 3 file notes the layers' names; Keras 2.12 to 2.15 wrote none."""
    return bool(_noted_names(metadata)) or "config" in metadata


def _noted_names(metadata: Mapping[str, str]) -> Mapping[str, Any]:
    """Read the names of layers by group; none if another file has other metadata under that key."""
    try:
        names = parsed_json(metadata.get("layer_names", "{}"), "the names of layers")
    except JsonError:
        return {}
    return names if isinstance(names, dict) else {}


def stem_layer(metadata: Mapping[str, str]) -> str | None:
    """Name the first convolution's layer, if a Keras 3 file notes names."""
    names = _noted_names(metadata)
    for dims in (2, 1, 3):
        for group, name in names.items():
            if group.endswith(f"layers/conv{dims}d"):
                return name
    return None


def evidence(layer_name: LayerName, backbone: str = "") -> Callable[[Tensors], Evidence]:
    """Make the function that reads what the shapes say, in either kind of file."""

    def of(tensors: Tensors) -> Evidence:
        if any(name.startswith("layers/") for name in tensors):
            return _evidence_in_order(tensors, backbone)

        def find(canonical: str) -> KernelShape | None:
            key = legacy_key(canonical, layer_name)
            return _kernel(key, tensors[key]) if key in tensors else None

        return evidence_by_name(find)

    return of


def _kernel(key: str, tensor: Tensor) -> KernelShape:
    return KernelShape(key, canonical_shape(tensor.shape))


def _evidence_in_order(tensors: Tensors, backbone: str) -> Evidence:
    prefix = f"{backbone}layers/"
    if not any(name.startswith(prefix) for name in tensors):
        prefix = "layers/"
    conv = next((f"conv{d}d" for d in (2, 1, 3) if f"{prefix}conv{d}d/vars/0" in tensors), None)
    if conv is None:
        raise WeightsError(f"no convolution under {prefix}")
    norms = [
        name
        for kind in (ops.BatchNorm, ops.GroupNorm)
        for name in _numbered(tensors, prefix + _CLASSES[kind])
    ]
    return evidence_in_order(
        convs=[_kernel(key, tensors[key]) for key in _numbered(tensors, prefix + conv)],
        norms=[math.prod(tensors[key].shape) for key in norms],
        conv_bias=f"{prefix}{conv}/vars/1" in tensors,
        dense=[_kernel(key, tensors[key]) for key in _numbered(tensors, "layers/dense")],
    )


def _numbered(tensors: Tensors, path: str) -> list[str]:
    """List the names of the first variables of the layers of one class, in order."""
    found: list[str] = []
    for number in itertools.count():
        name = f"{numbered(path, number)}/vars/0"
        if name not in tensors:
            return found
        found.append(name)
    raise AssertionError


def is_bookkeeping(name: str) -> bool:
    """Say whether an array belongs to the optimizer, to metrics or to a random generator."""
    return name.startswith(("optimizer/", "optimizer_weights/", "metrics/", "_metrics/")) or (
        "seed_generator" in name
    )


def normalise(tensors: Tensors) -> dict[str, Tensor]:
    """Drop the ``:0`` of TensorFlow 1 from legacy names, and number layers without gaps.

    Keras 2.12 and 2.13 count each layer twice: ``layers/conv2d``, ``layers/conv2d_2`` and so on.
    """
    found: dict[tuple[str, ...], set[int]] = defaultdict(set)
    for name in tensors:
        for path, layer, number in _layers_of(name):
            found[*path, layer].add(number)
    ranks = {
        layers: {number: rank for rank, number in enumerate(sorted(numbers))}
        for layers, numbers in found.items()
    }

    def renumbered(name: str) -> str:
        parts = [
            numbered(layer, ranks[*path, layer][number]) for path, layer, number in _layers_of(name)
        ]
        return "/".join([*parts, *name.removesuffix(":0").split("/")[len(parts) :]])

    return renamed(tensors, renumbered)


def _layers_of(name: str) -> Iterator[tuple[tuple[str, ...], str, int]]:
    """Yield the layers that an array of Keras 3 is in: where each is, its class, and its number."""
    path, variables, _ = name.rpartition("/vars/")
    parts = path.split("/") if variables else []
    for depth, part in enumerate(parts):
        match = _NUMBERED.fullmatch(part)
        layer, number = (match[1], int(match[2])) if match else (part, 0)
        yield tuple(parts[:depth]), layer, number


def claims(stem: str, nested: bool = False) -> Callable[[Tensors, Mapping[str, str]], bool]:
    """Make the function that says whether a file has a stem layer with this name.

    Args:
        nested: whether the backbone is a model within the model.
    """

    def of(tensors: Tensors, metadata: Mapping[str, str]) -> bool:
        legacy = {name.removesuffix(":0").rpartition("/")[0] for name in tensors}
        within = any("_backbone/layers/" in name for name in tensors)
        return within == nested and (stem in legacy or stem_layer(metadata) == stem)

    return of
