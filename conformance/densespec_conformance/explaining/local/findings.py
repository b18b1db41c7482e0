"""Ops that are wrong, judged by themselves, with what each of them does instead."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from densespec.network import ops
from densespec.network.graph import Graph, Node
from densespec.reference.kernels import Array, Context
from densespec_conformance.explaining.local.alternatives import alternatives
from densespec_conformance.explaining.local.alternatives.alternative import (
    Alternative,
    Forward,
    Observation,
    own,
)
from densespec_conformance.explaining.local.spans import Network, Span, spans
from densespec_conformance.explaining.patterns import narrowest, peculiarities
from densespec_conformance.judging.measure import relative_error
from densespec_conformance.judging.rounding import ARITHMETIC
from densespec_conformance.judging.tolerance import SAFETY

LONGEST = 8
"""The most ops between two values that are shown, for which each may be the wrong one."""

ALTERNATIVE = 2.0
"""How much further off an alternative may be than the op itself: what is solved from an output has
the rounding of that output, besides its own."""

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
        rounds: The arithmetic, where all that it does otherwise is to round more.
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
    rounds: str = ""

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

    def findings(self) -> LocalFindings | None:
        """Find every op that deviates, in the order of the network; None where none does."""
        wrong = tuple(found for span in self._spans if (found := self._judged(span)) is not None)
        return LocalFindings(self.network.graph, wrong) if wrong else None

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
                left = self.network.difference(span, {node.name: other.forward})
                if left <= ALTERNATIVE * wrong.allowed:
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
        finer = COARSER.index(self._arithmetic) + 1 if self._arithmetic in COARSER else 0
        for arithmetic in COARSER[finer:]:
            if _looks_like(arithmetic, span, wrong) and self._may_round(arithmetic, span, wrong):
                return replace(wrong, does=f"it rounds as {arithmetic} does", rounds=arithmetic)
        return None

    def _may_round(self, arithmetic: str, span: Span, wrong: WrongOp) -> bool:
        near = wrong.error <= self.network.allowed(span, wrong.expected, arithmetic)
        return near and (arithmetic != "tf32" or self._by_tf32(span, wrong))

    def _by_tf32(self, span: Span, wrong: WrongOp) -> bool:
        """Whether factors of so few bits explain most of the difference, not its size alone."""
        left = min(
            self.network.difference(span, {n.name: forward for n in span.nodes if _sums(n)})
            for forward in (_of_nearest_factors, _of_cut_factors)
        )
        return left <= max(wrong.allowed, wrong.error / 4)


def _sums(node: Node) -> bool:
    return isinstance(node.op, SUMS)


def _of_nearest_factors(op: Any, ctx: Context, x: Array) -> Array:
    return _with_factors(lambda a: np.ldexp(np.rint(np.ldexp(a, 11)), -11), op, ctx, x)


def _of_cut_factors(op: Any, ctx: Context, x: Array) -> Array:
    return _with_factors(lambda a: np.ldexp(np.trunc(np.ldexp(a, 11)), -11), op, ctx, x)


def _with_factors(shorten: Callable[[Array], Array], op: Any, ctx: Context, x: Array) -> Array:
    """Compute an op whose input and kernel have TF32's 11 significant bits."""

    def shortened(array: Array) -> Array:
        mantissa, exponent = np.frexp(array)
        return np.ldexp(shorten(mantissa), exponent)

    weights = {**ctx.weights, "kernel": shortened(ctx.weights["kernel"])}
    return own(op, replace(ctx, weights=weights), shortened(x))


def _looks_like(arithmetic: str, span: Span, wrong: WrongOp) -> bool:
    bits, unit = narrowest(wrong.actual), ARITHMETIC[arithmetic].unit
    if arithmetic == "tf32":
        return any(map(_sums, span.nodes)) and bits == "float32"
    if arithmetic == "float32" and bits is None:  # kept in more bits afterwards
        return unit / 32 <= wrong.error <= 4096 * unit
    return bits == arithmetic


def _with_cause(wrong: WrongOp, node: Node, other: Alternative) -> WrongOp:
    instead = (node.name, other.forward)
    return replace(wrong, where=node.name, kind=type(node.op), does=other.does, instead=instead)


@dataclass(frozen=True)
class LocalFindings:
    """All ops of an answer that are wrong by themselves.

    Every other value that the target shows follows from the values before it, so that nothing else
    is different in what it shows.
    """

    graph: Graph
    wrong: tuple[WrongOp, ...]

    @property
    def complete(self) -> bool:
        """Whether it is known of each what it does instead, to the last digits."""
        return all(one.instead is not None for one in self.wrong)

    @property
    def names(self) -> set[str]:
        """Name every node that is, or may be, wrong."""
        return {name for one in self.wrong for name in one.among}

    def leaves_room_for(self, arithmetic: str) -> bool:
        """Whether all that every wrong op does otherwise is to round as an arithmetic does."""
        return all(one.rounds == arithmetic for one in self.wrong)

    def has_name(self, patterns: Iterable[set[str]]) -> bool:
        """Say whether a cause may be one that has a name: it is that of half the ops of a kind or
        more, or of just the ops that a known pattern has."""
        known = [frozenset(pattern) for pattern in patterns]
        places: dict[tuple[type, str], list[str]] = {}
        for one in self.wrong:
            places.setdefault((one.kind, one.does), []).append(one.where)
        return any(
            2 * len(names) >= len(self.graph.nodes_of(kind)) or frozenset(names) in known
            for (kind, _), names in places.items()
        )
