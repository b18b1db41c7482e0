"""Erases at random (Zhong et al. 2020): fills a box within some images with their mean colour or
with noise.

An image is changed where ``u[0]`` is below ``erasing``. For attempt t = 0 to 9, of an image of d
dimensions whose sides have the product V:

    part    0.02 + (1/3 - 0.02) u[1 + 2t]
    aspect  exp(log(0.3) + u[2 + 2t] (log(1/0.3) - log(0.3)))
    sides   (part V)^(1/d), the one of rows times sqrt(aspect), that of columns over it

rounded, halves to even. The first box of sides from 1 to below the image's is filled; its place
along axis k is ``r[21 + k] mod (size - side + 1)``. Where there is none, nothing is done.

With ``erasing_fill = "noise"`` the value k of the box, of all channels, in C order, is its colour's
mean and n[k] times its deviation, where

    n[k]  sqrt(-2 log(1 - v[2k])) cos(2 pi v[2k + 1])

is normal and ``v`` are the units of the stream of numbers whose key is ``r[0], r[1]``.
"""

from __future__ import annotations

import math

import numpy as np

from densespec.data.draws import unit
from densespec.data.operations.picture import Picture
from densespec.recipes.recipe import TrainingRecipe

PART = (0.02, 1 / 3)
ASPECT = (0.3, 1 / 0.3)
ATTEMPTS = 10
PLACE = 21
"""The numbers for the place of the box begin with this one."""
KEY = slice(0, 2)
"""The numbers that are the key of the noise."""


def erased(picture: Picture, numbers: np.ndarray, recipe: TrainingRecipe) -> np.ndarray:
    """Fill a box with the mean colour or with noise, by chance."""
    units, sizes = unit(numbers), picture.pixels.shape[1:]
    sides = _sides(units[1:PLACE], sizes) if units[0] < recipe.erasing else None
    if sides is None:
        return picture.pixels
    box: list[slice] = []
    for size, side, number in zip(sizes, sides, numbers[PLACE:], strict=False):
        start = int(number) % (size - side + 1)
        box.append(slice(start, start + side))
    pixels = picture.pixels.copy()
    noise = recipe.erasing_fill == "noise"
    spread = picture.spread * _normal(numbers[KEY], pixels[:, *box].shape) if noise else 0
    pixels[:, *box] = picture.fill + spread
    return pixels


def _normal(key: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Draw normal numbers from the stream of a key."""
    stream = np.random.Philox(key=key)
    units = unit(stream.random_raw(2 * math.prod(shape)))
    lengths, angles = np.sqrt(-2 * np.log1p(-units[::2])), 2 * np.pi * units[1::2]
    return (lengths * np.cos(angles)).reshape(shape)


def _sides(units: np.ndarray, sizes: tuple[int, ...]) -> list[int] | None:
    """Return the sides of the first box that fits into an image."""
    low, high = map(math.log, ASPECT)
    for attempt in range(ATTEMPTS):
        part = PART[0] + (PART[1] - PART[0]) * float(units[2 * attempt])
        aspect = math.exp(low + float(units[2 * attempt + 1]) * (high - low))
        side = (part * math.prod(sizes)) ** (1 / len(sizes))
        lengths = [side] * len(sizes)
        if len(sizes) > 1:
            lengths[-2:] = side * math.sqrt(aspect), side / math.sqrt(aspect)
        found = [round(length) for length in lengths]
        if all(1 <= side < size for side, size in zip(found, sizes, strict=True)):
            return found
    return None
