"""Mixes images and their labels by mixup (Zhang et al. 2018) and cutmix (Yun et al. 2019).

Each image of a batch is mixed with the one before it, the first with the last. The numbers
``r[0], r[1], ...`` and ``u[j]`` are those of the stream ``(seed, "mix", position = step of the
run)``. Where a recipe has both, a batch is mixed by cutmix where ``r[0]`` is odd. With a the
recipe's ``mixup`` or ``cutmix``, its share of itself is of the distribution Beta(a, a):

    p      (1 - u[1])^(1/a)
    c      cos(2 pi u[2])
    share  (1 + c sqrt((1 - p) / (p + (1 - p) c^2))) / 2

by the rule for all a of Devroye (1996). With ``mixup`` an image is ``share`` times itself and ``1 -
share`` times the other. With ``cutmix`` a box of the other takes the place of its own: along axis k
of an image of d dimensions, from ``r[3 + k] mod size`` by ``floor(size (1 - share)^(1/d) / 2)`` to
both sides, as far as the image goes; its share is then what it has kept.

A label becomes a number for each class: the shares of the images that have it. Several labels are
mixed as numbers; what is not known of one of the two is not known.
"""

from __future__ import annotations

import math

import numpy as np

from densespec.data.draws import raw, unit
from densespec.recipes.recipe import TrainingRecipe

STREAM = "mix"
NUMBERS = 8
CENTRE = 3
"""The numbers for the place of a box begin with this one."""


Pairs = tuple[np.ndarray, np.ndarray]
"""The places of images to mix, and those of the images that each is mixed with."""


def mixed(
    x: np.ndarray,
    labels: np.ndarray,
    recipe: TrainingRecipe,
    *,
    classes: int,
    step: int,
    pairs: Pairs | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Mix a batch of images (count, channels, *sizes), where a recipe says so.

    Args:
        labels: Integers (count,), or numbers (count, classes).
        step: The step of the whole run, counted from 0.
        pairs: Which images are mixed, where there are not all of a batch.

    Returns:
        Images and labels; these are then float64 of shape (count, classes).
    """
    if not recipe.mixes:
        return x, labels
    numbers = raw(recipe.seed, STREAM, step, NUMBERS)
    cuts = bool(numbers[0] % np.uint64(2)) if recipe.mixup and recipe.cutmix else recipe.cutmix > 0
    share = beta(unit(numbers), recipe.cutmix if cuts else recipe.mixup)
    places = np.arange(len(x))
    own, before = pairs or (places, np.roll(places, 1))
    if cuts:
        images, share = _cut(x[own], x[before], share, numbers[CENTRE:])
    else:
        images = x.dtype.type(share) * x[own] + x.dtype.type(1 - share) * x[before]
    shares = _shares(labels, recipe, classes)
    return images, share * shares[own] + (1 - share) * shares[before]


def beta(units: np.ndarray, a: float) -> float:
    """Return a number of the distribution Beta(a, a), by the second and the third of some units."""
    p, c = (1 - float(units[1])) ** (1 / a), math.cos(2 * math.pi * float(units[2]))
    share = (1 + c * math.sqrt((1 - p) / (p + (1 - p) * c * c))) / 2
    return min(max(share, 0.0), 1.0)  # which rounding may leave


def _cut(
    x: np.ndarray, others: np.ndarray, share: float, numbers: np.ndarray
) -> tuple[np.ndarray, float]:
    """Put a box of the other images into each, in place, and say what share of it is left."""
    sizes = x.shape[2:]
    part = (1 - share) ** (1 / len(sizes)) / 2
    box: list[slice] = []
    for size, number in zip(sizes, numbers, strict=False):
        centre, half = int(number) % size, math.floor(size * part)
        box.append(slice(max(0, centre - half), min(size, centre + half)))
    x[:, :, *box] = others[:, :, *box]
    taken = math.prod(side.stop - side.start for side in box) / math.prod(sizes)
    return x, 1 - taken


def _shares(labels: np.ndarray, recipe: TrainingRecipe, classes: int) -> np.ndarray:
    if labels.ndim == 1:
        return np.eye(classes)[labels]
    return np.where(labels < 0, np.nan, labels) if recipe.loss == "sigmoid" else labels
