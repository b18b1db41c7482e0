"""Dropout masks from a seed, the same for every backend.

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
from densespec.data.draws import raw
from densespec.network.graph import Graph, Node


def dropout_masks(graph: Graph, seed: int, step: int, batch: int) -> dict[str, np.ndarray]:
    """Draw the masks of all dropouts that train, by name: True keeps a value, False drops it.

    Frozen parts run as in inference, so their dropouts have none.

    Args:
        graph: The network at a known input size, such as :func:`densespec.data.fits` returns.
        step: The step of the whole training run, counted from 0.
        batch: The number of samples in the step.

    Returns:
        Boolean arrays (batch, *shape of the node), channels first.

    Raises:
        DataError: The graph leaves sizes open.
    """
    return {node.name: _mask(node, node.drop_rate, seed, step, batch) for node in graph.dropouts}


def _mask(node: Node, rate: float, seed: int, step: int, batch: int) -> np.ndarray:
    shape = (batch, *(size for size in node.shape if size is not None))
    if len(shape) != len(node.shape) + 1:
        raise DataError(
            f"the size of {node.name} is open, {node.shape}: lower the spec with an input size, as "
            "densespec.data.fits does"
        )
    count = math.prod(shape)
    numbers = raw(seed, node.name, step, (count + 1) // 2).astype("<u8", copy=False).view("<u4")
    kept: np.ndarray = numbers[:count] >= np.uint32(min(round(rate * 2**32), 2**32 - 1))
    return kept.reshape(shape)
