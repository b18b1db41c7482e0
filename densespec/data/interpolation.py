"""Resizes images of any number of dimensions, axis by axis.

A new value is the mean of the old ones, weighted by a triangle as wide as the distance of two new
values, or of two old ones where an axis grows: Pillow's ``BILINEAR``, along each axis in turn, in
float64 and rounded once to float32. The volume seen stays the same; nothing is cut off.
"""

from __future__ import annotations

import functools

import numpy as np


def interpolated(image: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Resize an image (channels, *sizes) to (channels, *size), float32."""
    found = image.astype(np.float64)
    for axis, (old, new) in enumerate(zip(image.shape[1:], size, strict=True), start=1):
        if old != new:
            found = np.moveaxis(np.tensordot(_weights(old, new), found, (1, axis)), 0, axis)
    return np.ascontiguousarray(found, np.float32)


@functools.lru_cache(maxsize=16)
def _weights(old: int, new: int) -> np.ndarray:
    """Return the share of each old value in each new one, (new, old)."""
    step = old / new
    centres = (np.arange(new) + 0.5) * step - 0.5
    apart = np.abs(np.arange(old) - centres[:, None]) / max(step, 1.0)
    weights = np.maximum(0.0, 1.0 - apart)
    return np.asarray(weights / weights.sum(1, keepdims=True))
