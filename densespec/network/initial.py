"""Draws initial weights from one numpy seed, so that every backend starts bit-identical.

The op says with which values each of its arrays starts (``Weight.initial``):

| array                        | initial value                                              |
| ---------------------------- | ---------------------------------------------------------- |
| convolution kernel           | normal, mean 0, variance 2 / fan-in (He et al. 2015)       |
| classifier kernel            | uniform in +-1/sqrt(features), PyTorch's default           |
| biases, beta, running mean   | 0                                                          |
| gamma, running variance      | 1                                                          |
| slope of a PReLU             | 0.25, PyTorch's default                                    |

Each array has a random stream of its own, seeded by the seed and its canonical name: a network
with another head, or other blocks after it, starts with the same values where names and shapes
agree. Values are drawn in float32, so a float64 network starts from the very same numbers.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping

import numpy as np

from densespec.network.graph import Graph
from densespec.network.ops import Initial

Sizes = tuple[int, ...]


def initial_weights(graph: Graph, seed: int = 0) -> dict[str, np.ndarray]:
    """Draw every array of the graph in float32, by canonical name and in canonical shape."""
    return {
        weight.name: DRAWN[weight.initial](
            np.random.default_rng([seed, zlib.crc32(weight.name.encode())]), weight.shape
        )
        for weight in graph.weights
    }


def _he_normal(stream: np.random.Generator, shape: Sizes) -> np.ndarray:
    deviation = math.sqrt(2 / math.prod(shape[1:]))
    return stream.standard_normal(shape, np.float32) * np.float32(deviation)


def _uniform(stream: np.random.Generator, shape: Sizes) -> np.ndarray:
    bound = np.float32(1 / math.sqrt(shape[1]))
    return (stream.random(shape, np.float32) * 2 - 1) * bound


DRAWN: Mapping[Initial, Callable[[np.random.Generator, Sizes], np.ndarray]] = {
    "zeros": lambda stream, shape: np.zeros(shape, np.float32),
    "ones": lambda stream, shape: np.ones(shape, np.float32),
    "quarter": lambda stream, shape: np.full(shape, 0.25, np.float32),
    "he-normal": _he_normal,
    "uniform": _uniform,
}
