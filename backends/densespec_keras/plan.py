"""Which nodes of a graph are computed together: the one place that decides what is fused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from densespec.network import ops
from densespec.network.graph import Graph, Node


@dataclass(frozen=True)
class Single:
    """A node by itself."""

    node: Node

    @property
    def output(self) -> str:
        return self.node.name


@dataclass(frozen=True)
class Normalise:
    """A norm, and the ReLU behind it if there is one."""

    norm: Node
    relu: Node | None

    @property
    def output(self) -> str:
        return (self.relu or self.norm).name


@dataclass(frozen=True)
class NormedConvolution:
    """A convolution with the norm behind it, which is part of it, and the ReLU behind that."""

    conv: Node
    norm: Node
    relu: Node | None

    @property
    def output(self) -> str:
        return (self.relu or self.norm).name


@dataclass(frozen=True)
class PooledConvolution:
    """A 1x1 convolution and the average pool behind it, which commute: pooled first."""

    conv: Node
    pool: Node

    @property
    def output(self) -> str:
        return self.pool.name


@dataclass(frozen=True)
class Part:
    """A norm, a ReLU, a convolution and what it drops from, within a dense layer."""

    norm: Node
    relu: Node | None
    conv: Node
    dropout: Node | None


@dataclass(frozen=True)
class Block:
    """Dense layers one after another."""

    layers: tuple[tuple[Part, ...], ...]
    concats: tuple[Node, ...]

    @property
    def output(self) -> str:
        return self.concats[-1].name


Step = Single | Normalise | NormedConvolution | PooledConvolution | Block


def plan(
    graph: Graph, drops: Callable[[Node], bool], batch: Callable[[Node], bool]
) -> list[tuple[str, Step]]:
    """Steps that compute a graph one after another, each with the name of the value it reads.

    Args:
        drops: whether a dropout drops anything; one that does not is left out.
        batch: whether a norm normalises with the statistics of the batch.
    """
    draft = _Draft(graph, drops, batch)
    steps: list[tuple[str, Step]] = []
    x = graph.input.name
    while x != draft.output:
        step = draft.step(x)
        steps.append((x, step))
        x = step.output
    return steps


class _Draft:
    """A graph without idle dropouts, and who reads whom."""

    def __init__(
        self, graph: Graph, drops: Callable[[Node], bool], batch: Callable[[Node], bool]
    ) -> None:
        self._batch = batch
        instead: dict[str, str] = {}
        self._readers: dict[str, list[Node]] = {}
        self.output = graph.output.name
        for node in graph.nodes[1:]:
            if isinstance(node.op, ops.Dropout) and not drops(node):
                instead[node.name] = instead.get(node.inputs[0], node.inputs[0])
                continue
            for source in node.inputs:
                self._readers.setdefault(instead.get(source, source), []).append(node)
        self.output = instead.get(self.output, self.output)

    def step(self, x: str) -> Step:
        """What is computed next of a value through which the whole network passes."""
        return self._block(x) or self._chained(x)

    def _chained(self, x: str) -> Step:
        (node,) = self._readers[x]
        after = self._after(node)
        if isinstance(node.op, ops.BatchNorm):
            return Normalise(node, self._relu_after(node))
        folds = after is not None and isinstance(after.op, ops.BatchNorm) and not self._batch(after)
        if after is not None and folds and isinstance(node.op, ops.Conv):
            return NormedConvolution(node, after, self._relu_after(after))
        if after is not None and isinstance(after.op, ops.AvgPool) and is_pointwise(node.op):
            return PooledConvolution(node, after)
        return Single(node)

    def _after(self, node: Node) -> Node | None:
        """The only reader of a node."""
        readers = self._readers.get(node.name, ())
        return readers[0] if len(readers) == 1 else None

    def _relu_after(self, node: Node) -> Node | None:
        after = self._after(node)
        return after if after is not None and isinstance(after.op, ops.Relu) else None

    def _block(self, x: str) -> Block | None:
        layers: list[tuple[Part, ...]] = []
        concats: list[Node] = []
        while (found := self._layer(x)) is not None:
            layers.append(found[0])
            concats.append(found[1])
            x = concats[-1].name
        return Block(tuple(layers), tuple(concats)) if layers else None

    def _layer(self, x: str) -> tuple[tuple[Part, ...], Node] | None:
        """The dense layer that reads a value, and the concatenation that ends it."""
        readers = self._readers.get(x, ())
        concat = next((node for node in readers if isinstance(node.op, ops.Concat)), None)
        first = next((node for node in readers if node is not concat), None)
        if concat is None or first is None or len(readers) != 2:
            return None
        parts = []
        node = first
        while node is not concat:
            taken = self._part(node)
            if taken is None:
                return None
            part, node = taken
            parts.append(part)
        return tuple(parts), concat

    def _part(self, norm: Node) -> tuple[Part, Node] | None:
        """The part of a dense layer that starts with a norm, and the node after it."""
        nodes = [norm]
        kinds: Sequence[tuple[type, bool]] = (
            (ops.BatchNorm, True),
            (ops.Relu, False),
            (ops.Conv, True),
            (ops.Dropout, False),
        )
        found: list[Node | None] = []
        for kind, needed in kinds:
            node = nodes[-1]
            if isinstance(node.op, kind):
                found.append(node)
                (node,) = self._readers[node.name]
                nodes.append(node)
            elif needed:
                return None
            else:
                found.append(None)
        first, relu, conv, dropout = found
        assert first is not None
        assert conv is not None
        return Part(first, relu, conv, dropout), nodes[-1]


def is_pointwise(op: ops.Op) -> bool:
    """Whether each position of a convolution's output comes from the same one of its input."""
    return (
        isinstance(op, ops.Conv)
        and set(op.window) == {1}
        and op.stride == 1
        and op.padding != "same"
        and not any(map(any, op.padding))
    )
