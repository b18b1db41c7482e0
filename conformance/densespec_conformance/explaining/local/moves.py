"""Holds the steps of weights as a target shows them, with many weights in one vector."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from densespec.network.arrays import Arrays
from densespec.network.graph import Graph
from densespec.recipes.optimizers import FIRST
from densespec.recipes.recipe import AVERAGE, TrainingRecipe
from densespec.reference.kernels import Array
from densespec_conformance.asking.requests import StepTrace, Train
from densespec_conformance.explaining.local.alternatives.updates import Clip, Move, UpdateRule
from densespec_conformance.judging.measure import spoken

ROUNDINGS = 64
"""An update may be off by this many roundings of its terms."""


@dataclass(frozen=True)
class Run:
    """Holds a training run as a target shows it.

    Attributes:
        weights: The arrays before the first step, in float64.
        unit: The roundoff of its arithmetic.
        bounds: The distance that each part of each step may be off, by label, relative to its
            largest value.
        magnitudes: The largest value of each part as the reference computes it, by label.
    """

    request: Train
    weights: Arrays
    steps: Sequence[StepTrace]
    unit: float
    bounds: Mapping[str, float]
    magnitudes: Mapping[str, float]

    def is_whole(self, graph: Graph) -> bool:
        """Say whether every step shows all of a network, in the shapes that it has."""
        arrays = {weight.name: weight.shape for weight in graph.weights}
        trained = {weight.name for weight in graph.weights if weight.trainable}
        return len(self.steps) == len(self.request.batches) and all(
            {name: array.shape for name, array in step.weights.items()} == arrays
            and step.gradients.keys() == trained
            and all(array.shape == arrays[name] for name, array in step.gradients.items())
            for step in self.steps
        )

    @property
    def finite(self) -> Run:
        """Return the run up to the step whose values overflow, if there is such a step."""
        steps = list(itertools.takewhile(_is_finite, self.steps))
        batches = self.request.batches[: len(steps)]
        return replace(self, steps=steps, request=replace(self.request, batches=batches))

    def without_decay(self, decays: Mapping[str, float]) -> Run:
        """Return the run with gradients from which the weight decay that they contain is taken."""
        steps = [
            replace(step, gradients=_less_decay(step.gradients, self.before(index), decays))
            for index, step in enumerate(self.steps)
        ]
        return replace(self, steps=steps)

    @property
    def recipe(self) -> TrainingRecipe:
        return self.request.recipe

    @property
    def rates(self) -> tuple[float, ...]:
        return tuple(batch.learning_rate for batch in self.request.batches)

    def allowed(self, label: str, expected: Array, *terms: Array) -> float:
        """Say how far a part may be off that is worked out of some terms, in its own unit.

        Where 0 is expected by something that is done instead, what the reference computes says how
        large errors are.
        """
        largest, *others = (float(np.abs(one).max(initial=0.0)) for one in (expected, *terms))
        largest = largest or self.magnitudes.get(label, 0.0) or 1.0
        given = self.bounds.get(label, 0.0) * largest
        return max(given, ROUNDINGS * self.unit * max(largest, *others, 0.0))

    def before(self, index: int) -> Mapping[str, Array]:
        """Return the arrays before a step."""
        return self.steps[index - 1].weights if index else self.weights

    def moment(self, index: int, moment: str, name: str) -> Array:
        """Return a moment of a weight before a step: before the first, unless one is given, what it
        starts at; of an average, the weight itself."""
        held = self.steps[index - 1].moments if index else self.request.moments or {}
        array = held.get(moment, {}).get(name)
        if array is not None:
            return array
        own = self.weights[name]
        return own if moment == AVERAGE else np.full_like(own, FIRST.get(moment, 0))


def _is_finite(step: StepTrace) -> bool:
    arrays = (step.gradients, step.weights, *step.moments.values())
    return all(np.isfinite(array).all() for each in arrays for array in each.values())


def _less_decay(
    gradients: Arrays, weights: Mapping[str, Array], decays: Mapping[str, float]
) -> Arrays:
    return {name: g - decays.get(name, 0.0) * weights[name] for name, g in gradients.items()}


@dataclass(frozen=True)
class _Step:
    """Holds what does not depend on how weights move; vectors have all weights end to end."""

    before: Array
    after: Array
    moments: Arrays
    kept: Arrays
    factor: Array
    decay: Array
    labels: Mapping[str, Sequence[str]]
    gradients: Arrays


@dataclass(frozen=True)
class Difference:
    """Holds a part of a step beside what it should be, and how far each value may be off."""

    part: str
    predicted: Array
    actual: Array
    allowed: Array

    @property
    def strains(self) -> Array:
        """Return each error as a share of what is allowed."""
        with np.errstate(all="ignore"):
            return np.nan_to_num(np.abs(self.predicted - self.actual) / self.allowed, nan=np.inf)


class Moves:
    """Holds every step of some weights, and measures how far a rule is from it.

    Args:
        limit: The most values of each weight; None for all.
    """

    def __init__(self, run: Run, names: Sequence[str], limit: int | None = None) -> None:
        self.run, self.names, self._limit = run, tuple(names), limit
        self._sizes = [self._taken(run.weights[name]).size for name in names]
        self._starts = np.cumsum([0, *self._sizes[:-1]])
        self._steps = [self._step(index) for index in range(len(run.steps))]
        self._clipped: dict[tuple[int, Clip], Array] = {}
        self._known: dict[tuple[int, str], Array] = {}

    def of(self, names: Sequence[str]) -> Moves:
        """Return the steps of some of these weights alone."""
        return Moves(self.run, names, self._limit)

    def strains(self, rule: UpdateRule, rates: Sequence[float]) -> Array:
        """Return the largest error of each weight in each step, (steps, weights).

        It is a share of what is allowed.
        """
        return np.stack([self._strain(index, rule, rates) for index in range(len(rates))])

    def residuals(self, rule: UpdateRule, rates: Sequence[float]) -> Array:
        """Return all errors in one vector, as shares of what is allowed."""
        parts = self._differences(rule, rates)
        return np.concatenate([(one.predicted - one.actual) / one.allowed for one in parts])

    def first_difference(self, rule: UpdateRule, rates: Sequence[float]) -> Difference:
        """Return the first part that is further off than it may be; the last where none is."""
        parts = list(self._differences(rule, rates))
        return next((one for one in parts if not one.strains.max() <= 1), parts[-1])

    def _differences(self, rule: UpdateRule, rates: Sequence[float]) -> Iterator[Difference]:
        for index in range(len(rates)):
            yield from self._errors(index, rule, rates)

    def rate(self, index: int, rule: UpdateRule, rate: float) -> float:
        """Solve the learning rate by which a rule gives the weights after a step, or the moments,
        where these hold it."""
        step, move = self._steps[index], partial(self._move, index, rule)
        here, there = (move(each, each) for each in (rate, 2 * rate))
        recipe, moments = self.run.recipe, partial(rule.moments, self.run.recipe)
        parts = [(rule.weight(recipe, here), rule.weight(recipe, there), step.after)]
        parts += [(moments(here)[m], moments(there)[m], kept) for m, kept in step.kept.items()]
        for one, other, shown in parts:
            slope = (other - one) / rate
            across = float((slope**2).sum())
            if across:
                return rate + float((slope * (shown - one)).sum()) / across
        return rate

    def _strain(self, index: int, rule: UpdateRule, rates: Sequence[float]) -> Array:
        parts = [one.strains for one in self._errors(index, rule, rates)]
        return np.maximum.reduceat(np.maximum.reduce(parts), self._starts)

    def _errors(self, index: int, rule: UpdateRule, rates: Sequence[float]) -> Iterator[Difference]:
        """Yield each moment and the weights beside what they should be."""
        recipe, step = self.run.recipe, self._steps[index]
        move = self._move(index, rule, rates[index], rates[max(index - 1, 0)])
        for moment, predicted in rule.moments(recipe, move).items():
            actual = step.kept.get(moment)
            if actual is not None:
                terms = (actual, step.moments[moment])
                allowed = self._allowed(index, spoken(moment), *terms)
                yield Difference(f"step {index + 1}, {spoken(moment)}", predicted, actual, allowed)
        predicted = rule.weight(recipe, move)
        allowed = self._allowed(index, "weight", step.after, step.before)
        yield Difference(f"step {index + 1}, weight", predicted, step.after, allowed)

    def _allowed(self, index: int, part: str, actual: Array, other: Array) -> Array:
        key = index, part
        if key not in self._known:
            self._known[key] = self._bound(self._steps[index].labels[part], actual, other)
        return self._known[key]

    def _bound(self, labels: Sequence[str], actual: Array, other: Array) -> Array:
        starts = self._starts
        largest = np.maximum.reduceat(np.abs(actual), starts)
        terms = np.maximum(largest, np.maximum.reduceat(np.abs(other), starts))
        given = np.array([self.run.bounds.get(label, 0.0) for label in labels])
        allowed = np.maximum(given * largest, ROUNDINGS * self.run.unit * terms)
        return np.repeat(np.maximum(allowed, np.finfo(float).tiny), self._sizes)

    def _move(self, index: int, rule: UpdateRule, rate: float, rate_before: float) -> Move:
        step, before = self._steps[index], self.run.request.steps_before
        return Move(
            before=step.before,
            gradient=self._gradient(index, rule.clip),
            moments=step.moments,
            kept=step.kept,
            rate=rate,
            factor=step.factor,
            rate_before=rate_before,
            decay=step.decay,
            number=index + 1 + (0 if rule.recounts else before),
            first=index == 0,
        )

    def _gradient(self, index: int, clip: Clip) -> Array:
        key = index, clip
        if key not in self._clipped:
            gradients, limit = self._steps[index].gradients, self.run.recipe.clip_norm
            found = gradients if limit is None else clip(gradients, limit)
            self._clipped[key] = self._joined(found)
        return self._clipped[key]

    def _step(self, index: int) -> _Step:
        run, step = self.run, self.run.steps[index]
        names = run.recipe.rule.moments
        kinds = ("weight", *map(spoken, names))
        return _Step(
            before=self._joined(run.before(index)),
            after=self._joined(step.weights),
            moments={moment: self._held(index, moment) for moment in names},
            kept={m: self._joined(step.moments[m]) for m in names if m in step.moments},
            factor=self._repeated(run.recipe.rate_factor_of),
            decay=self._repeated(run.recipe.decay_of),
            labels={
                kind: [f"step {index + 1}, {kind} {name}" for name in self.names] for kind in kinds
            },
            gradients={n: np.asarray(g, np.float64) for n, g in step.gradients.items()},
        )

    def _held(self, index: int, moment: str) -> Array:
        return self._joined({name: self.run.moment(index, moment, name) for name in self.names})

    def _joined(self, arrays: Mapping[str, Array]) -> Array:
        return np.concatenate([self._taken(np.asarray(arrays[name])) for name in self.names])

    def _taken(self, array: Array) -> Array:
        """Return values of an array, spread evenly over it."""
        flat = np.ravel(array).astype(np.float64)
        return flat if self._limit is None else flat[:: -(-flat.size // self._limit)]

    def _repeated(self, figure: Callable[[str], float]) -> Array:
        return np.repeat([figure(name) for name in self.names], self._sizes)
