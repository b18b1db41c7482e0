"""Measures how far apart two answers are, and names the parts of an answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from densespec.network.arrays import Arrays
from densespec_conformance.asking.requests import StepTrace

LOSS = "loss"


def relative_error(actual: np.ndarray, expected: np.ndarray) -> float:
    """Divide the largest difference by the largest expected magnitude; it is infinite if that is no
    number."""
    if actual.shape != expected.shape or not np.isfinite(actual).all():
        return float("inf")
    if expected.size == 0:
        return 0.0
    scale = float(np.abs(expected).max())
    difference = float(np.abs(actual.astype(np.float64) - expected).max())
    return difference if scale == 0 else difference / scale


def parts_of_steps(steps: Sequence[StepTrace]) -> Arrays:
    """Name every array of training steps by a label such as ``step 2, gradient stem.conv.kernel``.

    They are in the order in which a step computes them: loss, gradients, moments, weights,
    statistics.
    """
    return {
        f"step {index}, {label}": array
        for index, step in enumerate(steps, start=1)
        for label, array in _parts(step).items()
    }


def _parts(step: StepTrace) -> Arrays:
    kinds: dict[str, Mapping[str, np.ndarray]] = {
        "gradient": step.gradients,
        **{spoken(moment): arrays for moment, arrays in step.moments.items()},
    }
    arrays = {LOSS: np.array(step.loss)}
    for kind, group in kinds.items():
        arrays |= {f"{kind} {name}": array for name, array in group.items()}
    return arrays | {_label(name): array for name, array in step.weights.items()}


def spoken(moment: str) -> str:
    """Return the name of a moment as labels have it, such as ``first moment``."""
    return moment.replace("_", " ")


def _label(name: str) -> str:
    statistic = name.endswith((".running_mean", ".running_variance"))
    return f"{'running statistic' if statistic else 'weight'} {name}"
