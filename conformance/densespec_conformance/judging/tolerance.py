"""How far an answer may be from the reference is derived from the dtype and the network.

The reference is run a few times more with every op's result moved by as much as the dtype's
rounding moves it there (:mod:`densespec_conformance.judging.disturbed`). How far that carries each
value is what rounding does to this network, at this depth, with these sums; ``SAFETY`` times as
much is allowed. ``docs/tolerances.md`` shows the bounds and what real implementations need of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from densespec.network.arrays import Arrays
from densespec_conformance.answering.answers import handle
from densespec_conformance.asking.requests import Answer, Forward, StepTrace, Train
from densespec_conformance.judging.disturbed import DisturbedBackend
from densespec_conformance.judging.measure import parts_of_steps, relative_error
from densespec_conformance.judging.rounding import ARITHMETIC, arithmetic_of

SAFETY = 8.0
"""A few draws show the size of the largest error, not its tail, and every order of summation and
every fused kernel has a constant of its own: right implementations mostly get up to 2 times as far
as the draws, and 4 times among thousands of values. The rest is for kernels that sum in unusual
ways, such as Winograd's."""

ENOUGH = 8
"""The draws together show at least this many values of each array; there are at least 2."""
MOST_DRAWS = 4


@dataclass(frozen=True)
class Bounds:
    """States how far each value may be from the reference, relative to its largest magnitude.

    Attributes:
        relative: The bounds by tap, or by part of a training step.
        reason: The dtype, and how the bounds were derived.
    """

    relative: Mapping[str, float]
    reason: str

    def of(self, name: str) -> float:
        return self.relative[name]


def forward_bounds(request: Forward, exact: Arrays, dtype: str) -> Bounds:
    """Derive bounds of every tap of ``exact``, the float64 answer to a float64 request."""
    return _bounds(request, exact, dtype, _taps)


def training_bounds(request: Train, exact: list[StepTrace], dtype: str) -> Bounds:
    """Derive bounds of every part of every step of ``exact``, the float64 answer to a float64
    request."""
    return _bounds(request, parts_of_steps(exact), dtype, _parts)


def _taps(answer: Answer) -> Arrays:
    assert isinstance(answer, dict)
    return answer


def _parts(answer: Answer) -> Arrays:
    assert isinstance(answer, list)
    return parts_of_steps(answer)


def _bounds(
    request: Forward | Train, exact: Arrays, dtype: str, arrays_of: Callable[[Answer], Arrays]
) -> Bounds:
    kind = arithmetic_of(dtype)
    smallest = min(array.size for array in exact.values())
    draws = min(max(2, -(-ENOUGH // smallest)), MOST_DRAWS)
    moved = [arrays_of(handle(DisturbedBackend(kind, draw), request)) for draw in range(draws)]
    unit = ARITHMETIC[kind].of_kept
    relative = {
        name: SAFETY * max(unit, *(relative_error(draw[name], array) for draw in moved))
        for name, array in exact.items()
    }
    return Bounds(relative, reason(kind))


def reason(kind: str) -> str:
    """Say what is said with every bound of an arithmetic."""
    arithmetic = ARITHMETIC[kind]
    return (
        f"{arithmetic.about}: {SAFETY:g} times as far as roundings of "
        f"{arithmetic.unit:.1e} in every op carry the reference itself"
    )
