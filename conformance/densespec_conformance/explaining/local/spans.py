"""Computes the ops between the values that a target shows, from those very values."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from densespec.network.arrays import Arrays
from densespec.network.graph import Graph, Node
from densespec.reference.kernels import KERNELS, Array, Context, Kernel
from densespec_conformance.explaining.local.alternatives.alternative import Forward
from densespec_conformance.judging.disturbed import DISTURBED, Noise
from densespec_conformance.judging.measure import relative_error
from densespec_conformance.judging.rounding import ARITHMETIC
from densespec_conformance.judging.tolerance import SAFETY

DRAWS = 3
"""An op's bound is derived from this many random roundings."""


@dataclass(frozen=True)
class Span:
    """Holds the ops between values that are shown; the last op gives a value that is shown.

    Attributes:
        nodes: The ops in the order in which they are computed. It is a single op if the target
            shows both its inputs and its output.
    """

    nodes: tuple[Node, ...]

    @property
    def end(self) -> str:
        return self.nodes[-1].name


def spans(graph: Graph, seen: Collection[str]) -> Iterator[Span]:
    """Yield the span of every value that is seen, in the order of the network."""
    between: dict[str, tuple[Node, ...]] = {graph.input.name: ()}
    place = {node.name: index for index, node in enumerate(graph.nodes)}
    for node in graph.nodes[1:]:
        before = {each.name: each for source in node.inputs for each in between[source]}
        nodes = (*sorted(before.values(), key=lambda each: place[each.name]), node)
        between[node.name] = () if node.name in seen else nodes
        if node.name in seen:
            yield Span(nodes)


@dataclass(frozen=True)
class Network:
    """Holds what spans are computed with.

    Attributes:
        weights: The arrays by canonical name, in float64.
        values: The values that the target shows, by node, in float64, including the input.
    """

    graph: Graph
    weights: Mapping[str, Array]
    values: Mapping[str, Array]

    def context(self, node: Node) -> Context:
        return Context(node.name, {w.short: self.weights[w.name] for w in node.weights})

    def inputs(self, node: Node, known: Mapping[str, Array]) -> list[Array]:
        return [known[s] if s in known else self.values[s] for s in node.inputs]

    def computed(
        self,
        span: Span,
        instead: Mapping[str, Forward] | None = None,
        kernels: Mapping[type, Kernel] = KERNELS,
    ) -> Array:
        """Compute the end of a span from the values before it.

        Args:
            instead: What ops do instead, by the name of the node.
        """
        known: Arrays = {}
        for node in span.nodes:
            forward = (instead or {}).get(node.name) or kernels[type(node.op)].forward
            inputs = self.inputs(node, known)
            known[node.name] = forward(node.op, self.context(node), *inputs)
        return known[span.end]

    def allowed(self, span: Span, expected: Array, arithmetic: str) -> float:
        """Derive how far the end of a span may be from what is expected, relative to it."""
        unit = ARITHMETIC[arithmetic].unit
        draws = [
            relative_error(self._disturbed(span, arithmetic, draw), expected)
            for draw in range(DRAWS)
        ]
        return SAFETY * max(unit, *draws)

    def _disturbed(self, span: Span, arithmetic: str, draw: int) -> Array:
        noise = Noise(ARITHMETIC[arithmetic], draw)
        kernels = {**KERNELS, **{kind: make(noise) for kind, make in DISTURBED.items()}}
        return self.computed(span, kernels=kernels)

    def difference(self, span: Span, instead: Mapping[str, Forward]) -> float:
        """Return the relative difference of what is shown from what ops would give if they did
        something else; it is infinite where they can't."""
        actual = self.values[span.end]
        try:
            with np.errstate(all="ignore"):
                predicted = self.computed(span, instead)
        except UNFORESEEN:
            return float("inf")
        return relative_error(actual, predicted)


UNFORESEEN = (ArithmeticError, AssertionError, LookupError, TypeError, ValueError)
"""An alternative raises one of these errors on an op for which it has no meaning."""
