"""Draws dropout masks from a seed, the same for every backend.

The mask of a dropout node at a step of training has the node's shape with a batch axis before it,
channels first, and is filled in C order. Element ``i`` is kept where

    u[i] >= round(rate * 2**32)        (Python's round: halves to even)

with ``u`` the stream ``(seed, node name, position = step)`` of :mod:`densespec.data.draws` taken as
32-bit numbers, each 64-bit number giving its lower half first. Steps are counted from 0 over the
whole training run.
"""

from __future__ import annotations

import math

import numpy as np

from densespec.data.dataset import DataError
from densespec.data.draws import BLOCK, raw
from densespec.network.graph import Graph, Node

PER_BLOCK = 2 * BLOCK
"""A block of a stream gives this many 32-bit numbers."""


def dropout_masks(
    graph: Graph, seed: int, step: int, batch: int, *, part: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Draw the masks of all dropouts that train, by name: True keeps a value, False drops it.

    Frozen parts run as in inference, so their dropouts have none.

    Args:
        graph: The network at a known input size, such as :func:`densespec.data.fits` returns.
        step: The step of the whole training run, counted from 0.
        batch: The number of samples in the step.
        part: The places of those samples whose masks are wanted, in order; None for all.

    Returns:
        Boolean arrays (batch, *shape of the node), channels first, or the part of them.

    Raises:
        DataError: The graph leaves sizes open.
    """
    if part is None:
        return {node.name: _mask(node, seed, step, 0, batch) for node in graph.dropouts}
    start, stop = int(part[0]), int(part[-1]) + 1
    masks = {node.name: _mask(node, seed, step, start, stop) for node in graph.dropouts}
    return masks if len(part) == stop - start else {n: m[part - start] for n, m in masks.items()}


def _mask(node: Node, seed: int, step: int, start: int, stop: int) -> np.ndarray:
    """Draw the mask of the samples from one to another, without the numbers of those before."""
    shape = tuple(size for size in node.shape if size is not None)
    if len(shape) != len(node.shape):
        raise DataError(
            f"the size of {node.name} is open, {node.shape}: lower the spec with an input size, as "
            "densespec.data.fits does"
        )
    block, left_out = divmod(start * math.prod(shape), PER_BLOCK)
    count = left_out + (stop - start) * math.prod(shape)
    numbers = raw(seed, node.name, step, (count + 1) // 2, block=block).astype("<u8", copy=False)
    bound = np.uint32(min(round(node.drop_rate * 2**32), 2**32 - 1))
    kept: np.ndarray = numbers.view("<u4")[left_out:count] >= bound
    return kept.reshape(stop - start, *shape)
