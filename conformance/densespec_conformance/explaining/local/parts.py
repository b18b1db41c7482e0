"""The gradients of a batch that is accumulated are judged by its parts.

A target shows what all parts of a step come to, and not each of them, so that no op is judged by
itself: the reference takes the step with the parts in other ways until it comes to the same.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from densespec.network.arrays import Arrays
from densespec.network.graph import Graph
from densespec.reference.kernels import Array, Kernel
from densespec.reference.model import ReferenceModel
from densespec_conformance.explaining.local.alternatives.parts import PARTS, PartsRule, Split
from densespec_conformance.explaining.local.moves import Difference, Run

AT_ONCE = 2
"""At most this many choices are combined."""

OWN = PartsRule()

Passed = tuple[float, Arrays, Arrays]
"""Holds the loss of a part, its gradients, and the running statistics after it."""


@dataclass(frozen=True)
class WrongParts:
    """Says what is made of parts instead, in words with sources, and what differs first.

    The words are empty if that is not known.
    """

    does: str
    difference: Difference


@dataclass
class Parted:
    """Holds the steps of a run by parts.

    Attributes:
        kernels: The computation of each kind of op.
    """

    run: Run
    graph: Graph
    kernels: Mapping[type, Kernel]
    _passed: dict[tuple[int, Split, bool], list[Passed]] = field(default_factory=dict)

    def wrong(self, deadline: float) -> WrongParts | None:
        """Find what is made of parts instead; None where they are right.

        Args:
            deadline: A time of the clock ``time.thread_time``, after which no cause is looked for.
        """
        difference = self._first_difference(OWN)
        if difference is None:
            return None
        for rule, does in _rules():
            if time.thread_time() > deadline:
                break
            if self._first_difference(rule, self.run.recipe.accumulate) is None:
                return WrongParts(does, difference)
        return WrongParts("", difference)

    def _first_difference(self, rule: PartsRule, times: float = 1.0) -> Difference | None:
        """Return the first part that is off by so many times what it may be; None where none is.

        The roundings of a part count as often as it does: where it stands alone, as many times as
        there are parts.
        """
        for index in range(len(self.run.steps)):
            predictions = zip(self._step(rule, index), self._step(OWN, index), strict=True)
            for (part, predicted, shown), (_, usual, _) in predictions:
                label, actual = f"step {index + 1}, {part}", np.asarray(shown, np.float64)
                allowed = self.run.allowed(label, np.maximum(np.abs(predicted), np.abs(usual)))
                each = np.full_like(actual, times * allowed)
                difference = Difference(label, predicted, actual, each)
                if not difference.strains.max(initial=0.0) <= 1:
                    return difference
        return None

    def _step(self, rule: PartsRule, index: int) -> Iterator[tuple[str, Array, Array]]:
        """Yield each part of a step by its name, as a rule has it and as it is shown."""
        batch, shown = self.run.request.batches[index], self.run.steps[index]
        split = rule.split(len(batch.x), self.run.recipe.accumulate)
        passed = self._over(index, rule.split, rule.statistics == "in turn")
        sizes = [len(part) for part in split]
        losses, gradients, statistics = zip(*passed, strict=True)
        yield "loss", np.dot(rule.loss(sizes), losses), np.array(shown.loss)
        means = [1 / len(split)] * len(split)
        found = _weighed(statistics, means) if rule.statistics == "mean" else statistics[-1]
        for name, array in found.items():
            yield f"running statistic {name}", array, shown.weights[name]
        for name, array in _weighed(gradients, rule.gradients(sizes)).items():
            yield f"gradient {name}", array, shown.gradients[name]

    def _over(self, index: int, split: Split, in_turn: bool) -> list[Passed]:
        key = index, split, in_turn
        if key not in self._passed:
            self._passed[key] = list(self._passes(index, split, in_turn))
        return self._passed[key]

    def _passes(self, index: int, split: Split, in_turn: bool) -> Iterator[Passed]:
        batch, recipe = self.run.request.batches[index], self.run.recipe
        weights = dict(self.run.before(index))
        for part in split(len(batch.x), recipe.accumulate):
            model = ReferenceModel(self.graph, weights, kernels=self.kernels)
            masks = {name: mask[part] for name, mask in batch.masks.items()}
            labels = np.asarray(batch.labels)[part]
            passed = model.loss_and_gradients(batch.x[part], labels, masks=masks, recipe=recipe)
            weights |= passed[2] if in_turn else {}
            yield passed


def _rules() -> Iterator[tuple[PartsRule, str]]:
    for count in range(1, AT_ONCE + 1):
        for choices in itertools.combinations(PARTS, count):
            rule: PartsRule | None = PartsRule()
            for choice in choices:
                rule = rule and choice.on(rule)
            if rule is not None:
                yield rule, " and ".join(f"{one.does} ({one.source})" for one in choices)


def _weighed(groups: Sequence[Arrays], shares: Sequence[float]) -> Arrays:
    pairs = list(zip(shares, groups, strict=True))
    return {name: np.sum([share * g[name] for share, g in pairs], axis=0) for name in groups[0]}
