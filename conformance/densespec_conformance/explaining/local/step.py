"""Compares a training step as a target shows it with what the reference computes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from densespec.network.arrays import Arrays
from densespec.network.graph import Graph, Node
from densespec.recipes.recipe import TrainingRecipe
from densespec.reference.kernels import Array, Kernel
from densespec_conformance.explaining.local.alternatives.in_training import InTraining
from densespec_conformance.explaining.local.findings import WrongOp
from densespec_conformance.explaining.local.moves import Run
from densespec_conformance.explaining.local.passes import Pass
from densespec_conformance.explaining.patterns import peculiarities
from densespec_conformance.judging.compare import stats

UNFORESEEN = (ArithmeticError, AssertionError, LookupError, TypeError, ValueError)
"""An alternative raises one of these errors on an op for which it has no meaning."""


class Lost(Exception):
    """A part of a step is wrong, and it is not known why, so what follows can't be judged."""


@dataclass
class Found:
    """Holds what was found in the steps so far.

    Attributes:
        wrong: The wrong things, by the place and what is done there.
        habits: The alternatives that ops of a kind did, as others of the kind may do them, too.
        instead: The alternatives that ops do, by node, as they may do them in the next step, too.
        decays: The weight decay that gradients contain as they are shown, by weight.
    """

    wrong: dict[tuple[str, str], WrongOp] = field(default_factory=dict)
    habits: dict[type, list[InTraining]] = field(default_factory=dict)
    instead: dict[str, Kernel] = field(default_factory=dict)
    decays: dict[str, float] = field(default_factory=dict)

    def add(self, one: WrongOp) -> bool:
        """Add something that is wrong, and say whether it is new."""
        return self.wrong.setdefault((one.where, one.does), one) is one


class Step:
    """Holds one step of a run, with its forward and backward pass as far as they were computed.

    Attributes:
        shown: The values that the target shows of it.
        passed: The step as computed from the weights that the target had.
        found: The findings of this step and earlier ones; new ones are added.
        said: The places and words of the findings of this step.

    Args:
        kernels: The computation of each kind of op.
        deadline: The time of the clock ``time.thread_time`` after which no cause is looked for.
    """

    def __init__(
        self,
        run: Run,
        graph: Graph,
        kernels: Mapping[type, Kernel],
        index: int,
        found: Found,
        deadline: float,
    ) -> None:
        self.run, self.graph, self.index, self.found = run, graph, index, found
        self.shown = run.steps[index]
        self.said: list[tuple[str, str]] = []
        batch = run.request.batches[index]
        self.passed = Pass(graph, kernels, run.before(index), batch, dict(found.instead))
        self._label, self._deadline = f"step {index + 1}", deadline

    def is_late(self) -> bool:
        return time.thread_time() > self._deadline

    def allowed(self, part: str, expected: Array) -> float:
        """Say how far a part may be off, in its own unit."""
        return self.run.allowed(f"{self._label}, {part}", expected)

    def fits(self, part: str, actual: Any, predicted: Any, times: float = 1.0) -> bool:
        actual, predicted = np.asarray(actual, np.float64), np.asarray(predicted)
        if actual.shape != predicted.shape:
            return False
        with np.errstate(all="ignore"):
            off = float(np.abs(actual - predicted).max(initial=0.0))
        return off <= times * self.allowed(part, predicted)

    def wrong(
        self, where: str, nodes: Iterable[str], kind: type | str, part: str, *arrays: Any, does: str
    ) -> None:
        """Add something that is wrong: what a part of the step is, and what it should be."""
        actual, expected = (np.asarray(array, np.float64) for array in arrays)
        largest = float(np.abs(expected).max(initial=0.0)) or 1.0
        one = WrongOp(
            where=where,
            among=tuple(nodes),
            kind=kind,
            error=float(np.abs(actual - expected).max(initial=0.0)) / largest,
            allowed=self.allowed(part, expected) / largest,
            actual=stats(actual),
            expected=stats(expected),
            does=does,
            exact=bool(does),
            remarks=() if does else peculiarities(actual, expected),
        )
        if self.found.add(one):
            self.said.append((where, does))

    @property
    def recipe(self) -> TrainingRecipe:
        return self.run.recipe

    @property
    def weights(self) -> Arrays:
        """Return the arrays before the step, in float64."""
        return {n: np.asarray(w, np.float64) for n, w in self.run.before(self.index).items()}

    def earlier(self, name: str) -> Array | float:
        """Return the gradient of a weight that the step before shows; 0 where there is none."""
        if not self.index:
            return 0.0
        return np.asarray(self.run.steps[self.index - 1].gradients[name], np.float64)

    def off(self, node: Node, gradients: Arrays) -> Arrays:
        """Return the gradients of a node's arrays that are not what the target shows."""
        return {s: g for s, g in gradients.items() if not self.gradient_fits(node, s, g)}

    def gradient_fits(self, node: Node, short: str, predicted: Array) -> bool:
        name = f"{node.name}.{short}"
        return self.fits(f"gradient {name}", self.shown.gradients[name], predicted)

    def loss(self, function: Callable[..., tuple[float, Array]]) -> tuple[float, Array]:
        logits = self.passed.values[self.graph.output.name]
        return function(self.run.recipe, logits, np.asarray(self.passed.batch.labels))

    def try_loss(self, function: Callable[..., tuple[float, Array]]) -> tuple[float, Array] | None:
        try:
            return self.loss(function)
        except UNFORESEEN:
            return None
