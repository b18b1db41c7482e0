"""Does to training images and labels what recipes ask for besides a crop.

An operation is a field of a recipe, a row of :data:`OPERATIONS`, and a function. As with
augmentations, what it does to an image depends on the seed, the epoch and the index of the image
within its split. The numbers ``r[0], r[1], ...`` of image ``i`` are those of the stream ``(seed,
field, position = epoch)`` of :mod:`densespec.data.draws` from ``i`` times the operation's count on,
and ``u[j]`` is ``(r[j] >> 11) * 2**-53``.

Pixels are numbers from 0 to 1, in the type of the batch, of shape (channels, *sizes). What comes in
from outside of an image has the mean colour. Planes are the last two axes: in a volume, every slice
is moved alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from densespec.data.dataset import DataError, Normalisation
from densespec.data.draws import BLOCK, raw
from densespec.data.operations.colours import jittered
from densespec.data.operations.erasing import erased
from densespec.data.operations.picture import Picture
from densespec.data.operations.planes import turned
from densespec.data.operations.rand_augment import augmented
from densespec.recipes.recipe import TrainingRecipe


@dataclass(frozen=True)
class Operation:
    """Describes one operation on images.

    Attributes:
        field: The field of the recipe that asks for it with a value other than 0.
        numbers: The number of random numbers for an image, a multiple of four.
        of: The function that does it to one image.
        dims: The least number of spatial dimensions of images.
    """

    field: str
    numbers: Callable[[TrainingRecipe], int]
    of: Callable[[Picture, np.ndarray, TrainingRecipe], np.ndarray]
    dims: int = 1


OPERATIONS = (
    Operation("rand_augment", lambda recipe: 4 * recipe.rand_augment, augmented, dims=2),
    Operation("rotation", lambda recipe: 4, turned, dims=2),
    Operation("colour", lambda recipe: 4, jittered),
    Operation("erasing", lambda recipe: 24, erased),
)
"""Lists the operations in the order in which they are done."""


def _asked_for(recipe: TrainingRecipe) -> list[Operation]:
    return [operation for operation in OPERATIONS if getattr(recipe, operation.field)]


def check_operations(recipe: TrainingRecipe, dims: int) -> None:
    """Check that images of so many spatial dimensions can be changed so.

    Raises:
        DataError: An operation is of images with a plane.
    """
    for operation in _asked_for(recipe):
        if dims < operation.dims:
            raise DataError(
                f"{operation.field} is for images of at least {operation.dims} dimensions, not "
                f"{dims}: leave it at 0"
            )


def varied(
    x: np.ndarray,
    rows: Sequence[int] | np.ndarray,
    recipe: TrainingRecipe,
    normalisation: Normalisation,
    *,
    epoch: int,
) -> np.ndarray:
    """Do what a recipe asks for to normalised images (count, channels, *sizes).

    Args:
        rows: The indices of the images within their split.

    Raises:
        DataError: Colours are to change of pixels that are not from 0 to full intensity.
    """
    asked = _asked_for(recipe)
    if not asked:
        return x
    shape = (-1, *[1] * (x.ndim - 2))
    mean, std = (
        np.asarray(values, x.dtype).reshape(shape)
        for values in (normalisation.mean, normalisation.std)
    )
    out = np.empty_like(x)
    for image, row, target in zip(x, rows, out, strict=True):
        picture = Picture(image * std + mean, mean, std)
        for operation in asked:
            count = operation.numbers(recipe)
            numbers = raw(
                recipe.seed, operation.field, epoch, count, block=int(row) * count // BLOCK
            )
            picture = picture.changed(operation.of(picture, numbers, recipe))
        target[...] = (picture.pixels - mean) / std
    return out
