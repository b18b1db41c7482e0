"""Lists what a batch norm may do instead, in inference."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from densespec.network import ops
from densespec.reference.kernels import Array, Context
from densespec_conformance.deviations.kernels import Norm
from densespec_conformance.deviations.spec import EPSILONS
from densespec_conformance.explaining.local.alternatives.alternative import (
    Alternative,
    Forward,
    Observation,
    by_channel,
    own,
    with_arrays,
)

SOURCES = {float(epsilon): source for epsilon, (_, source) in EPSILONS.items()}
COMMON_EPSILONS = (*SOURCES, 1e-2, 2e-5, 1e-7, 1e-8, 0.0)
ARRAYS = ("gamma", "beta", "running_mean", "running_variance")


def epsilon(seen: Observation) -> Iterator[Alternative]:
    """Find the epsilon that is solved from the channels, or else one that is common."""
    candidates = COMMON_EPSILONS if seen.pair is None else _solved(seen, *seen.pair)
    for value in dict.fromkeys(candidates):
        if value >= 0 and value != seen.op.epsilon:
            met = f" ({SOURCES[value]})" if value in SOURCES else ""
            words = f"epsilon is {value:.4g}, not {seen.op.epsilon:g}{met}"
            yield Alternative(words, _with_epsilon(value))


def _with_epsilon(value: float) -> Forward:
    return lambda op, ctx, x: own(replace(op, epsilon=value), ctx, x)


def _solved(seen: Observation, x: Array, y: Array) -> tuple[float, ...]:
    """Solve y = gamma (x - mean) / sqrt(variance + epsilon) + beta for epsilon.

    The channels of least variance tell it most exactly. Round values are tried first.
    """
    weights = seen.context.weights
    slope, _ = linear_by_channel(x, y)
    with np.errstate(all="ignore"):
        each = (weights["gamma"] / slope) ** 2 - weights["running_variance"]
    usable = np.isfinite(each) & (weights["gamma"] != 0) & (slope != 0)
    if not usable.any():
        return ()
    order = np.argsort(np.where(usable, weights["running_variance"], np.inf))
    exact = float(np.median(each[order[: max(1, int(usable.sum()) // 4)]]))
    return (*(float(f"{exact:.{digits}g}") for digits in (1, 2, 3, 4)), exact)


def linear_by_channel(x: Array, y: Array) -> tuple[Array, Array]:
    """Return the slope and the offset by which each channel of y follows from that of x."""
    a = np.moveaxis(x, 1, 0).reshape(x.shape[1], -1)
    b = np.moveaxis(y, 1, 0).reshape(y.shape[1], -1)
    mean_a, mean_b = a.mean(1), b.mean(1)
    centred = a - mean_a[:, None]
    with np.errstate(all="ignore"):
        slope = (centred * (b - mean_b[:, None])).sum(1) / (centred**2).sum(1)
    return slope, mean_b - slope * mean_a


CHOICES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("the batch's statistics are used in inference", {"in_inference": True}),
    (
        "each sample's statistics are used in inference",
        {"in_inference": True, "moments": "sample"},
    ),
    (
        "the batch's statistics are used in inference, the variance divided by n - 1",
        {"in_inference": True, "corrected": True},
    ),
    ("epsilon is added to the deviation, not to the variance", {"epsilon": "deviation"}),
    ("it divides by the variance, not by its root", {"root": False}),
)


def choices(seen: Observation) -> Iterator[Alternative]:
    """Find which choice of a norm is another one."""
    for words, settings in CHOICES:
        yield Alternative(words, Norm(**settings).forward)


def arrays(seen: Observation) -> Iterator[Alternative]:
    """Find which arrays are not its own."""
    weights = seen.context.weights
    one, zero = np.ones_like(weights["gamma"]), np.zeros_like(weights["gamma"])
    swapped = {
        "running_mean": weights["running_variance"],
        "running_variance": weights["running_mean"],
    }
    options = (
        ("gamma is left out", {"gamma": one}),
        ("beta is left out", {"beta": zero}),
        ("gamma and beta are left out", {"gamma": one, "beta": zero}),
        ("the running mean is left out", {"running_mean": zero}),
        (
            "the running statistics are the initial ones (mean 0, variance 1)",
            {"running_mean": zero, "running_variance": one},
        ),
        ("running mean and variance are exchanged", swapped),
        ("gamma and beta are exchanged", {"gamma": weights["beta"], "beta": weights["gamma"]}),
        ("the running variance is taken for the deviation", _squared(weights["running_variance"])),
        *(
            (f"{name.replace('_', ' ')} is in reverse order", {name: weights[name][::-1]})
            for name in ARRAYS
        ),
        *_of_others(seen),
    )
    for words, changed in options:
        yield Alternative(words, with_arrays(**changed))


def _squared(variance: Array) -> dict[str, Array]:
    return {"running_variance": variance**2}


def _of_others(seen: Observation) -> Iterator[tuple[str, dict[str, Array]]]:
    """Yield the arrays of every other norm of as many channels, all of them or one."""
    for other in seen.graph.nodes:
        alike = isinstance(other.op, ops.BatchNorm) and other.op.channels == seen.op.channels
        alike = alike and len(other.weights) == len(ARRAYS)
        if not alike or other.name == seen.node.name:
            continue
        theirs = {name: seen.weights[f"{other.name}.{name}"] for name in ARRAYS}
        yield f"the arrays are those of {other.name}", theirs
        running = {name: theirs[name] for name in ARRAYS[2:]}
        yield f"the running statistics are those of {other.name}", running
        for name, array in theirs.items():
            yield f"{name.replace('_', ' ')} is that of {other.name}", {name: array}


def affine(seen: Observation) -> Iterator[Alternative]:
    """Find another scale and shift of each channel, whatever they come from."""
    if seen.pair is None:
        return
    slope, offset = linear_by_channel(*seen.pair)

    def forward(op: Any, ctx: Context, x: Array) -> Array:
        return x * by_channel(slope, x) + by_channel(offset, x)

    own_scale = seen.context.weights["gamma"] / np.sqrt(
        seen.context.weights["running_variance"] + seen.op.epsilon
    )
    same_scale = np.allclose(slope, own_scale, rtol=1e-5)
    what = "shift" if same_scale else "scale and shift"
    words = f"the {what} of the channels is not what its arrays say"
    yield Alternative(words, forward, names_the_cause=False)


def of_sample(seen: Observation) -> Iterator[Alternative]:
    """Find what a norm of each sample does instead."""
    op, weights = seen.op, seen.context.weights
    for value in COMMON_EPSILONS:
        if value != op.epsilon:
            words = f"epsilon is {value:.4g}, not {op.epsilon:g}"
            yield Alternative(words, _with_epsilon(value))
    for groups in range(1, op.channels + 1):
        if op.channels % groups == 0 and groups != op.groups:
            words = f"it normalises {groups} groups of channels, not {op.groups}"
            yield Alternative(words, _with_groups(groups))
    yield Alternative("the statistics are the batch's", _over_the_batch)
    if op.affine:
        one, zero = np.ones(op.channels), np.zeros(op.channels)
        yield Alternative("gamma is left out", with_arrays(gamma=one))
        yield Alternative("beta is left out", with_arrays(beta=zero))
        yield Alternative("gamma and beta are left out", with_arrays(gamma=one, beta=zero))
        exchanged = with_arrays(gamma=weights["beta"], beta=weights["gamma"])
        yield Alternative("gamma and beta are exchanged", exchanged)


def _with_groups(groups: int) -> Forward:
    return lambda op, ctx, x: own(replace(op, groups=groups), ctx, x)


def _over_the_batch(op: ops.GroupNorm, ctx: Context, x: Array) -> Array:
    norm = ops.BatchNorm(op.channels, op.epsilon, 0.1, unbiased=False, affine=op.affine)
    return own(norm, replace(ctx, training=True), x)


FIND = (epsilon, choices, arrays)
FIND_OF_SAMPLE = (of_sample,)
LAST = (affine,)
