"""Tells how much of each value int8 loses: that is told of a network, and not judged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class LayerLoss:
    """Tells how far a value within an int8 network is from the same one in full precision.

    Attributes:
        name: The op that gives the value.
        largest: The largest difference, as a part of the range from the least to the greatest.
        mean: The mean difference, as a part of the values' standard deviation.
        own: The mean difference from what the op would give in full for the very inputs that it
            has in int8, as the same part: what it loses by itself, without the ops before it.
    """

    name: str
    largest: float
    mean: float
    own: float


@dataclass
class LossMeter:
    """Gathers the differences of one value, image by image."""

    count: int = 0
    lowest: float = np.inf
    highest: float = -np.inf
    largest: float = 0.0
    sums: Mapping[str, float] = field(default_factory=dict)

    def add(self, actual: np.ndarray, exact: np.ndarray, follows: np.ndarray) -> None:
        """Add the value of one image.

        Args:
            actual: The value in int8.
            exact: What it is in full precision.
            follows: What full precision makes of the inputs that the op has in int8.
        """
        apart = np.abs(actual - exact)
        self.count += exact.size
        self.lowest = min(self.lowest, float(exact.min()))
        self.highest = max(self.highest, float(exact.max()))
        self.largest = max(self.largest, float(apart.max()))
        found = {
            "value": exact.sum(),
            "square": np.square(exact).sum(),
            "apart": apart.sum(),
            "own": np.abs(actual - follows).sum(),
        }
        self.sums = {name: self.sums.get(name, 0.0) + float(n) for name, n in found.items()}

    def loss(self, name: str) -> LayerLoss:
        """Return what was lost of the value, under the name of its op."""
        means = {key: total / self.count for key, total in self.sums.items()}
        spread = max(means["square"] - means["value"] ** 2, 0.0) ** 0.5 or 1.0
        reach = self.highest - self.lowest or 1.0
        return LayerLoss(name, self.largest / reach, means["apart"] / spread, means["own"] / spread)
