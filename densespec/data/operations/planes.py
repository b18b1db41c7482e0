"""Moves the planes of an image: the last two axes, all planes alike.

Positions are counted from the middle of the plane, rows down and columns to the right. The pixel at
(r, c) of the result is the one at ``matrix @ (r, c) + shift`` of the image, between four pixels in
proportion; around the image everything has the mean colour.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from densespec.data.draws import unit
from densespec.data.operations.picture import Picture
from densespec.recipes.recipe import TrainingRecipe

UNMOVED = ((1.0, 0.0), (0.0, 1.0))


def moved(
    picture: Picture,
    matrix: Sequence[Sequence[float]] = UNMOVED,
    shift: Sequence[float] = (0.0, 0.0),
) -> np.ndarray:
    """Take each pixel from another place."""
    pixels = picture.pixels
    sides = pixels.shape[-2:]
    rows, columns = (np.arange(side) - (side - 1) / 2 for side in sides)
    places = [
        np.clip(a * rows[:, None] + b * columns + by + (side + 1) / 2, 0, side + 1)
        for (a, b), by, side in zip(matrix, shift, sides, strict=True)
    ]
    first = [np.minimum(p.astype(np.intp), side) for p, side in zip(places, sides, strict=True)]
    down, right = (
        (place - start).astype(pixels.dtype) for place, start in zip(places, first, strict=True)
    )
    flat, stride = _framed(picture).reshape(*pixels.shape[:-2], -1), sides[1] + 2
    places_in_flat = first[0] * stride + first[1]

    def between(start: int) -> np.ndarray:
        west, east = (
            np.take(flat, places_in_flat + start + step, axis=-1, mode="clip") for step in (0, 1)
        )
        found: np.ndarray = west + right * (east - west)
        return found

    north = between(0)
    found: np.ndarray = north + down * (between(stride) - north)
    return found


def _framed(picture: Picture) -> np.ndarray:
    """Put the image within a frame of one pixel of the mean colour."""
    *rest, height, width = picture.pixels.shape
    framed = np.empty((*rest, height + 2, width + 2), picture.pixels.dtype)
    framed[...] = picture.fill
    framed[..., 1:-1, 1:-1] = picture.pixels
    return framed


def rotated(picture: Picture, degrees: float) -> np.ndarray:
    """Turn an image about its middle, against the clock."""
    angle = math.radians(degrees)
    cosine, sine = math.cos(angle), math.sin(angle)
    return moved(picture, ((cosine, sine), (-sine, cosine)))


def sheared(picture: Picture, along: float, down: float) -> np.ndarray:
    """Slant an image: columns are taken from ``c + along * r``, rows from ``r + down * c``."""
    return moved(picture, ((1.0, down), (along, 1.0)))


def shifted(picture: Picture, down: float, right: float) -> np.ndarray:
    """Shift an image by pixels."""
    return moved(picture, shift=(-down, -right))


def turned(picture: Picture, numbers: np.ndarray, recipe: TrainingRecipe) -> np.ndarray:
    """Turn an image by ``(2 u[0] - 1) rotation`` degrees."""
    return rotated(picture, float(2 * unit(numbers)[0] - 1) * recipe.rotation)
