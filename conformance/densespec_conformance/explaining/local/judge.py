"""Each op of an answer is judged by itself, and what a wrong one does instead is worked out."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from densespec.network.graph import Graph, Node
from densespec.reference.kernels import Array
from densespec_conformance.explaining.local.alternatives import alternatives
from densespec_conformance.explaining.local.alternatives.alternative import Observation
from densespec_conformance.explaining.local.findings import LocalFindings, WrongOp
from densespec_conformance.explaining.local.rounding import COARSER, by_tf32, looks_like
from densespec_conformance.explaining.local.spans import Network, Span, spans
from densespec_conformance.explaining.patterns import peculiarities
from densespec_conformance.judging.compare import stats
from densespec_conformance.judging.measure import relative_error
from densespec_conformance.judging.rounding import ARITHMETIC
from densespec_conformance.judging.tolerance import SAFETY

LONGEST = 8
"""At most this many ops may lie between two shown values for each of them to be considered."""

ALTERNATIVE = 2.0
"""An alternative may be further off than the op itself by this factor.

A number that is solved from an output has the rounding of that output, besides its own.
"""


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
        """Say whether most ops can be judged by themselves."""
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
        wrong = WrongOp(
            where=span.end,
            among=tuple(node.name for node in span.nodes),
            kind=type(span.nodes[-1].op),
            error=error,
            allowed=allowed,
            actual=stats(actual),
            expected=stats(expected),
        )
        found = self._explained(span, wrong, actual, expected)
        return found or replace(wrong, remarks=peculiarities(actual, expected))

    def _explained(
        self, span: Span, wrong: WrongOp, actual: Array, expected: Array
    ) -> WrongOp | None:
        if len(span.nodes) > LONGEST or time.thread_time() > self._deadline:
            return None
        for node in span.nodes:
            for other in alternatives(self._observation(span, node)):
                left = self.network.difference(span, {node.name: other.forward})
                if left <= ALTERNATIVE * wrong.allowed:
                    return replace(
                        wrong,
                        where=node.name,
                        kind=type(node.op),
                        does=other.does,
                        exact=other.names_the_cause,
                    )
        rounds = self._rounding(span, wrong, actual, expected)
        if not rounds:
            return None
        return replace(wrong, does=f"it rounds as {rounds} does", rounds=rounds)

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

    def _rounding(self, span: Span, wrong: WrongOp, actual: Array, expected: Array) -> str:
        """Name coarser arithmetic that the op may have: the last resort, and only where the values
        or the error look like it."""
        finer = COARSER.index(self._arithmetic) + 1 if self._arithmetic in COARSER else 0
        likely = (each for each in COARSER[finer:] if looks_like(each, span, actual, wrong.error))
        for arithmetic in likely:
            near = wrong.error <= self.network.allowed(span, expected, arithmetic)
            if near and (arithmetic != "tf32" or by_tf32(self.network, span, wrong)):
                return arithmetic
        return ""
