"""Defines the graph of a network, and the one function that lowers a spec to a graph.

Everything else (counts, ``describe``, drawings, weight layouts, the reference and every backend)
reads the graph; nothing else knows what a DenseNet looks like.

A node's name is dotted: ``block1.layer3.conv2``. Every prefix of a name is a part of the network
with one input and one output, so that a backend may build nested modules from names alone. The
first component is the node's stage.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from densespec.errors import SpecError, UnknownName
from densespec.network.fields import LIMIT, Integer, OrNone
from densespec.network.ops import (
    Activation,
    AvgPool,
    BatchNorm,
    BlurPool,
    Concat,
    Conv,
    Dense,
    Dropout,
    GlobalPool,
    GlobalPoolKind,
    GroupNorm,
    Input,
    MaxPool,
    Op,
    Padding,
    PRelu,
    Relu,
    Shape,
    Sigmoid,
    Softmax,
    Weight,
    multiply_adds,
    resolve_padding,
    weights_of,
)
from densespec.network.spec import GLOBAL_POOLS, DenseNetSpec

Pooling = GlobalPoolKind
_ACTIVATIONS: dict[str, Op] = {"softmax": Softmax(), "sigmoid": Sigmoid()}
ACTIVATIONS = tuple(_ACTIVATIONS)

CLASSIFIER = "classifier"
"""The classifier's node has this name."""
HEAD_DROPOUT = "head_dropout"
"""The node of the dropout right before the classifier has this name."""
_HIDDEN = re.compile(rf"(head\d+|{HEAD_DROPOUT})$")
"""Matches the stages within a head. No network gives their values: a head is whole or absent."""
_HEAD = re.compile(rf"(head\d+|{HEAD_DROPOUT}|{CLASSIFIER})(\.|$)")

ConvRole = Literal["stem", "inner", "last"]
"""Says which convolution it is: the stem's, a dense layer's last one, or one in between."""

_DROPOUT_AFTER: dict[str, tuple[ConvRole, ...]] = {
    "conv": ("inner", "last"),
    "every-conv": ("stem", "inner", "last"),
    "layer": ("last",),
}


@dataclass(frozen=True, slots=True)
class Node:
    """Describes one op and its place in the network.

    Attributes:
        name: The dotted name, which no other node of the graph has.
        op: What the node computes.
        inputs: The names of the nodes that it reads. All of them come earlier in the graph.
        shape: The shape of its output, (channels, *spatial); None stands for an unknown size.
        frozen: Whether training leaves the node as it is. Its arrays are not trainable then, and it
            computes as in inference, with running statistics and without dropout.
    """

    name: str
    op: Op
    inputs: tuple[str, ...]
    shape: Shape
    frozen: bool = False

    @property
    def stage(self) -> str:
        """Return the first component of the name, such as ``block1``."""
        return self.name.partition(".")[0]

    @property
    def channels(self) -> int:
        """Return the number of channels of its output, which is always known."""
        channels = self.shape[0]
        assert channels is not None
        return channels

    @property
    def drop_rate(self) -> float:
        """Return the probability that the node drops a value in training; 0 if it never does."""
        return self.op.rate if isinstance(self.op, Dropout) and not self.frozen else 0.0

    @property
    def weights(self) -> tuple[Weight, ...]:
        """Return the node's arrays under their canonical names, such as ``stem.conv.kernel``."""
        return tuple(
            replace(
                weight,
                name=f"{self.name}.{weight.name}",
                trainable=weight.trainable and not self.frozen,
            )
            for weight in weights_of(self.op)
        )

    @property
    def multiply_adds(self) -> int | None:
        """Return the multiply-adds of one sample; None if a spatial size is unknown."""
        return multiply_adds(self.op, self.shape)


@dataclass(frozen=True, slots=True)
class Count:
    """Counts the values in a set of arrays: in trainable ones, and in running statistics."""

    trainable: int
    non_trainable: int

    @property
    def total(self) -> int:
        """Return the sum of both."""
        return self.trainable + self.non_trainable


@dataclass(frozen=True, slots=True)
class Stage:
    """Groups consecutive nodes with the same first name: the stem, a block, a transition, ..."""

    name: str
    nodes: tuple[Node, ...]

    @property
    def output(self) -> Node:
        """Return the node whose value leaves the stage."""
        return self.nodes[-1]

    @property
    def shape(self) -> Shape:
        """Return the shape of the stage's output, (channels, *spatial)."""
        return self.output.shape

    @property
    def parameters(self) -> Count:
        """Return the number of values in the stage's arrays."""
        return _count([weight for node in self.nodes for weight in node.weights])

    @property
    def multiply_adds(self) -> int | None:
        """Return the multiply-adds of one sample; None if a spatial size is unknown."""
        return _total(self.nodes)


