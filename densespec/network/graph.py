"""The graph of a network, and the one lowering from a spec to it.

Everything else (counts, ``describe``, drawings, weight layouts, the reference and every backend)
reads the graph; nothing else knows what a DenseNet looks like.

A node's name is dotted: ``block1.layer3.conv2``. Every prefix of a name is a part of the network
with one input and one output, so that a backend may build nested modules from names alone. The
first component is the node's stage.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from densespec.errors import SpecError, UnknownName
from densespec.network.fields import Integer, Optional
from densespec.network.ops import (
    AvgPool,
    BatchNorm,
    Concat,
    Conv,
    Dense,
    Dropout,
    GlobalPool,
    Input,
    MaxPool,
    Op,
    Padding,
    Relu,
    Shape,
    Softmax,
    Weight,
    multiply_adds,
    resolve_padding,
    weights_of,
)
from densespec.network.spec import DenseNetSpec

Pooling = Literal["avg", "max"]
POOLINGS = ("avg", "max")
ACTIVATIONS = ("softmax",)

ConvRole = Literal["stem", "inner", "last"]
"""Whose convolution: the stem's, a dense layer's last one, or one in between."""

_DROPOUT_AFTER: dict[str, tuple[ConvRole, ...]] = {
    "conv": ("inner", "last"),
    "every-conv": ("stem", "inner", "last"),
    "layer": ("last",),
}


@dataclass(frozen=True, slots=True)
class Node:
    """One op in its place.

    Attributes:
        name: dotted, unique.
        op: what it computes.
        inputs: names of the nodes it reads, all earlier in the graph.
        shape: of its output, (channels, *spatial); None where a size is unknown.
        frozen: whether training leaves it alone: its arrays are not trainable, and it computes
            what it does in inference, running statistics for batch statistics and no dropout.
    """

    name: str
    op: Op
    inputs: tuple[str, ...]
    shape: Shape
    frozen: bool = False

    @property
    def stage(self) -> str:
        return self.name.partition(".")[0]

    @property
    def weights(self) -> tuple[Weight, ...]:
        """Its arrays under their canonical names, such as ``stem.conv.kernel``."""
        return tuple(
            Weight(f"{self.name}.{weight.name}", weight.shape, weight.trainable and not self.frozen)
            for weight in weights_of(self.op)
        )

    @property
    def multiply_adds(self) -> int | None:
        return multiply_adds(self.op, self.shape)


@dataclass(frozen=True, slots=True)
class Count:
    """Sizes of a set of weights: trainable ones, and running statistics."""

    trainable: int
    non_trainable: int

    @property
    def total(self) -> int:
        return self.trainable + self.non_trainable


@dataclass(frozen=True, slots=True)
class Stage:
    """Consecutive nodes under one first name: the stem, a block, a transition, ...

    Attributes:
        shape: of the stage's output, (channels, *spatial).
        multiply_adds: of one sample; None where a size is unknown.
    """

    name: str
    shape: Shape
    parameters: Count
    multiply_adds: int | None


@dataclass(frozen=True)
class Graph:
    """A network: nodes in an order in which they can be computed; the last is the output.

    Attributes:
        spec: what it was lowered from.
    """

    spec: DenseNetSpec
    nodes: tuple[Node, ...]

    @property
    def input(self) -> Node:
        return self.nodes[0]

    @property
    def output(self) -> Node:
        return self.nodes[-1]

    @functools.cached_property
    def _by_name(self) -> dict[str, Node]:
        return {node.name: node for node in self.nodes}

    def __getitem__(self, name: str) -> Node:
        return self._by_name[name]

    @functools.cached_property
    def weights(self) -> tuple[Weight, ...]:
        """Every array of the network under its canonical name, in order."""
        return tuple(weight for node in self.nodes for weight in node.weights)

    @property
    def has_classifier(self) -> bool:
        """Whether the network ends in its classifier, and a softmax maybe."""
        return "classifier" in self._by_name

    @property
    def pooling(self) -> Pooling | None:
        """The global pool that ends a network without a classifier; None if there is none."""
        op = self.output.op
        return op.kind if isinstance(op, GlobalPool) else None

    @property
    def classifier_activation(self) -> str | None:
        """``"softmax"`` if the network gives probabilities, None otherwise."""
        return "softmax" if isinstance(self.output.op, Softmax) else None

    @property
    def parameters(self) -> Count:
        return _count(self.weights)

    @property
    def multiply_adds(self) -> int | None:
        """Multiply-adds of one sample; None where a spatial size is unknown."""
        return _total(self.nodes)

    @property
    def trainable_from(self) -> str | None:
        """Name of the first node that trains; None where every one does."""
        if not any(node.frozen for node in self.nodes):
            return None
        return next(node.name for node in self.nodes[1:] if not node.frozen)

    def stages(self) -> tuple[Stage, ...]:
        """The network, stage by stage, without the input."""
        groups: dict[str, list[Node]] = {}
        for node in self.nodes[1:]:
            groups.setdefault(node.stage, []).append(node)
        return tuple(
            Stage(
                name=name,
                shape=nodes[-1].shape,
                parameters=_count([weight for node in nodes for weight in node.weights]),
                multiply_adds=_total(nodes),
            )
            for name, nodes in groups.items()
        )


def _count(weights: Sequence[Weight]) -> Count:
    trainable = sum(weight.size for weight in weights if weight.trainable)
    return Count(trainable, sum(weight.size for weight in weights) - trainable)


def _total(nodes: Sequence[Node]) -> int | None:
    counts = [node.multiply_adds for node in nodes]
    return None if None in counts else sum(count or 0 for count in counts)


class _Builder:
    """Appends nodes and works out what follows from a node's inputs."""

    def __init__(self, spec: DenseNetSpec) -> None:
        self.spec = spec
        self.nodes: dict[str, Node] = {}

    def add(self, name: str, op: Op, *inputs: str) -> str:
        shape = op.output(*(self.nodes[source].shape for source in inputs))
        if any(size is not None and size < 1 for size in shape[1:]):
            raise SpecError(
                "S24",
                "input size",
                self.nodes["input"].shape[1:],
                f"larger: nothing is left of it at {name}",
            )
        self.nodes[name] = Node(name, op, inputs, shape)
        return name

    def channels(self, x: str) -> int:
        channels = self.nodes[x].shape[0]
        assert channels is not None, "channels are always known"
        return channels

    def conv(
        self, name: str, x: str, filters: int, *, window: int, stride: int = 1, role: ConvRole
    ) -> str:
        """A convolution, and the dropout after it where the spec wants one there."""
        spec, size = self.spec, (window,) * self.spec.spatial_dims
        padding = self._padding(x, window, stride)
        op = Conv(self.channels(x), filters, size, stride, padding, spec.conv_bias)
        x = self.add(name, op, x)
        if spec.dropout_rate == 0 or role not in _DROPOUT_AFTER[spec.dropout_place]:
            return x
        return self.add(name.replace("conv", "dropout"), Dropout(spec.dropout_rate), x)

    def norm_relu(self, name: str, x: str, *, relu: bool = True) -> str:
        spec = self.spec
        op = BatchNorm(
            channels=self.channels(x),
            epsilon=spec.batch_norm_epsilon,
            momentum=spec.batch_norm_momentum,
            unbiased=spec.running_variance == "unbiased",
        )
        x = self.add(name, op, x)
        return self.add(name.replace("norm", "relu"), Relu(), x) if relu else x

    def max_pool(self, name: str, x: str, window: int, stride: int) -> str:
        size = (window,) * self.spec.spatial_dims
        return self.add(name, MaxPool(size, stride, self._padding(x, window, stride)), x)

    def _padding(self, x: str, window: int, stride: int) -> Padding:
        side = (window - 1) // 2
        dims = self.spec.spatial_dims
        symmetric: Padding = ((side, side),) * dims
        conventions_agree = stride == 1 and window % 2 == 1
        if conventions_agree or self.spec.padding == "symmetric":
            return symmetric
        return resolve_padding("same", self.nodes[x].shape[1:], (window,) * dims, stride)


