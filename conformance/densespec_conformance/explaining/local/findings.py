"""Ops that are wrong, judged by themselves, with what each of them does instead."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from densespec.network import ops
from densespec.network.arrays import Arrays
from densespec.network.graph import Graph, Node
from densespec.reference.kernels import Array
from densespec_conformance.explaining.local.alternatives import alternatives
from densespec_conformance.explaining.local.alternatives.alternative import (
    Alternative,
    Forward,
    Observation,
)
from densespec_conformance.explaining.local.spans import Network, Span, spans
from densespec_conformance.explaining.patterns import narrowest, peculiarities
from densespec_conformance.judging.measure import relative_error
from densespec_conformance.judging.rounding import ARITHMETIC
from densespec_conformance.judging.tolerance import SAFETY, Bounds

LONGEST = 8
"""The most ops between two values that are shown, for which each may be the wrong one."""

COARSER = ("float32", "tf32", "float16", "bfloat16")
"""Arithmetic that an op may round by instead, from the finest on."""

SUMS = (ops.Conv, ops.Dense)
"""The ops whose factors TF32 rounds."""


@dataclass(frozen=True)
class WrongOp:
    """An op whose output does not follow from its own inputs.

    Attributes:
        where: The node, or the last of the nodes among which it is.
        among: All nodes that it may be, where the target does not show the values between them.
        kind: The class of its op.
        error: The difference from what it should give for these inputs, relative to that.
        allowed: How far it may be by rounding.
        actual: What it gives.
        expected: What it should give.
        does: What it does instead, in words; empty where that is not known.
        instead: The function that does it, by the node that does it.
        rounds: Whether all that it does otherwise is to round more.
    """

    where: str
    among: tuple[str, ...]
    kind: type
    error: float
    allowed: float
    actual: Array
    expected: Array
    does: str = ""
    instead: tuple[str, Forward] | None = None
    rounds: bool = False

    @property
    def explained(self) -> bool:
        return bool(self.does)

    @property
    def remarks(self) -> tuple[str, ...]:
        """Say what is peculiar about it, where it is not known what it does."""
        return peculiarities(self.actual, self.expected)


class LocalJudge:
    """Judges each op of an answer by what goes into it and what comes out.

    Args:
        weights: The arrays by canonical name, in float64.
        shown: What the target shows, by node; more names than the graph's are left out.
        arithmetic: The arithmetic that the target was asked for.
        deadline: A time of the clock ``time.thread_time``, after which no cause is looked for.
    """

    def __init__(
        self,
        graph: Graph,
        weights: Mapping[str, Array],
        x: Array,
        shown: Mapping[str, Array],
        arithmetic: str,
        deadline: float,
    ) -> None:
        known = {node.name for node in graph.nodes}
        values = {name: np.asarray(v, np.float64) for name, v in shown.items() if name in known}
        self.network = Network(graph, weights, {**values, graph.input.name: x})
        self._spans = list(spans(graph, values))
        self._arithmetic, self._deadline = arithmetic, deadline

    @property
    def sees_enough(self) -> bool:
        """Whether most ops can be judged by themselves."""
        return sum(len(span.nodes) <= LONGEST for span in self._spans) > len(self._spans) / 2

    def findings(self, bounds: Bounds | None) -> LocalFindings | None:
        """Find every op that deviates, in the order of the network; None where none does.

        Args:
            bounds: How far the answer may be from the reference.
        """
        wrong = tuple(found for span in self._spans if (found := self._judged(span)) is not None)
        if not wrong:
            return None
        complete = all(one.instead is not None for one in wrong) and self._proven(wrong, bounds)
        return LocalFindings(self.network.graph, wrong, complete)

    def _proven(self, wrong: Sequence[WrongOp], bounds: Bounds | None) -> bool:
        """Run the whole reference with what was found, and compare all that is shown."""
        values, graph = self.network.values, self.network.graph
        predicted = whole(
            self.network,
            values[graph.input.name],
            dict(one.instead for one in wrong if one.instead),
        )
        return bounds is not None and all(
            relative_error(actual, predicted[name]) <= bounds.relative.get(name, 0.0)
            for name, actual in values.items()
            if name != graph.input.name
        )

    def _judged(self, span: Span) -> WrongOp | None:
        expected, actual = self.network.computed(span), self.network.values[span.end]
        error = relative_error(actual, expected)
        allowed = SAFETY * ARITHMETIC[self._arithmetic].unit
        if error > allowed:
            allowed = self.network.allowed(span, expected, self._arithmetic)
        if error <= allowed:
            return None
        among = tuple(node.name for node in span.nodes)
        kind = type(span.nodes[-1].op)
        wrong = WrongOp(span.end, among, kind, error, allowed, actual, expected)
        return self._explained(span, wrong)

    def _explained(self, span: Span, wrong: WrongOp) -> WrongOp:
        if len(span.nodes) > LONGEST or time.thread_time() > self._deadline:
            return wrong
        for node in span.nodes:
            for other in alternatives(self._observation(span, node)):
                if self.network.difference(span, {node.name: other.forward}) <= wrong.allowed:
                    return _with_cause(wrong, node, other)
        return self._rounding(span, wrong) or wrong

    def _observation(self, span: Span, node: Node) -> Observation:
        values = self.network.values
        shown = all(source in values for source in node.inputs)
        return Observation(
            graph=self.network.graph,
            node=node,
            context=self.network.context(node),
            inputs=tuple(values[source] for source in node.inputs) if shown else None,
            output=values.get(node.name) if shown and len(span.nodes) == 1 else None,
            weights=self.network.weights,
            values=values,
        )

    def _rounding(self, span: Span, wrong: WrongOp) -> WrongOp | None:
        """Explain a difference by coarser arithmetic: the last resort, and only where the values
        or the error look like it."""
        own = COARSER.index(self._arithmetic) + 1 if self._arithmetic in COARSER else 0
        for arithmetic in COARSER[own:]:
            if not _looks_like(arithmetic, span, wrong):
                continue
            if wrong.error <= self.network.allowed(span, wrong.expected, arithmetic):
                words = f"it rounds as {arithmetic} does: it is off by {wrong.error:.1e}"
                return _with_words(wrong, words)
        return None


def _looks_like(arithmetic: str, span: Span, wrong: WrongOp) -> bool:
    bits = narrowest(wrong.actual)
    if arithmetic == "tf32":
        sums = any(isinstance(node.op, SUMS) for node in span.nodes)
        unit = ARITHMETIC["tf32"].factors
        return sums and bits == "float32" and unit / 64 <= wrong.error <= 32 * unit
    return bits == arithmetic


def _with_cause(wrong: WrongOp, node: Node, other: Alternative) -> WrongOp:
    return WrongOp(
        *(node.name, wrong.among, type(node.op), wrong.error, wrong.allowed),
        *(wrong.actual, wrong.expected, other.does, (node.name, other.forward)),
    )


def _with_words(wrong: WrongOp, words: str) -> WrongOp:
    return WrongOp(
        *(wrong.where, wrong.among, wrong.kind, wrong.error, wrong.allowed),
        *(wrong.actual, wrong.expected, words, None, True),
    )


@dataclass(frozen=True)
class LocalFindings:
    """All ops of an answer that are wrong by themselves.

    Attributes:
        complete: Whether they are the whole difference: with what they do instead, the reference
            gives everything that the target shows.
    """

    graph: Graph
    wrong: tuple[WrongOp, ...]
    complete: bool

    @property
    def is_local(self) -> bool:
        """Whether no cause is one of all ops of a kind that the network has several of."""
        places: dict[tuple[type, str], int] = {}
        for one in self.wrong:
            places[one.kind, one.does] = places.get((one.kind, one.does), 0) + 1
        return all(count < len(self.graph.nodes_of(kind)) for (kind, _), count in places.items())


def whole(network: Network, x: Array, wrong: Mapping[str, Forward]) -> Arrays:
    """Compute every node of a network some of whose ops do something else."""
    values: Arrays = {network.graph.input.name: x}
    for node in network.graph.nodes[1:]:
        alone = Network(network.graph, network.weights, values)
        values[node.name] = alone.computed(Span((node,)), wrong)
    return values