@dataclass(frozen=True, slots=True)
class FeatureMap:
    """Describes one value that a network gives.

    Attributes:
        name: The stage that it comes from, such as ``block2``.
        channels: The number of its channels.
        stride: The number of the input's positions for each position of the map, in every
            dimension; None behind the global pool, where there are no positions.
    """

    name: str
    channels: int
    stride: int | None


def _stride_behind(op: Op, before: int | None) -> int | None:
    if before is None or isinstance(op, GlobalPool):
        return None
    if isinstance(op, Conv | MaxPool | AvgPool | BlurPool):
        return before * op.stride
    return before


@dataclass(frozen=True)
class Graph:
    """Represents a network: its nodes in an order in which they can be computed, the output last.

    Attributes:
        spec: The spec that the network was lowered from.
        outputs: The stages whose values the network gives, as a tuple in this order. If it is
            empty, the network gives the value of its last node.
    """

    spec: DenseNetSpec
    nodes: tuple[Node, ...]
    outputs: tuple[str, ...] = ()

    @property
    def input(self) -> Node:
        """Return the first node."""
        return self.nodes[0]

    @property
    def output(self) -> Node:
        """Return the last node."""
        return self.nodes[-1]

    @functools.cached_property
    def _by_name(self) -> dict[str, Node]:
        return {node.name: node for node in self.nodes}

    def __getitem__(self, name: str) -> Node:
        return self._by_name[name]

    def __contains__(self, name: object) -> bool:
        return name in self._by_name

    # What it takes and gives

    @functools.cached_property
    def given(self) -> tuple[Node, ...]:
        """Return the nodes whose values the network gives: its outputs' nodes, or its last one."""
        last = {node.stage: node for node in self.nodes}
        return tuple(last[name] for name in self.outputs) or (self.output,)

    @functools.cached_property
    def feature_maps(self) -> tuple[FeatureMap, ...]:
        """Describe what the network gives, stage by stage, with channels and strides."""
        strides: dict[str, int | None] = {}
        for node in self.nodes:
            before = [strides[source] for source in node.inputs]
            strides[node.name] = _stride_behind(node.op, before[0] if before else 1)
        return tuple(
            FeatureMap(node.stage, node.channels, strides[node.name]) for node in self.given
        )

    @property
    def input_size(self) -> Shape:
        """Return the spatial size of the input; None stands for any size."""
        return self.input.shape[1:]

    @property
    def spatial_dims(self) -> int:
        """Return the number of spatial dimensions of the input."""
        return len(self.input_size)

    @property
    def has_classifier(self) -> bool:
        """Say whether the classifier is part of the network, as with ``include_top=True``."""
        return CLASSIFIER in self

    @property
    def gives_logits(self) -> bool:
        """Say whether the output is what losses take: the classifier's, with nothing after it."""
        return isinstance(self.output.op, Dense) and not self.outputs

    @property
    def pooling(self) -> Pooling | None:
        """Return the global pool of a network without a classifier, as :func:`lower` takes it."""
        op = self.output.op
        return op.kind if isinstance(op, GlobalPool) else None

    @property
    def classifier_activation(self) -> str | None:
        """Return the activation after the classifier, as :func:`lower` takes it."""
        return self.output.name if isinstance(self.output.op, Softmax | Sigmoid) else None

    @property
    def ends(self) -> dict[str, Any]:
        """Return the arguments of :func:`lower` with which a network ends as this one does."""
        return {
            "include_top": self.has_classifier,
            "pooling": self.pooling,
            "classifier_activation": self.classifier_activation,
            "outputs": self.outputs,
        }

    # What it consists of

    @functools.cached_property
    def weights(self) -> tuple[Weight, ...]:
        """Return every array of the network under its canonical name, in order."""
        return tuple(weight for node in self.nodes for weight in node.weights)

    @property
    def parameters(self) -> Count:
        """Return the number of values in the network's arrays."""
        return _count(self.weights)

    @property
    def multiply_adds(self) -> int | None:
        """Return the multiply-adds of one sample; None if a spatial size is unknown."""
        return _total(self.nodes)

    @property
    def trainable_from(self) -> str | None:
        """Return the name of the first node that trains; None if every one does."""
        if not any(node.frozen for node in self.nodes):
            return None
        return next(node.name for node in self.nodes[1:] if not node.frozen)

    @property
    def dropouts(self) -> tuple[Node, ...]:
        """Return the dropouts that drop values in training, which frozen ones never do."""
        return tuple(node for node in self.nodes if node.drop_rate > 0)

    def nodes_of(self, *kinds: type[Op]) -> tuple[Node, ...]:
        """Return the nodes whose op is of one of some kinds, in order."""
        return tuple(node for node in self.nodes if isinstance(node.op, kinds))

    def stages(self) -> tuple[Stage, ...]:
        """Return the network, stage by stage, without the input."""
        groups: dict[str, list[Node]] = {}
        for node in self.nodes[1:]:
            groups.setdefault(node.stage, []).append(node)
        return tuple(Stage(name, tuple(nodes)) for name, nodes in groups.items())

    # Who reads whom

    @functools.cached_property
    def _readers(self) -> dict[str, list[Node]]:
        readers: dict[str, list[Node]] = {node.name: [] for node in self.nodes}
        for node in self.nodes:
            for source in node.inputs:
                readers[source].append(node)
        return readers

    def readers(self, node: Node) -> tuple[Node, ...]:
        """Return the nodes that read a node's value, in order."""
        return tuple(self._readers[node.name])

    def reader(self, node: Node) -> Node | None:
        """Return the only reader of a node's value; None for none, several, or an output."""
        readers = self._readers[node.name]
        return readers[0] if len(readers) == 1 and node not in self.given else None

    def source(self, node: Node) -> Node:
        """Return the node whose value is read by a node with one input."""
        (name,) = node.inputs
        return self[name]


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
        return self.nodes[x].channels

    def conv(
        self, name: str, x: str, filters: int, *, window: int, stride: int = 1, role: ConvRole
    ) -> str:
        """Add a convolution, and the dropout after it where the spec wants one there."""
        spec, size = self.spec, (window,) * self.spec.spatial_dims
        padding = self._padding(x, window, stride)
        op = Conv(self.channels(x), filters, size, stride, padding, spec.conv_bias)
        x = self.add(name, op, x)
        if spec.dropout_rate == 0 or role not in _DROPOUT_AFTER[spec.dropout_place]:
            return x
        return self.add(name.replace("conv", "dropout"), Dropout(spec.dropout_rate), x)

    def norm_relu(self, name: str, x: str, *, relu: bool = True) -> str:
        if self.spec.norm != "none":
            op = _norm(self.spec, self.channels(x))
            if isinstance(op, GroupNorm):
                self._check_groups(name, op, self.nodes[x].shape)
            x = self.add(name, op, x)
        return self.add(name.replace("norm", "relu"), _activation(self.spec), x) if relu else x

    def _check_groups(self, name: str, op: GroupNorm, shape: Shape) -> None:
        if op.channels % op.groups:
            raise SpecError(
                "S39",
                "norm_groups",
                op.groups,
                f"a divisor of {op.channels}, the channels that {name} normalises",
            )
        if op.channels == op.groups and set(shape[1:]) == {1}:
            raise SpecError(
                "S24",
                "input size",
                self.nodes["input"].shape[1:],
                f"larger: {name} would normalise single values",
            )

    def max_pool(self, name: str, x: str, window: int, stride: int) -> str:
        size = (window,) * self.spec.spatial_dims
        return self.add(name, MaxPool(size, stride, self._padding(x, window, stride)), x)

    def blur_pool(self, name: str, x: str) -> str:
        return self.add(name, BlurPool((3,) * self.spec.spatial_dims, 2), x)

    def _padding(self, x: str, window: int, stride: int) -> Padding:
        side = (window - 1) // 2
        dims = self.spec.spatial_dims
        symmetric: Padding = ((side, side),) * dims
        conventions_agree = stride == 1 and window % 2 == 1
        if conventions_agree or self.spec.padding == "symmetric":
            return symmetric
        return resolve_padding("same", self.nodes[x].shape[1:], (window,) * dims, stride)


