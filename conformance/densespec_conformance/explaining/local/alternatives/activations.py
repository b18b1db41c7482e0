"""Lists what a ReLU, or another activation, may be instead."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from densespec.reference.kernels import FUNCTIONS as OF_KIND
from densespec.reference.kernels import Array
from densespec_conformance.explaining.local.alternatives.alternative import (
    Alternative,
    Forward,
    Observation,
    by_channel,
    of_value,
    sigmoid,
)

COMMON_SLOPES = (0.01, 0.1, 0.2, 0.3, 0.05, 0.25, 1e-3)


def _of_kind(kind: str) -> Callable[[Array], Array]:
    return lambda x: OF_KIND[kind](x, 0.0)[0]


def _selu(x: Array) -> Array:
    return 1.0507009873554805 * np.where(x > 0, x, 1.6732632423543772 * np.expm1(np.minimum(x, 0)))


FUNCTIONS: tuple[tuple[str, Callable[[Array], Array]], ...] = (
    ("it is a ReLU", lambda x: np.maximum(x, 0)),
    ("it is a ReLU that ends at 6", _of_kind("relu6")),
    ("it is ELU", _of_kind("elu")),
    ("it is SiLU (swish)", _of_kind("silu")),
    ("it is GELU, by the tangent", _of_kind("gelu-tanh")),
    ("it is GELU", _of_kind("gelu")),
    ("it is SELU", _selu),
    ("it is softplus", lambda x: np.logaddexp(0, x)),
    ("it is Mish", lambda x: x * np.tanh(np.logaddexp(0, x))),
    ("it is hard swish", lambda x: x * np.clip(x + 3, 0, 6) / 6),
    ("it is a sigmoid", sigmoid),
    ("it is tanh", np.tanh),
    ("it takes the absolute value", np.abs),
    ("it is a squared ReLU", lambda x: np.maximum(x, 0) ** 2),
    ("the sign is turned before it", lambda x: np.maximum(-x, 0)),
)


def _leaky(slope: float) -> Forward:
    return lambda op, ctx, x: np.where(x > 0, x, slope * x)


def slopes(seen: Observation) -> Iterator[Alternative]:
    """Find a slope below zero, which is solved where the op is shown."""
    candidates: tuple[float, ...] = COMMON_SLOPES
    if seen.pair is not None:
        x, y = seen.pair
        below = x < 0
        if not below.any():
            return
        exact = float((x[below] * y[below]).sum() / (x[below] ** 2).sum())
        candidates = (*(float(f"{exact:.{digits}g}") for digits in (1, 2, 3)), exact)
    for slope in dict.fromkeys(candidates):
        if slope == 1:
            yield Alternative("it is left out", of_value(lambda x: x))
        elif slope and slope != getattr(seen.op, "slope", 0.0):
            yield Alternative(f"it leaks: the slope below zero is {slope:.4g}", _leaky(slope))


def ceilings(seen: Observation) -> Iterator[Alternative]:
    """Find a largest value that the ReLU gives."""
    if seen.pair is None:
        return
    top = float(seen.pair[1].max())
    for value in dict.fromkeys((float(f"{top:.2g}"), top)):
        words = f"it is a ReLU that ends at {value:.4g}"
        yield Alternative(words, lambda op, ctx, x, value=value: np.clip(x, 0, value))


def thresholds(seen: Observation) -> Iterator[Alternative]:
    """Find a threshold above zero, below which the ReLU gives zero."""
    if seen.pair is None:
        return
    x, y = seen.pair
    passed = (y == x) & (x > 0)
    if passed.any() and (x[~passed] > 0).any():
        least = float(x[passed].min())
        words = f"it gives 0 below {least:.3g}"
        yield Alternative(words, lambda op, ctx, x: np.where(x >= least, x, 0.0))


def functions(seen: Observation) -> Iterator[Alternative]:
    """Find another function by its name."""
    for words, function in FUNCTIONS:
        yield Alternative(words, of_value(function))


def slopes_by_channel(seen: Observation) -> Iterator[Alternative]:
    """Find a slope below zero for each channel."""
    if seen.pair is None:
        return
    x, y = seen.pair
    axes = (0, *range(2, x.ndim))
    low = np.minimum(x, 0)
    with np.errstate(all="ignore"):
        slope = np.nan_to_num((low * y).sum(axes) / (low**2).sum(axes))
    yield Alternative(
        "it leaks by another slope in each channel (PReLU)",
        lambda op, ctx, x: np.where(x > 0, x, by_channel(slope, x) * x),
    )


FIND = (slopes, functions, ceilings, thresholds)
LAST = (slopes_by_channel,)
