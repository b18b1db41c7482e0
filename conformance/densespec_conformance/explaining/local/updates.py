"""The optimizer and the schedule are judged by each weight's own steps, from what a target shows.

A weight moves by its gradient and by what the optimizer keeps of it. All of these are shown before
and after each step, so what is wrong is found weight by weight, whatever the gradients are.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from densespec_conformance.explaining.local.alternatives.rates import COURSES, Course
from densespec_conformance.explaining.local.alternatives.updates import (
    CHOICES,
    Choice,
    UpdateRule,
)
from densespec_conformance.explaining.local.moves import Difference, Moves, Run
from densespec_conformance.explaining.local.words import alike_in_words

AT_ONCE = 3
"""At most this many choices are combined for a weight."""

TINY = 1e-6
"""What is less than this may be 0."""

DIGITS = (1, 2, 3, 4, 6)
"""Round numbers have this many digits, and are tried before what was solved."""

FAR = 100.0
"""A number is solved for a weight that is this many times further off than it may be."""

WITH_UNKNOWN = 2
"""At most this many choices are combined if one of them has a number that is solved."""

SAMPLE = 96
"""The cause of a weight is looked for by this many of its values."""

ITERATIONS = 5

Rates = tuple[float, ...]


@dataclass(frozen=True)
class WrongMove:
    """Describes weights that all move differently in the same way.

    Attributes:
        names: The weights. If the learning rate differs, these are all that train.
        does: Words with sources for what is done instead; empty if that is not known.
        difference: The first difference of the first weight.
        of_rate: Whether it is the learning rate that differs, in some steps.
    """

    names: tuple[str, ...]
    does: str
    difference: Difference
    of_rate: bool = False


@dataclass(frozen=True)
class _Cause:
    """Holds a rule and rates by which some weights move as they do."""

    rule: UpdateRule
    rates: Rates
    words: str = ""
    words_of_rates: str = ""
    solved: bool = False

    @property
    def text(self) -> str:
        return " and ".join(filter(None, [self.words, self.words_of_rates]))


def wrong_moves(run: Run, deadline: float) -> list[WrongMove]:
    """Find the weights that do not move as the recipe says, with what is done instead.

    Args:
        deadline: A time of the clock ``time.thread_time``, after which no cause is looked for.
    """
    names = [name for name in run.weights if name in run.steps[0].gradients]
    strains = Moves(run, names).strains(UpdateRule(), run.rates).max(0)
    of_each = dict(zip(names, map(float, strains), strict=True))
    return list(_Search(run, of_each, deadline).findings())


class _Search:
    """Finds the fewest causes by which all weights that are wrong move as they do."""

    def __init__(self, run: Run, strains: dict[str, float], deadline: float) -> None:
        self._deadline = deadline
        self._run = run
        self._left = [name for name, strain in strains.items() if not strain <= 1]
        self._right = [name for name, strain in strains.items() if strain <= 1]
        self._rates = run.rates
        self._choices = [choice for choice in CHOICES if choice.fits(run.recipe)]

    def findings(self) -> Iterator[WrongMove]:
        unknown: list[str] = []
        while self._left:
            leader = max(self._left, key=lambda name: self._run.weights[name].size)
            explained = [(self._moved_by(c), c) for c in self._of_leader(leader)]
            explained = self._by_schedule(explained)
            most = max((len(names) for names, _ in explained), default=0)
            if not most:
                unknown.append(leader)
                self._left.remove(leader)
                continue
            yield from self._taken([(n, c) for n, c in explained if len(n) == most])
        if unknown:
            yield self._finding(unknown, "")

    def _by_schedule(
        self, explained: list[tuple[list[str], _Cause]]
    ) -> list[tuple[list[str], _Cause]]:
        """Leave out rates of single weights where it may be the learning rate of all of them."""
        courses = [one for one in explained if one[1].rates != self._rates and one[0]]
        return [one for one in explained if not courses or one[1].rule.rate_by == 1]

    def _taken(self, explained: Sequence[tuple[list[str], _Cause]]) -> Iterator[WrongMove]:
        """Say what explains some weights, the causes without a number to be solved first."""
        names = explained[0][0]
        causes = sorted((c for others, c in explained if others == names), key=self._order)
        first, alike = causes[0], [cause.text for cause in causes]
        if first.rates == self._rates:
            if first.words:
                yield self._finding(names, alike_in_words(alike))
        else:
            said = first.words_of_rates if first.words else alike_in_words(alike)
            yield replace(self._finding(names, said), of_rate=True)
            if first.words:
                yield self._finding(names, first.words)
            self._rates = first.rates
        self._left = [name for name in self._left if name not in names]

    def _order(self, cause: _Cause) -> tuple[bool, bool]:
        return cause.solved, cause.rates == self._rates

    def _finding(self, names: Sequence[str], does: str) -> WrongMove:
        first = Moves(self._run, names[:1]).first_difference(UpdateRule(), self._run.rates)
        return WrongMove(tuple(names), does, first)

    def _moved_by(self, cause: _Cause) -> list[str]:
        """Name the weights left that a cause explains; none where it makes a right one wrong."""
        everywhere = cause.rates != self._rates or cause.rule.clip is not UpdateRule().clip
        if everywhere and self._right:
            right = Moves(self._run, self._right)
            rule = replace(UpdateRule(), clip=cause.rule.clip)
            if not right.strains(rule, cause.rates).max() <= 1:
                return []
        strains = Moves(self._run, self._left).strains(cause.rule, cause.rates).max(0)
        return [name for name, s in zip(self._left, strains, strict=True) if s <= 1]

    def _of_leader(self, leader: str) -> list[_Cause]:
        """Return the causes of the fewest choices by which one weight moves as it does."""
        moves = Moves(self._run, [leader], SAMPLE)
        for count in range(AT_ONCE + 1):
            if time.thread_time() > self._deadline:
                break
            found = list(self._causes(moves, count))
            if found:
                return found
        return []

    def _causes(self, moves: Moves, count: int) -> Iterator[_Cause]:
        for choices in itertools.combinations(self._choices, count):
            yield from self._with_rates(moves, choices, self._rates)
        if count and self._rates == self._run.rates:
            for choices in itertools.combinations(self._choices, count - 1):
                for course in (*COURSES, None):
                    yield from self._with_course(moves, choices, course)

    def _with_course(
        self, moves: Moves, choices: Sequence[Choice], course: Course | None
    ) -> Iterator[_Cause]:
        own = self._run.rates
        if course is None:
            if any(choice.unknown for choice in choices):
                return
            rule = _rule(choices)
            if rule is None:
                return
            rates = tuple(_round(moves, i, rule, rate) for i, rate in enumerate(own))
            if rates in [_taken_by(named, own) for named in COURSES]:
                return
        else:
            rates = _taken_by(course, own)
        if rates != own:
            said = f"{course.does} ({course.source})" if course else _in_words(own, rates)
            for cause in self._with_rates(moves, choices, rates):
                solved = cause.solved or course is None
                yield replace(cause, words_of_rates=said, solved=solved)

    def _with_rates(
        self, moves: Moves, choices: Sequence[Choice], rates: Rates
    ) -> Iterator[_Cause]:
        rule = _rule(choices)
        if rule is None:
            return
        unknowns = [choice for choice in choices if choice.unknown]
        if len(unknowns) > 1 or (unknowns and len(choices) > WITH_UNKNOWN):
            return
        if not unknowns:
            if moves.strains(rule, rates).max() <= 1:
                yield _Cause(rule, rates, _words(choices))
            return
        (unknown,) = unknowns
        if moves.strains(UpdateRule(), rates).max() <= FAR:
            return
        start = self._own(unknown, moves.names[0])
        for solved in _solved(moves, rule, unknown.unknown, start, rates):
            value = getattr(solved, unknown.unknown)
            if not 0 <= value < unknown.below:
                continue
            if unknown.unknown == "decay_of" and self._has_words(start, value):
                continue
            is_own = unknown.unknown in ("dampening", "rate_by")
            figure = f"{value:.6g}" if is_own else f"{value:.6g}, not {start:g}"
            yield _Cause(solved, rates, _words(choices, figure), solved=True)

    def _has_words(self, start: float, decay: float) -> bool:
        """Say whether another weight decay is a choice of its own."""
        others = (0.0, 2 * start) if start else (self._run.recipe.weight_decay,)
        return decay in others

    def _own(self, choice: Choice, name: str) -> float:
        """Return what the recipe has in the place of an unknown, for one weight."""
        if choice.unknown == "decay_of":
            return self._run.recipe.decay_of(name)
        own = getattr(UpdateRule(), choice.unknown)
        return float(getattr(self._run.recipe, choice.unknown, own))


def _taken_by(course: Course, rates: Rates) -> Rates:
    return tuple(course.rate(rates, index) for index in range(len(rates)))


def _words(choices: Sequence[Choice], figure: str = "") -> str:
    return " and ".join(f"{one.does.format(figure)} ({one.source})" for one in choices)


def _rule(choices: Sequence[Choice]) -> UpdateRule | None:
    rule: UpdateRule | None = UpdateRule()
    for choice in choices:
        rule = rule and choice.on(rule)
    return rule


def _with(rule: UpdateRule, field: str, value: float) -> UpdateRule:
    changes: dict[str, Any] = {field: value}
    return replace(rule, **changes)


def _solved(
    moves: Moves, rule: UpdateRule, field: str, start: float, rates: Rates
) -> Iterator[UpdateRule]:
    """Solve a field of a rule by what is shown, by Gauss and Newton's method."""
    value = start

    def residuals(at: float) -> np.ndarray:
        return moves.residuals(_with(rule, field, at), rates)

    with np.errstate(all="ignore"):
        for _ in range(ITERATIONS):
            step = 1e-4 * abs(value) or 1e-6
            here = residuals(value)
            slope = (residuals(value + step) - here) / step
            across = float((slope**2).sum())
            if not np.isfinite(across) or not across:
                return
            value -= float((slope * here).sum()) / across
        zero = [0.0] if abs(value) < TINY else []
        for candidate in (*zero, *(float(f"{value:.{digits}g}") for digits in DIGITS), value):
            if candidate == start:
                continue
            changed = _with(rule, field, candidate)
            if moves.strains(changed, rates).max() <= 1:
                yield changed
                return


def _round(moves: Moves, index: int, rule: UpdateRule, rate: float) -> float:
    """Solve the rate of a step, which is a round number if that gives the same weights."""
    exact = moves.rate(index, rule, rate)
    near = (rate, *(float(f"{exact:.{digits}g}") for digits in DIGITS))
    fits = (one for one in near if abs(one - exact) <= 1e-9 * abs(exact))
    return next(fits, exact)


def _in_words(own: Rates, rates: Rates) -> str:
    factors = {float(f"{there / here:.6g}") for here, there in zip(own, rates, strict=True) if here}
    if len(factors) == 1:
        return f"the learning rate is multiplied by {factors.pop():g}"
    off = [i for i, (here, there) in enumerate(zip(own, rates, strict=True)) if here != there]
    first = off[0]
    more = f" and in {len(off) - 1} more of {len(own)} steps" if len(off) > 1 else ""
    return f"the learning rate is {rates[first]:.6g}, not {own[first]:g}, in step {first + 1}{more}"