def _norm(spec: DenseNetSpec, channels: int) -> Op:
    epsilon, affine = spec.batch_norm_epsilon, spec.norm_affine
    if spec.norm != "batch":
        groups = channels if spec.norm == "instance" else spec.norm_groups
        return GroupNorm(channels, groups, epsilon, affine)
    unbiased = spec.running_variance == "unbiased"
    return BatchNorm(channels, epsilon, spec.batch_norm_momentum, unbiased, affine)


def _activation(spec: DenseNetSpec) -> Op:
    if spec.activation == "relu":
        return Relu()
    if spec.activation == "prelu":
        return PRelu()
    slope = spec.activation_slope if spec.activation == "leaky-relu" else 0.0
    return Activation(spec.activation, slope)


def lower(
    spec: DenseNetSpec,
    input_size: Sequence[int | None] | None = None,
    *,
    include_top: bool = True,
    pooling: Pooling | None = None,
    classifier_activation: str | None = None,
    outputs: Sequence[str] = (),
) -> Graph:
    """Write a spec out as a graph.

    Args:
        input_size: The spatial size of the input, such as (224, 224); None stands for any size,
            also in single dimensions. Where it is known, shapes, paddings and multiply-adds are.
        include_top: Whether the classifier is part of the network.
        pooling: Without the classifier, ``"avg"``, ``"max"`` or another kind of
            :class:`densespec.network.ops.GlobalPool` adds one.
        classifier_activation: ``"softmax"`` or ``"sigmoid"``, or None for logits.
        outputs: The stages whose values the network gives, such as ``("block1", "block2")``; what
            comes behind the last of them is left out. Without any, it gives its last value.

    Raises:
        UnknownName: The network has no such stage; the message suggests near names.
        SpecError: The input size has the wrong number of dimensions or shrinks below one pixel, or
            the arrays would hold more values than any framework can count.
        ValueError: The options do not go together.
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
        x = net.add("global_pool", GlobalPool(pooling or spec.global_pool), x)
    if include_top:
        x = _head(net, x)
    if classifier_activation:
        net.add(classifier_activation, _ACTIVATIONS[classifier_activation], x)
    graph = _giving(Graph(spec, tuple(net.nodes.values())), outputs)
    _check_values(graph.parameters.total)
    return graph


def with_spec(graph: Graph, spec: DenseNetSpec) -> Graph:
    """Lower another spec to a network that ends as a network does, with nothing frozen.

    It takes inputs of the same size if the number of dimensions is the same, and of any size
    otherwise.
    """
    size = graph.input_size if spec.spatial_dims == graph.spatial_dims else None
    return lower(spec, size, **graph.ends)


def _giving(graph: Graph, outputs: Sequence[str]) -> Graph:
    """Let a network give the values of some stages, and cut it behind the last of them."""
    if not outputs:
        return graph
    if isinstance(outputs, str) or len(set(outputs)) < len(outputs):
        raise ValueError(f"outputs = {outputs!r}, but should be names of stages, each once")
    known = [stage.name for stage in graph.stages() if not _HIDDEN.match(stage.name)]
    for name in outputs:
        if name not in known:
            raise UnknownName("output of the network", name, known)
    last = max(index for index, node in enumerate(graph.nodes) if node.stage in outputs)
    return Graph(graph.spec, graph.nodes[: last + 1], tuple(outputs))


def _check_values(total: int) -> None:
    if total >= LIMIT:
        raise SpecError(
            "S27", "values of all arrays", total, "below 2**31: fewer layers, or narrower ones"
        )


def freeze(graph: Graph, trainable_from: str) -> Graph:
    """Freeze everything before a part of a network, whatever was frozen before.

    The dropout right before the classifier belongs to it: it drops values if the classifier trains.

    Args:
        trainable_from: A stage, such as ``"block4"`` or ``"classifier"``, or any other part or node
            such as ``"block4.layer16"``: it and all that follows trains.

    Raises:
        UnknownName: The network has no such part; the message suggests near names.
    """
    first = _first_of(graph, trainable_from)
    first -= graph.nodes[first - 1].name == HEAD_DROPOUT
    nodes = (replace(node, frozen=index < first > 1) for index, node in enumerate(graph.nodes))
    return replace(graph, nodes=tuple(nodes))


def split(graph: Graph, part: str) -> tuple[Graph, Graph]:
    """Cut a network before a part: the rest has the value in between as its input.

    Every value in a DenseNet passes through one node at a time (features are concatenated), so it
    can be cut before any part.

    Raises:
        UnknownName: The network has no such part.
        ValueError: Nothing comes before it, or it lies inside a layer, where two values pass.
    """
    first = _first_of(graph, part)
    before, after = graph.nodes[:first], graph.nodes[first:]
    inside = {node.name for node in after}
    crossing = {name for node in after for name in node.inputs if name not in inside}
    if len(before) < 2 or crossing != {before[-1].name}:
        raise ValueError(f"{graph.nodes[first].name} is no place to cut the network at")
    entry = replace(before[-1], op=Input(before[-1].shape), inputs=())
    return Graph(graph.spec, before), Graph(graph.spec, (entry, *after))


def without(graph: Graph, names: Collection[str]) -> Graph:
    """Take some nodes with one input out of a network; their readers then read their input."""
    instead: dict[str, str] = {}
    nodes = []
    for node in graph.nodes:
        inputs = tuple(instead.get(source, source) for source in node.inputs)
        if node.name in names:
            (instead[node.name],) = inputs
        else:
            nodes.append(replace(node, inputs=inputs))
    return replace(graph, nodes=tuple(nodes))


def head_of(spec: DenseNetSpec) -> str:
    """Return the name of the first part of a network's head, which follows the global pool."""
    return "head1" if spec.head_units else CLASSIFIER