def lower(
    spec: DenseNetSpec,
    input_size: Sequence[int | None] | None = None,
    *,
    include_top: bool = True,
    pooling: Pooling | None = None,
    classifier_activation: str | None = None,
) -> Graph:
    """Write a spec out as a graph.

    Args:
        input_size: spatial size of the input, such as (224, 224); None for any size, also in
            single dimensions. Where it is known, shapes, paddings and multiply-adds are too.
        include_top: whether the classifier is part of the network.
        pooling: without the classifier, ``"avg"`` or ``"max"`` adds a global pool.
        classifier_activation: ``"softmax"``, or None for logits.

    Raises:
        SpecError: the input size has the wrong number of dimensions or shrinks below one pixel.
        ValueError: options that do not go together.
    """
    _check_head(include_top, pooling, classifier_activation)
    net = _Builder(spec)
    x = net.add("input", Input((spec.in_channels, *_spatial(spec, input_size))))
    x = _stem(net, x)
    for index, layers in enumerate(spec.blocks, start=1):
        x = _block(net, f"block{index}", layers, x)
        if index < len(spec.blocks):
            x = _transition(net, f"transition{index}", x)
    if spec.final_norm:
        x = net.norm_relu("final.norm", x)
    if include_top or pooling:
        x = net.add("global_pool", GlobalPool(pooling or "avg"), x)
    if include_top:
        for index, units in enumerate(spec.head_units, start=1):
            x = net.add(f"head{index}.dense", Dense(net.channels(x), units), x)
            x = net.add(f"head{index}.relu", Relu(), x)
        x = net.add("classifier", Dense(net.channels(x), spec.classes), x)
    if classifier_activation:
        net.add("softmax", Softmax(), x)
    return Graph(spec, tuple(net.nodes.values()))


