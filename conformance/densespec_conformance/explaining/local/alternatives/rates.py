"""Lists the courses that a learning rate may take instead, with where each is found."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Course:
    """Describes another learning rate in some steps.

    Attributes:
        does: The words for it.
        source: The place where it is found.
        rate: The function of all rates of the recipe and a step's index that gives the rate.
    """

    does: str
    source: str
    rate: Callable[[Sequence[float], int], float]


COURSES = (
    Course(
        "the learning rate does not drop",
        "a schedule that nothing steps",
        lambda rates, index: rates[0],
    ),
    Course(
        "the learning rate drops one step late",
        "a scheduler stepped after the epoch it is meant for",
        lambda rates, index: rates[max(index - 1, 0)],
    ),
    Course(
        "the learning rate drops one step early",
        "a scheduler stepped before the first epoch, epochs counted from 1",
        lambda rates, index: rates[min(index + 1, len(rates) - 1)],
    ),
    Course(
        "the learning rate drops twice at each milestone",
        "two schedulers, or a factor that is squared",
        lambda rates, index: rates[index] ** 2 / rates[0],
    ),
)
"""Lists other courses of the learning rate."""
