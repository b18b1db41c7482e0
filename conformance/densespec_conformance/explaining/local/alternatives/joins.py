"""Lists what a concatenation may do instead."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np

from densespec_conformance.explaining.local.alternatives.alternative import (
    Alternative,
    Forward,
    Observation,
)


def orders(seen: Observation) -> Iterator[Alternative]:
    """Find another order of what is joined."""
    count = len(seen.node.inputs)
    for order in itertools.permutations(range(count)):
        if order != tuple(range(count)):
            words = "new feature maps come first" if count == 2 else f"the order is {order}"
            yield Alternative(words, _in_order(order))


def _in_order(order: tuple[int, ...]) -> Forward:
    return lambda op, ctx, *xs: np.concatenate([xs[index] for index in order], axis=1)


def insertions(seen: Observation) -> Iterator[Alternative]:
    """Find another place of the newest feature maps among the older ones."""
    if seen.inputs is None or len(seen.inputs) != 2:
        return
    width, new = seen.inputs[0].shape[1], seen.inputs[1].shape[1]
    for first in range(width % new or new, width, new):
        words = f"new feature maps come right after the first {first}"
        yield Alternative(words, _after(first))


def _after(first: int) -> Forward:
    return lambda op, ctx, x, new: np.concatenate([x[:, :first], new, x[:, first:]], axis=1)


FIND = (orders, insertions)