def in_head(name: str) -> bool:
    """Whether a node or an array of this name is of the head, which follows the global pool."""
    return name.startswith(("head", "classifier"))


def freeze(graph: Graph, trainable_from: str) -> Graph:
    """The network with everything before a part frozen, whatever was frozen before.

    Args:
        trainable_from: a stage, such as ``"block4"`` or ``"classifier"``, or any other part or node
            such as ``"block4.layer16"``: it and all that follows trains.

    Raises:
        UnknownName: the network has no such part; the message suggests near names.
    """
    first = _first_of(graph, trainable_from)
    nodes = (replace(node, frozen=index < first > 1) for index, node in enumerate(graph.nodes))
    return Graph(graph.spec, tuple(nodes))


def split(graph: Graph, part: str) -> tuple[Graph, Graph]:
    """The network before a part, and the rest with the value in between as its input.

    Every value in a DenseNet passes through one node at a time (features are concatenated), so it
    can be cut before any part.

    Raises:
        UnknownName: the network has no such part.
        ValueError: nothing comes before it, or it lies inside a layer, where two values pass.
    """
    first = _first_of(graph, part)
    before, after = graph.nodes[:first], graph.nodes[first:]
    inside = {node.name for node in after}
    crossing = {name for node in after for name in node.inputs if name not in inside}
    if len(before) < 2 or crossing != {before[-1].name}:
        raise ValueError(f"{graph.nodes[first].name} is no place to cut the network at")
    entry = replace(before[-1], op=Input(before[-1].shape), inputs=())
    return Graph(graph.spec, before), Graph(graph.spec, (entry, *after))


def _first_of(graph: Graph, part: str) -> int:
    for index, node in enumerate(graph.nodes[1:], start=1):
        if node.name == part or node.name.startswith(f"{part}."):
            return index
    parts = dict.fromkeys(name for node in graph.nodes[1:] for name in (node.stage, node.name))
    raise UnknownName("part of the network", part, parts)


def _stem(net: _Builder, x: str) -> str:
    spec = net.spec
    if spec.stem_kind == "norm-relu-conv":
        x = net.norm_relu("stem.norm", x)
    x = net.conv(
        "stem.conv",
        x,
        spec.stem_channels,
        window=spec.stem_kernel,
        stride=spec.stem_stride,
        role="stem",
    )
    if spec.stem_kind == "conv-norm-relu":
        x = net.norm_relu("stem.norm", x)
    return net.max_pool("stem_pool", x, spec.stem_pool, stride=2) if spec.stem_pool else x


def _block(net: _Builder, name: str, layers: int, x: str) -> str:
    for index in range(1, layers + 1):
        new = _layer(net, f"{name}.layer{index}", x)
        x = net.add(f"{name}.concat{index}", Concat(), x, new)
    return x


def _layer(net: _Builder, name: str, x: str) -> str:
    spec = net.spec
    if spec.bottleneck_width:
        x = net.norm_relu(f"{name}.norm1", x)
        width = spec.bottleneck_width * spec.growth_rate
        x = net.conv(f"{name}.conv1", x, width, window=1, role="inner")
    last = 2 if spec.bottleneck_width else 1
    x = net.norm_relu(f"{name}.norm{last}", x)
    return net.conv(f"{name}.conv{last}", x, spec.growth_rate, window=3, role="last")


def _transition(net: _Builder, name: str, x: str) -> str:
    spec = net.spec
    x = net.norm_relu(f"{name}.norm", x, relu=spec.transition_relu)
    kept = spec.compressed(net.channels(x))
    x = net.conv(f"{name}.conv", x, kept, window=1, role="inner")
    return net.add(f"{name}.pool", AvgPool((2,) * spec.spatial_dims, 2), x)


def _spatial(spec: DenseNetSpec, size: Sequence[int | None] | None) -> Shape:
    if size is None:
        return (None,) * spec.spatial_dims
    try:
        sizes = tuple(Optional(Integer(1)).parse(n) for n in size)
    except (TypeError, ValueError):
        sizes = ()
    if len(sizes) != spec.spatial_dims:
        expected = f"{spec.spatial_dims} positive sizes, or None for any"
        raise SpecError("S24", "input size", size, expected)
    return sizes


def _check_head(include_top: bool, pooling: Pooling | None, activation: str | None) -> None:
    if pooling is not None and pooling not in POOLINGS:
        raise ValueError(f"pooling = {pooling!r}, but should be 'avg', 'max' or None")
    if activation is not None and activation not in ACTIVATIONS:
        raise ValueError(
            f"classifier_activation = {activation!r}, but should be 'softmax' or None (logits)"
        )
    if include_top and pooling:
        raise ValueError("pooling is for include_top=False: the classifier has its own global pool")
    if activation and not include_top:
        raise ValueError("classifier_activation needs include_top=True")
