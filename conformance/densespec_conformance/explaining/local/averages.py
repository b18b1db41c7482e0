"""Averages are judged by each array's own course, from what a target shows.

An average follows from itself before a step and from the array after it, and all of these are
shown, so what is wrong is found array by array, whatever the arrays do.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from densespec.recipes.recipe import AVERAGE
from densespec.reference.kernels import Array
from densespec_conformance.explaining.local.alternatives.averages import (
    AVERAGES,
    AverageChoice,
    AverageRule,
    Following,
)
from densespec_conformance.explaining.local.moves import Difference, Run

DIGITS = (1, 2, 3, 4, 6)
"""Round numbers have this many digits, and are tried before what was solved."""


@dataclass(frozen=True)
class WrongAverage:
    """Averages that all do something else in the same way.

    Attributes:
        does: What they do instead, in words with sources; empty where that is not known.
        difference: What differs first of the first of them.
    """

    names: tuple[str, ...]
    does: str
    difference: Difference


@dataclass(frozen=True)
class _Cause:
    """Holds a rule by which some averages follow their arrays, perhaps in only some steps."""

    rule: AverageRule
    words: str
    every: int = 1


def wrong_averages(run: Run, deadline: float) -> list[WrongAverage]:
    """Find the averages that do not follow as the recipe says, with what is done instead.

    Args:
        deadline: A time of the clock ``time.thread_time``, after which no cause is looked for.
    """
    if run.recipe.average is None or not all(_shows(run, index) for index in range(len(run.steps))):
        return []
    courses = {name: _Course.of(run, name) for name in run.steps[0].moments[AVERAGE]}
    wrong = {n: one for n, one in courses.items() if not one.fits(_Cause(AverageRule(), ""))}
    return list(_grouped(wrong, deadline))


def _shows(run: Run, index: int) -> bool:
    arrays, averages = run.steps[index].weights, run.steps[index].moments.get(AVERAGE, {})
    return all(name in arrays and a.shape == arrays[name].shape for name, a in averages.items())


def _grouped(left: Mapping[str, _Course], deadline: float) -> Iterator[WrongAverage]:
    """Say the fewest causes that explain all averages that are wrong."""
    while left:
        leader = max(left.values(), key=lambda course: course.size)
        causes = leader.causes() if time.thread_time() <= deadline else ()
        fitting = [(cause, [n for n, one in left.items() if one.fits(cause)]) for cause in causes]
        unknown = _Cause(AverageRule(), ""), [leader.name]
        cause, names = max(fitting, key=lambda one: len(one[1]), default=unknown)
        yield WrongAverage(tuple(names), cause.words, left[names[0]].first_difference())
        left = {name: course for name, course in left.items() if name not in names}


@dataclass(frozen=True)
class _Course:
    """Holds an average beside its array in every step of a run."""

    run: Run
    name: str
    steps: Sequence[Following]
    shown: Sequence[Array]

    @classmethod
    def of(cls, run: Run, name: str) -> _Course:
        shown = [np.asarray(s.moments[AVERAGE][name], np.float64) for s in run.steps]
        steps = [
            Following(
                before=np.asarray(run.before(index)[name], np.float64),
                after=np.asarray(step.weights[name], np.float64),
                held=np.asarray(run.moment(index, AVERAGE, name), np.float64),
                number=run.request.steps_before + index + 1,
                index=index,
            )
            for index, step in enumerate(run.steps)
        ]
        return cls(run, name, steps, shown)

    @property
    def size(self) -> int:
        return self.shown[0].size

    def fits(self, cause: _Cause) -> bool:
        return all(one.strains.max(initial=0.0) <= 1 for one in self._differences(cause))

    def first_difference(self) -> Difference:
        differences = self._differences(_Cause(AverageRule(), ""))
        return next(one for one in differences if not one.strains.max(initial=0.0) <= 1)

    def _differences(self, cause: _Cause) -> Iterator[Difference]:
        for step, shown in zip(self.steps, self.shown, strict=True):
            skipped = (step.number - 1) % cause.every
            predicted = step.held if skipped else cause.rule.average(self.run.recipe, step)
            label = f"step {step.index + 1}, average {self.name}"
            yield Difference(label, predicted, shown, self._allowed(label, step, shown))

    def _allowed(self, label: str, step: Following, shown: Array) -> Array:
        return np.full_like(shown, self.run.allowed(label, shown, step.held, step.after))

    def causes(self) -> Sequence[_Cause]:
        """Return the causes of the fewest choices by which the average is as it is shown."""
        for causes in (self._chosen(1), self._in_some_steps(), self._chosen(2)):
            found = [cause for cause in causes if self.fits(cause)]
            if found:
                return found
        return ()

    def _chosen(self, count: int) -> Iterator[_Cause]:
        for choices in itertools.combinations(AVERAGES, count):
            yield from self._of(choices)

    def _of(self, choices: Sequence[AverageChoice]) -> Iterator[_Cause]:
        rule: AverageRule | None = AverageRule()
        for choice in choices:
            rule = rule and choice.on(rule)
        if rule is None:
            return
        if not any(choice.unknown for choice in choices):
            yield _Cause(rule, _words(choices))
            return
        for number in self._solved(rule):
            yield _Cause(replace(rule, number=number), _words(choices, f"{number:.6g}"))

    def _solved(self, rule: AverageRule) -> Iterator[float]:
        """Solve the share that is kept in the last step, which holds in all of them."""
        nothing, everything = (
            replace(rule, number=kept).average(self.run.recipe, self.steps[-1]) for kept in (0, 1)
        )
        ahead = everything - nothing
        across = float((ahead**2).sum())
        if not across:
            return
        exact = float((ahead * (self.shown[-1] - nothing)).sum()) / across
        yield from dict.fromkeys((*(float(f"{exact:.{digits}g}") for digits in DIGITS), exact))

    def _in_some_steps(self) -> Iterator[_Cause]:
        """Yield averages that are updated every few steps alone, from the first on."""
        source = "--model-ema-steps of torchvision's reference"
        for every in range(2, len(self.steps) + 1):
            does = f"it is updated in every {_ordinal(every)} step alone ({source})"
            for starts in (AverageRule(), AverageRule(starts="stepped")):
                yield _Cause(starts, does, every)


def _words(choices: Sequence[AverageChoice], figure: str = "") -> str:
    return " and ".join(f"{one.does.format(figure)} ({one.source})" for one in choices)


def _ordinal(number: int) -> str:
    return {2: "second", 3: "third"}.get(number, f"{number}th")
