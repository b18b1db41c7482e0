"""Changes the values of pixels, each by itself or by what the image has of them.

``brightness``, ``contrast``, ``saturation`` and ``sharpness`` take a factor f, by which pixels p go
away from another image q, or towards it: ``q + f (p - q)``, cut off at 0 and 1. That one is black;
the mean of the grey image; the grey image; or the image smoothed within each plane by
``[1 1 1; 1 5 1; 1 1 1] / 13``, its border left as it is. The grey image of three channels is
``0.299 R + 0.587 G + 0.114 B``; of others it is the mean of the channels, and nothing is saturated.

``posterize`` and ``equalize`` are of the 256 levels ``floor(255 p + 1/2)``, as Pillow has them.
"""

from __future__ import annotations

import itertools

import numpy as np

from densespec.data.draws import unit
from densespec.data.operations.picture import Picture
from densespec.recipes.recipe import TrainingRecipe

GREY = (0.299, 0.587, 0.114)
LEVELS = 256


def brightness(pixels: np.ndarray, factor: float) -> np.ndarray:
    """Make pixels brighter, or darker with a factor below 1."""
    return _blended(pixels, np.zeros_like(pixels[:1]), factor)


def contrast(pixels: np.ndarray, factor: float) -> np.ndarray:
    """Move pixels away from the mean of the grey image."""
    return _blended(pixels, _grey(pixels).mean(keepdims=True), factor)


def saturation(pixels: np.ndarray, factor: float) -> np.ndarray:
    """Move colours away from the grey image; images of other than three channels have none."""
    return _blended(pixels, _grey(pixels), factor) if len(pixels) == len(GREY) else pixels


def sharpness(pixels: np.ndarray, factor: float) -> np.ndarray:
    """Move pixels away from those that are smoothed within each plane."""
    smooth = pixels.copy()
    height, width = pixels.shape[-2:]
    if min(height, width) > 2:
        parts = [
            pixels[..., top : top + height - 2, left : left + width - 2]
            for top, left in itertools.product(range(3), repeat=2)
        ]
        smooth[..., 1:-1, 1:-1] = (sum(parts) + 4 * parts[4]) / 13
    return _blended(pixels, smooth, factor)


def autocontrast(pixels: np.ndarray) -> np.ndarray:
    """Stretch each channel from 0 to 1, where it is not all the same."""
    axes = tuple(range(1, pixels.ndim))
    low, high = pixels.min(axes, keepdims=True), pixels.max(axes, keepdims=True)
    flat = high == low
    stretched: np.ndarray = (pixels - low) / np.where(flat, 1, high - low)
    return np.where(flat, pixels, stretched)


def solarize(pixels: np.ndarray, threshold: float) -> np.ndarray:
    """Turn pixels into their negative from a threshold on."""
    return np.where(pixels < threshold, pixels, 1 - pixels)


def posterize(pixels: np.ndarray, bits: int) -> np.ndarray:
    """Keep the highest bits of the eight of each level."""
    kept = _levels(pixels) >> (8 - bits) << (8 - bits)
    return (kept / (LEVELS - 1)).astype(pixels.dtype)


def equalize(pixels: np.ndarray) -> np.ndarray:
    """Let each channel have its levels equally often, as far as that goes."""
    return np.stack([_equalized(channel) for channel in pixels])


def _equalized(channel: np.ndarray) -> np.ndarray:
    levels = _levels(channel)
    counts = np.bincount(levels.reshape(-1), minlength=LEVELS)
    step = (counts.sum() - counts[counts > 0][-1]) // (LEVELS - 1)
    if not step:
        return channel
    before = np.cumsum(counts) - counts
    table = np.minimum((before + step // 2) // step, LEVELS - 1) / (LEVELS - 1)
    return table.astype(channel.dtype)[levels]


def jittered(picture: Picture, numbers: np.ndarray, recipe: TrainingRecipe) -> np.ndarray:
    """Change brightness, contrast and saturation by ``1 + (2 u - 1) colour``, of ``u[0]`` to
    ``u[2]``, in the order of number ``r[3] mod 6`` of all orders, in lexical order."""
    factors = 1 + (2 * unit(numbers[:3]) - 1) * recipe.colour
    order = [*itertools.permutations(range(3))][int(numbers[3] % np.uint64(6))]
    pixels = picture.colours()
    for index in order:
        change = (brightness, contrast, saturation)[index]
        pixels = change(pixels, float(factors[index]))
    return pixels


def _blended(pixels: np.ndarray, other: np.ndarray, factor: float) -> np.ndarray:
    return np.clip(other + pixels.dtype.type(factor) * (pixels - other), 0, 1)


def _grey(pixels: np.ndarray) -> np.ndarray:
    """Return the grey image, (1, *sizes)."""
    if len(pixels) != len(GREY):
        return pixels.mean(0, keepdims=True)
    grey: np.ndarray = sum(
        pixels.dtype.type(share) * channel for share, channel in zip(GREY, pixels, strict=True)
    )[None]
    return grey


def _levels(pixels: np.ndarray) -> np.ndarray:
    return np.floor(pixels * (LEVELS - 1) + 0.5).astype(np.intp)