def in_head(name: str) -> bool:
    """Say whether the part, node or array with this name belongs to its network's head."""
    return _HEAD.match(name) is not None


def _first_of(graph: Graph, part: str) -> int:
    for index, node in enumerate(graph.nodes[1:], start=1):
        if node.name == part or node.name.startswith(f"{part}."):
            return index
    parts = dict.fromkeys(name for node in graph.nodes[1:] for name in (node.stage, node.name))
    raise UnknownName("part of the network", part, parts)


def _stem(net: _Builder, x: str) -> str:
    spec, width = net.spec, net.spec.stem_channels
    if spec.stem_kind == "norm-relu-conv":
        x = net.norm_relu("stem.norm", x)
    deep = spec.stem_kind == "deep"
    x = _stem_conv(net, "", x, width // 2 if deep else width, spec.stem_stride)
    if deep or spec.stem_kind == "conv-norm-relu":
        x = net.norm_relu("stem.norm", x)
    for number, channels in ((2, width // 2), (3, width)) if deep else ():
        x = _stem_conv(net, str(number), x, channels, stride=1)
        x = net.norm_relu(f"stem.norm{number}", x)
    return _stem_pool(net, x, spec.stem_pool) if spec.stem_pool else x


def _stem_conv(net: _Builder, number: str, x: str, width: int, stride: int) -> str:
    window = net.spec.stem_kernel
    return net.conv(f"stem.conv{number}", x, width, window=window, stride=stride, role="stem")


def _stem_pool(net: _Builder, x: str, window: int) -> str:
    if net.spec.stem_pool_kind == "max":
        return net.max_pool("stem_pool", x, window, stride=2)
    x = net.max_pool("stem_pool.max", x, window, stride=1)
    return net.blur_pool("stem_pool.blur", x)


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
    if spec.transition_pool_kind == "blur":
        return net.blur_pool(f"{name}.pool", x)
    return net.add(f"{name}.pool", AvgPool((2,) * spec.spatial_dims, 2), x)


def _head(net: _Builder, x: str) -> str:
    spec = net.spec
    for index, units in enumerate(spec.head_units, start=1):
        x = net.add(f"head{index}.dense", Dense(net.channels(x), units), x)
        x = net.add(f"head{index}.relu", Relu(), x)
    if spec.head_dropout_rate:
        x = net.add(HEAD_DROPOUT, Dropout(spec.head_dropout_rate), x)
    return net.add(CLASSIFIER, Dense(net.channels(x), spec.classes, spec.classifier_bias), x)


def _spatial(spec: DenseNetSpec, size: Sequence[int | None] | None) -> Shape:
    if size is None:
        return (None,) * spec.spatial_dims
    try:
        sizes = tuple(OrNone(Integer(1)).parse(n) for n in size)
    except (TypeError, ValueError):
        sizes = ()
    if len(sizes) != spec.spatial_dims:
        expected = f"{spec.spatial_dims} positive sizes, or None for any"
        raise SpecError("S24", "input size", size, expected)
    return sizes


def _check_head(include_top: bool, pooling: Pooling | None, activation: str | None) -> None:
    if pooling is not None and pooling not in GLOBAL_POOLS:
        known = ", ".join(map(repr, GLOBAL_POOLS))
        raise ValueError(f"pooling = {pooling!r}, but should be {known} or None")
    if activation is not None and activation not in ACTIVATIONS:
        raise ValueError(
            f"classifier_activation = {activation!r}, but should be 'softmax', 'sigmoid' or None "
            "(logits)"
        )
    if include_top and pooling:
        raise ValueError("pooling is for include_top=False: the classifier has its own global pool")
    if activation and not include_top:
        raise ValueError("classifier_activation needs include_top=True")
