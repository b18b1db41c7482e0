"""Holds one image on which operations are done."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from densespec.data.dataset import DataError

SLACK = 1e-4
"""Pixels may be this far beyond their range, for the rounding of their normalisation."""


@dataclass(frozen=True, eq=False)
class Picture:
    """Holds one image, and the colour of what is outside of it.

    Attributes:
        pixels: The pixels as numbers (channels, *sizes), where 1 is full intensity.
        fill: The mean colour, (channels, 1, ...).
        spread: The deviation of colours from it, likewise.
    """

    pixels: np.ndarray
    fill: np.ndarray
    spread: np.ndarray | float = 1.0

    def changed(self, pixels: np.ndarray) -> Picture:
        """Return the picture with other pixels."""
        return Picture(pixels, self.fill, self.spread)

    def colours(self) -> np.ndarray:
        """Return the pixels, which are from 0 to 1.

        Raises:
            DataError: They are not.
        """
        low, high = float(self.pixels.min()), float(self.pixels.max())
        if low < -SLACK or high > 1 + SLACK:
            raise DataError(
                f"pixels lie from {low:.4g} to {high:.4g} of full intensity, but colours change of "
                "pixels from 0 to 1: give the scale of full intensity, or leave colour and "
                "rand_augment at 0"
            )
        return np.clip(self.pixels, 0, 1)
