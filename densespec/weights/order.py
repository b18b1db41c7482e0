"""Reads home-made names: takes arrays in their order, and checks their shapes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from densespec.errors import WeightsError
from densespec.network import ops
from densespec.network.graph import Graph, Node
from densespec.weights.evidence import Evidence, KernelShape, body_fields, evidence_in_order
from densespec.weights.layer_arrays import LayerArrays, LayerKind, layers_of
from densespec.weights.layouts import Axes, Layout, torch_names
from densespec.weights.tensors import Tensors

ORDER = "order"
"""This stands for a layout's name where there is none."""

LEAVES = {
    ops.Conv: {"kernel": "kernel", "bias": "bias"},
    ops.BatchNorm: {
        "gamma": "kernel",
        "beta": "bias",
        "running_mean": "mean",
        "running_variance": "variance",
    },
}
"""Names the arrays of a layer here by their canonical names in a node."""


def layout_in_order(tensors: Tensors) -> Layout:
    """Make the layout of a file whose names tell no more than which arrays are one layer's.

    Convolutions and norms are taken in the order in which the file has them.

    Raises:
        WeightsError: In that order they are no DenseNet.
    """
    axes = _axes(tensors)
    layers = layers_of(tensors, axes)
    return Layout(
        name=ORDER,
        about="arrays in the order in which the file has them",
        containers=(),
        keys=lambda graph, container: dict(_keys(graph, layers)),
        axes=axes,
        claims=lambda tensors, metadata: False,
        evidence=lambda tensors: evidence_of(layers),
        ignored=torch_names.is_counter,
        notes=lambda metadata: (_warning(layers),),
        names_tell=False,
    )


def fields_in_order(tensors: Tensors) -> dict[str, Any]:
    """Work out what the shapes of arrays in their order say of a body.

    Raises:
        WeightsError: They are no DenseNet, in either order of axes.
    """
    return body_fields(evidence_of(layers_of(tensors, _axes(tensors))))


def _axes(tensors: Tensors) -> Axes:
    """Find the order of axes in which kernels make a DenseNet; PyTorch's if neither order does."""
    try:
        body_fields(evidence_of(layers_of(tensors, "window_in_out")))
    except WeightsError:
        return "out_in_window"
    return "window_in_out"


def evidence_of(layers: Sequence[LayerArrays]) -> Evidence:
    """Collect what the shapes of layers in their order say of a body.

    Raises:
        WeightsError: They are no DenseNet.
    """
    convs, norms = _of_kind(layers, "convolution"), _of_kind(layers, "norm")
    return evidence_in_order(
        convs=[KernelShape(conv.names["kernel"], conv.shapes["kernel"]) for conv in convs],
        norms=[math.prod(next(iter(norm.shapes.values()))) for norm in norms],
        conv_bias=any("bias" in conv.names for conv in convs),
        dense=(),
    )


def _of_kind(layers: Sequence[LayerArrays], kind: LayerKind) -> list[LayerArrays]:
    return [layer for layer in layers if layer.kind == kind]


def _keys(graph: Graph, layers: Sequence[LayerArrays]) -> Iterator[tuple[str, str]]:
    convs, norms = _of_kind(layers, "convolution"), _of_kind(layers, "norm")
    for op, found, what in ((ops.Conv, convs, "convolutions"), (ops.BatchNorm, norms, "norms")):
        nodes = graph.nodes_of(op)
        if len(nodes) != len(found):
            raise WeightsError(
                f"it has {len(found)} {what}, but the network has {len(nodes)}: if others lie "
                "beside the network's, say what its names start with (--prefix)"
            )
        for node, layer in zip(nodes, found, strict=True):
            yield from _keys_of(node, layer)


def _keys_of(node: Node, layer: LayerArrays) -> Iterator[tuple[str, str]]:
    """Yield names of a node's arrays; an array that the layer lacks gets a word that is no name."""
    for weight in node.weights:
        leaf = LEAVES[type(node.op)][weight.short]
        yield weight.name, layer.names.get(leaf, f"the {leaf} of {layer.path} ({weight.name})")


def _warning(layers: Sequence[LayerArrays]) -> str:
    convs = _of_kind(layers, "convolution")
    counts = Counter(conv.shapes["kernel"] for conv in convs)
    certain = sum(counts[conv.shapes["kernel"]] == 1 for conv in convs)
    return (
        "ONLY THE ORDER COULD TELL: each array was taken for the one in its place, and every "
        f"shape fits, but of {len(convs)} convolutions only {certain} have a shape that no other "
        "has. Compare outputs with those of the program that saved it: if it uses its layers in "
        "another order, these are wrong"
    )
