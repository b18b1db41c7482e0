"""Computes one training step's forward and backward pass, op by op, with other ops if asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from densespec.network.arrays import Arrays
from densespec.network.graph import Graph, Node
from densespec.reference.kernels import Array, Context, Kernel
from densespec_conformance.asking.requests import Batch


@dataclass
class Pass:
    """Holds the values of a training step, forward and backward.

    Attributes:
        kernels: The computation of each kind of op.
        weights: The arrays before the step, in float64.
        instead: The computation of ops that do something else, by node.
        values: The values that each node computes.
        slopes: The gradient of each node's output, as far as they have been computed.
        backs: The gradients of each node's inputs, as far as they have been computed.
    """

    graph: Graph
    kernels: Mapping[type, Kernel]
    weights: Mapping[str, Array]
    batch: Batch
    instead: dict[str, Kernel] = field(default_factory=dict)
    values: Arrays = field(default_factory=dict)
    contexts: dict[str, Context] = field(default_factory=dict)
    slopes: Arrays = field(default_factory=dict)
    backs: dict[str, list[Array]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.values[self.graph.input.name] = np.asarray(self.batch.x, np.float64)
        self.place = {node.name: index for index, node in enumerate(self.graph.nodes)}
        self._readers: dict[str, list[tuple[Node, int]]] = {}
        for node in self.graph.nodes[1:]:
            for index, source in enumerate(node.inputs):
                self._readers.setdefault(source, []).append((node, index))

    def kernel(self, node: Node) -> Kernel:
        return self.instead.get(node.name) or self.kernels[type(node.op)]

    def context(self, node: Node) -> Context:
        own = {w.short: np.asarray(self.weights[w.name], np.float64) for w in node.weights}
        mask = self.batch.masks.get(node.name)
        mask = None if mask is None else np.asarray(mask, np.float64)
        return Context(node.name, own, not node.frozen, mask)

    def inputs(self, node: Node, known: Mapping[str, Array] | None = None) -> list[Array]:
        return [(known or {}).get(s, self.values[s]) for s in node.inputs]

    def forward(self, node: Node) -> None:
        """Compute a node from what was computed before it."""
        context = self.contexts[node.name] = self.context(node)
        self.values[node.name] = self.kernel(node).forward(node.op, context, *self.inputs(node))

    def statistics(
        self, instead: Mapping[str, Kernel], start: int, end: Node
    ) -> tuple[Arrays, Arrays]:
        """Compute the nodes from a place on up to another, some of them otherwise.

        It gives the running statistics of the last by short name, and all that was computed.
        """
        known: Arrays = {}
        context = Context(end.name)
        for node in self.graph.nodes[start : self.place[end.name] + 1]:
            kernel = instead.get(node.name) or self.kernel(node)
            context = self.context(node)
            known[node.name] = kernel.forward(node.op, context, *self.inputs(node, known))
        return context.statistics, known

    def slope(self, node: Node, backs: Mapping[str, list[Array]] | None = None) -> Array:
        """Return the gradient of a node's output: the sum of what its readers give back."""
        found = [
            (backs or {}).get(reader.name, self.backs[reader.name])[index]
            for reader, index in self._readers[node.name]
        ]
        return np.asarray(sum(found[1:], start=found[0]))

    def backward(self, node: Node, slope: Array) -> Arrays:
        """Compute the gradients of a node's inputs, and give those of its own arrays."""
        self.slopes[node.name] = slope
        dxs, own = self._back(node, self.kernel(node), slope)
        self.backs[node.name] = dxs
        return own

    def gradients(self, node: Node, slope: Array) -> Arrays:
        """Return the gradients of a node's own arrays, for a gradient of its output."""
        return self._back(node, self.kernel(node), slope)[1]

    def _back(self, node: Node, kernel: Kernel, slope: Array) -> tuple[list[Array], Arrays]:
        return kernel.backward(node.op, self.contexts[node.name], slope, *self.inputs(node))

    def suspects(self, node: Node) -> Iterator[Node]:
        """Yield the nodes whose way back may be why the gradient of a node's output is not what it
        should be: its readers, and beyond those that have no gradients of their own."""
        seen: set[str] = set()
        todo = [reader for reader, _ in self._readers.get(node.name, ())]
        while todo:
            one = todo.pop(0)
            if one.name in seen:
                continue
            seen.add(one.name)
            yield one
            if not any(weight.trainable for weight in one.weights):
                todo += [reader for reader, _ in self._readers.get(one.name, ())]

    def back_through(self, node: Node, others: Mapping[str, Kernel]) -> dict[str, list[Array]]:
        """Compute anew what ops give back, and all that comes of it before a node.

        Args:
            node: The node whose own gradients are looked at; it is not computed.
            others: How other nodes, which come after it, are computed.
        """
        backs: dict[str, list[Array]] = {}
        first, last = self.place[node.name], max(self.place[name] for name in others)
        for one in reversed(self.graph.nodes[first + 1 : last + 1]):
            moved = any(reader.name in backs for reader, _ in self._readers.get(one.name, ()))
            if moved or one.name in others:
                slope = self.slope(one, backs) if moved else self.slopes[one.name]
                kernel = others.get(one.name) or self.kernel(one)
                backs[one.name] = self._back(one, kernel, slope)[0]
        return backs
