"""Defines the schedules of the learning rate: its course over a run, in plain numbers.

In a run of T steps whose first W steps warm it up, step t, counted from 0, has the rate

    r * (f + (1 - f) * t / W)                          while t < W, from the share f on
    end + (r - end) * shape((t - W) / (T - W))         afterwards

where the shape goes from 1 towards 0, which it would reach at step T, the first after the run.
Where the rate holds for whole epochs, t, W and T count epochs. Milestones count from the start of
the run, whatever its warm-up.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

SHAPES: Mapping[str, Callable[[float], float]] = {
    "cosine": lambda done: (1 + math.cos(math.pi * done)) / 2,
    "linear": lambda done: 1 - done,
    "constant": lambda done: 1.0,
}
"""Gives the share of the learning rate that is left after this part of the run, by schedule."""

STEPS = "steps"
"""With this schedule the rate drops at milestones."""

SCHEDULES = (STEPS, *SHAPES)
FALLING = ("cosine", "linear")
"""With these schedules the rate falls with each epoch or step, down to the end of the run."""


def warmed(start: float, at: float, warmup: float) -> float:
    """Return the share of the learning rate within the warm-up."""
    return start + (1 - start) * at / warmup
