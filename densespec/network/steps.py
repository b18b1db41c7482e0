"""Finds what can be computed together in a network, and is the one place that does so.

Outside of dense layers every value of a DenseNet passes through one node at a time, so a network is
a chain of steps. Each step reads what the step before it gave. A step is one node, or several that
can be one computation: a norm with the ReLU behind it, a convolution with what can become part of
it, or the dense layers of a block, whose features can stand side by side in memory.

Dropouts that drop nothing would only stand in between. Take them out first, with
:func:`densespec.network.graph.without`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from densespec.network.graph import Graph, Node
from densespec.network.ops import (
    AvgPool,
    BatchNorm,
    Concat,
    Conv,
    Dense,
    Dropout,
    GlobalPool,
    Op,
    Relu,
)


class _Together:
    """Tells of a step where it begins and where it ends."""

    @property
    def nodes(self) -> tuple[Node, ...]:
        """Return the nodes of the step, in order."""
        raise NotImplementedError

    @property
    def reads(self) -> str:
        """Return the name of the node whose value the step reads."""
        return self.nodes[0].inputs[0]

    @property
    def output(self) -> Node:
        """Return the node whose value the step gives."""
        return self.nodes[-1]


@dataclass(frozen=True)
class Single(_Together):
    """Holds a node that is computed by itself."""

    node: Node

    @property
    def nodes(self) -> tuple[Node, ...]:
        return (self.node,)


@dataclass(frozen=True)
class NormRelu(_Together):
    """Groups a norm with the ReLU behind it, if there is one."""

    norm: Node
    relu: Node | None

    @property
    def nodes(self) -> tuple[Node, ...]:
        return _present(self.norm, self.relu)


@dataclass(frozen=True)
class Convolution(_Together):
    """Groups a convolution with what can become part of it.

    Attributes:
        norm: The norm behind it, if that norm uses its running statistics. It can then be replaced
            by another kernel and bias.
        relu: The ReLU behind those.
        pool: The average pool behind a 1x1 convolution. The two commute, and the convolution has
            fewer positions if the pool comes first.
    """

    conv: Node
    norm: Node | None = None
    relu: Node | None = None
    pool: Node | None = None

    @property
    def nodes(self) -> tuple[Node, ...]:
        return _present(self.conv, self.norm, self.relu, self.pool)


@dataclass(frozen=True)
class Unit:
    """Groups the paper's composite function: a norm, a ReLU, a convolution and then dropout.

    Attributes:
        relu, dropout: None if there is none.
        before: The convolution right before the norm, which no other node reads: if the norm
            computes by its running statistics, it can become part of that convolution.
    """

    norm: Node
    relu: Node | None
    conv: Node
    dropout: Node | None
    before: Node | None


@dataclass(frozen=True)
class Layer:
    """Groups the steps of a dense layer and the concatenation that ends it.

    The first step and the concatenation both read the features that came before.
    """

    steps: tuple[Step, ...]
    concat: Node

    @property
    def nodes(self) -> tuple[Node, ...]:
        """Return the nodes of the layer, in order."""
        return (*_nodes(self.steps), self.concat)

    @functools.cached_property
    def units(self) -> tuple[Unit, ...]:
        """Return the layer as one unit after another.

        Raises:
            ValueError: The layer has none, as in networks that were rewritten for inference.
        """
        return tuple(_units(_nodes(self.steps)))


@dataclass(frozen=True)
class Block(_Together):
    """Groups dense layers that follow each other; each layer's features lie behind its input."""

    layers: tuple[Layer, ...]

    @functools.cached_property
    def nodes(self) -> tuple[Node, ...]:
        return tuple(node for layer in self.layers for node in layer.nodes)

    @functools.cached_property
    def is_of_units(self) -> bool:
        """Say whether all layers consist of units, as fused blocks need; else steps run singly."""
        try:
            return all(layer.units for layer in self.layers)
        except ValueError:
            return False

    @property
    def concats(self) -> tuple[Node, ...]:
        """Return the concatenation of each layer."""
        return tuple(layer.concat for layer in self.layers)


Step = Single | NormRelu | Convolution | Block


def steps(graph: Graph, batch: Callable[[Node], bool]) -> tuple[Step, ...]:
    """Write a network as steps that compute it one after another.

    Args:
        batch: Tells whether a norm normalises with the statistics of the batch: such a norm does
            not become part of the convolution before it.

    Raises:
        ValueError: A value is read in several places, and not by a dense layer.
    """
    found: list[Step] = []
    x = graph.input
    while x is not graph.output:
        first, *others = graph.readers(x)
        step = _block(graph, x, batch) or (None if others else _step(graph, first, batch))
        if step is None:
            raise ValueError(f"{x.name} is read in several places, but not by a dense layer")
        found.append(step)
        x = step.output
    return tuple(found)


# Neighbours that can become one


