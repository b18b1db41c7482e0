"""Lists what an op of any kind may do instead: be left out, be scaled, or read something else."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from densespec.reference.kernels import Array, Context
from densespec_conformance.explaining.local.alternatives.alternative import (
    Alternative,
    Forward,
    Observation,
    own,
)

NEAR = 64
"""An op may have read one of this many values before it by mistake."""


def around(seen: Observation) -> Iterator[Alternative]:
    """Find something that is done before or after the op, or that it is left out."""
    if len(seen.node.inputs) == 1:
        yield Alternative("it is left out", lambda op, ctx, x: x)
        yield Alternative("a ReLU comes before it", _before(lambda x: np.maximum(x, 0)))
        yield Alternative("its input is added to it", lambda op, ctx, x: x + own(op, ctx, x))
        yield Alternative("it is done twice", lambda op, ctx, x: own(op, ctx, own(op, ctx, x)))
    yield Alternative("a ReLU comes after it", _after(lambda y: np.maximum(y, 0)))
    if len(seen.node.shape) == 3:
        turned = _before(lambda x: np.swapaxes(x, 2, 3))
        yield Alternative("height and width of its input are exchanged", turned)
        yield Alternative("height and width are exchanged", _after(lambda y: np.swapaxes(y, 2, 3)))
    for axis in range(2, 1 + len(seen.node.shape)):
        words = f"the picture is flipped along spatial axis {axis - 2}"
        yield Alternative(words, _after(lambda y, axis=axis: np.flip(y, axis)))
    yield Alternative("its channels are in reverse order", _after(lambda y: y[:, ::-1]))


def _before(change: Any) -> Forward:
    return lambda op, ctx, *xs: own(op, ctx, *map(change, xs))


def _after(change: Any) -> Forward:
    return lambda op, ctx, *xs: change(own(op, ctx, *xs))


def factors(seen: Observation) -> Iterator[Alternative]:
    """Find a factor, or an offset, that all values have in common."""
    if seen.inputs is None or seen.output is None:
        return
    expected, actual = own(seen.op, seen.context, *seen.inputs), seen.output
    if expected.shape != actual.shape or not expected.any():
        return
    exact = float((actual * expected).sum() / (expected**2).sum())
    for factor in dict.fromkeys((*(float(f"{exact:.{digits}g}") for digits in (2, 4)), exact)):
        yield Alternative(f"it is multiplied by {factor:.6g}", _scaled(factor, 0.0))
    offset = float((actual - expected).mean())
    yield Alternative(f"{offset:.6g} is added to it", _scaled(1.0, offset))


def _scaled(factor: float, offset: float) -> Forward:
    return lambda op, ctx, *xs: factor * own(op, ctx, *xs) + offset


def other_inputs(seen: Observation) -> Iterator[Alternative]:
    """Find another value of the network that the op may have read by mistake."""
    names = [node.name for node in seen.graph.nodes]
    place = names.index(seen.node.name)
    before = [name for name in names[:place] if name in seen.values][-NEAR:]
    for index, source in enumerate(seen.node.inputs):
        for name in reversed(before):
            if name != source and seen.values[name].shape == _shape(seen, source):
                yield Alternative(f"it reads {name}, not {source}", _reading(seen, index, name))


def _shape(seen: Observation, source: str) -> tuple[int, ...] | None:
    return seen.values[source].shape if source in seen.values else None


def _reading(seen: Observation, index: int, name: str) -> Forward:
    def forward(op: Any, ctx: Context, *xs: Array) -> Array:
        return own(op, ctx, *xs[:index], seen.values[name], *xs[index + 1 :])

    return forward


def orders(seen: Observation) -> Iterator[Alternative]:
    """Find another order of the channels."""
    if seen.inputs is None or seen.output is None:
        return
    expected, actual = own(seen.op, seen.context, *seen.inputs), seen.output
    if expected.shape != actual.shape or expected.shape[1] < 2:
        return
    order = _order(actual, expected)
    if order is not None:
        yield Alternative("its channels are in another order", _after(lambda y: y[:, order]))


def _order(actual: Array, expected: Array) -> Array | None:
    """Match channels by a few figures of each; give the order if it is one."""
    a, b = (np.moveaxis(each, 1, 0).reshape(each.shape[1], -1) for each in (actual, expected))
    marks_a, marks_b = (np.stack([m.mean(1), m.std(1), m[:, 0], m[:, -1]], 1) for m in (a, b))
    distance = np.abs(marks_a[:, None] - marks_b[None]).max(2)
    order = distance.argmin(1)
    return order if len(set(order.tolist())) == len(order) else None


FIND = (around, other_inputs, factors)
LAST = (orders,)