def relu_behind(graph: Graph, node: Node) -> Node | None:
    """Find the ReLU that alone reads a node."""
    return _behind(graph, node, Relu)


def conv_before(graph: Graph, norm: Node) -> Node | None:
    """Find the convolution that a norm, and no other node, reads."""
    conv = graph.source(norm)
    return conv if isinstance(conv.op, Conv) and graph.reader(conv) is norm else None


def pool_behind(graph: Graph, conv: Node) -> Node | None:
    """Find the average pool that alone reads a 1x1 convolution, with which it commutes."""
    pointwise = isinstance(conv.op, Conv) and conv.op.is_pointwise
    return _behind(graph, conv, AvgPool) if pointwise else None


@dataclass(frozen=True)
class LinearBehind:
    """Groups a norm with the linear op behind it, of which the norm can become part.

    Attributes:
        relu: The ReLU between the two.
        pools: The average pools between the two, behind the ReLU.
        node: The linear op: a convolution that pads nothing, or a dense layer.
    """

    relu: Node | None
    pools: tuple[Node, ...]
    node: Node


def linear_behind(graph: Graph, norm: Node) -> LinearBehind | None:
    """Find the linear op that alone reads a norm, directly or through a ReLU and average pools."""
    relu = relu_behind(graph, norm)
    node, pools = graph.reader(relu or norm), []
    while node is not None and _averages(node.op):
        pools.append(node)
        node = graph.reader(node)
    return LinearBehind(relu, tuple(pools), node) if node and _is_linear(node.op) else None


def _behind(graph: Graph, node: Node, kind: type[Op]) -> Node | None:
    reader = graph.reader(node)
    return reader if reader is not None and isinstance(reader.op, kind) else None


def _averages(op: Op) -> bool:
    return isinstance(op, AvgPool) or (isinstance(op, GlobalPool) and op.kind == "avg")


def _is_linear(op: Op) -> bool:
    """Say whether a scale and a shift before an op can become part of it: not if it pads."""
    return isinstance(op, Dense) or (isinstance(op, Conv) and op.pads_nothing)


# Steps


def _step(graph: Graph, node: Node, batch: Callable[[Node], bool]) -> Step:
    """Find the step that starts with a node."""
    if _is_batch_norm(node):
        return NormRelu(node, relu_behind(graph, node))
    if isinstance(node.op, Conv):
        return _convolution(graph, node, batch)
    return Single(node)


def _convolution(graph: Graph, conv: Node, batch: Callable[[Node], bool]) -> Convolution:
    norm = _behind(graph, conv, BatchNorm)
    norm = None if norm is None or batch(norm) or not _is_batch_norm(norm) else norm
    relu = relu_behind(graph, norm or conv)
    return Convolution(conv, norm, relu, pool_behind(graph, conv))


def _block(graph: Graph, x: Node, batch: Callable[[Node], bool]) -> Block | None:
    """Find the dense layers that begin with a value."""
    layers: list[Layer] = []
    while (layer := _layer(graph, x, batch)) is not None:
        layers.append(layer)
        x = layer.concat
    return Block(tuple(layers)) if layers else None


def _layer(graph: Graph, x: Node, batch: Callable[[Node], bool]) -> Layer | None:
    """Find the dense layer that reads a value, which the concatenation at its end reads too."""
    readers = graph.readers(x)
    if len(readers) != 2 or not isinstance(readers[1].op, Concat):
        return None
    node: Node | None
    node, concat = readers
    found: list[Step] = []
    while node is not concat:
        if node is None:
            return None
        step = _step(graph, node, batch)
        found.append(step)
        node = graph.reader(step.output)
    behind = concat.inputs == (x.name, found[-1].output.name)
    return Layer(tuple(found), concat) if behind else None


def _units(nodes: Sequence[Node]) -> Iterator[Unit]:
    rest, before = list(nodes), None

    def next_of(kind: type[Op]) -> Node | None:
        return rest.pop(0) if rest and isinstance(rest[0].op, kind) else None

    while rest:
        first = rest[0].name
        norm, relu, conv, dropout = map(next_of, (BatchNorm, Relu, Conv, Dropout))
        if norm is None or conv is None or not _is_batch_norm(norm):
            raise ValueError(f"{first} begins no unit of a dense layer: norm, ReLU, convolution")
        yield Unit(norm, relu, conv, dropout, before)
        before = conv if dropout is None else None


def _is_batch_norm(node: Node) -> bool:
    """Say whether a node is a batch norm with a scale and a shift: only such ones join others."""
    return isinstance(node.op, BatchNorm) and node.op.affine


def _nodes(steps: Sequence[Step]) -> tuple[Node, ...]:
    return tuple(node for step in steps for node in step.nodes)


def _present(*nodes: Node | None) -> tuple[Node, ...]:
    return tuple(node for node in nodes if node is not None)
