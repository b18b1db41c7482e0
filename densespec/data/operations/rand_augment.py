"""Does some operations of a list, one after the other: RandAugment (Cubuk et al. 2020).

Operation j of an image is number ``r[4 j] mod 14`` of the list. With m the recipe's
``rand_magnitude`` over 30, the size of an operation is as the list says; one that has two
directions goes the other way where ``r[4 j + 1]`` is odd. The list is the paper's, the sizes are
torchvision's; pixels are taken from between others where torchvision takes the nearest one, and
factors are of numbers from 0 to 1 where Pillow rounds to bytes in between.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from densespec.data.operations import colours, planes
from densespec.data.operations.picture import Picture
from densespec.recipes.recipe import TrainingRecipe

HIGHEST = 30.0
"""At this magnitude sizes are at their largest."""


@dataclass(frozen=True)
class Row:
    """Describes one operation of the list.

    Attributes:
        about: Words that say how large it is.
        of: The function that does it to a picture, by a size from -1 to 1.
        signed: Whether it has two directions.
    """

    name: str
    about: str
    of: Callable[[Picture, float], np.ndarray]
    signed: bool = False


def _factor(change: Callable[[np.ndarray, float], np.ndarray]) -> Callable[..., np.ndarray]:
    return lambda picture, m: change(picture.colours(), 1 + 0.9 * m)


def _shift(axis: int) -> Callable[[Picture, float], np.ndarray]:
    def shift(picture: Picture, m: float) -> np.ndarray:
        by = [0.0, 0.0]
        by[axis] = m * (150 / 331) * picture.pixels.shape[axis - 2]
        return planes.shifted(picture, *by)

    return shift


LIST = (
    Row("identity", "nothing", lambda picture, m: picture.pixels),
    Row("shear-x", "along = 0.3 m", lambda picture, m: planes.sheared(picture, 0.3 * m, 0), True),
    Row("shear-y", "down = 0.3 m", lambda picture, m: planes.sheared(picture, 0, 0.3 * m), True),
    Row("translate-x", "150/331 m of the width", _shift(1), True),
    Row("translate-y", "150/331 m of the height", _shift(0), True),
    Row("rotate", "30 m degrees", lambda picture, m: planes.rotated(picture, 30 * m), True),
    Row("brightness", "factor 1 + 0.9 m", _factor(colours.brightness), True),
    Row("saturation", "factor 1 + 0.9 m", _factor(colours.saturation), True),
    Row("contrast", "factor 1 + 0.9 m", _factor(colours.contrast), True),
    Row("sharpness", "factor 1 + 0.9 m", _factor(colours.sharpness), True),
    Row(
        "posterize",
        "8 - round(4 m) bits",
        lambda picture, m: colours.posterize(picture.colours(), 8 - round(4 * m)),
    ),
    Row(
        "solarize",
        "from 1 - m on",
        lambda picture, m: colours.solarize(picture.colours(), 1 - m),
    ),
    Row("autocontrast", "", lambda picture, m: colours.autocontrast(picture.colours())),
    Row("equalize", "", lambda picture, m: colours.equalize(picture.colours())),
)
"""Lists the operations by their numbers."""


def augmented(picture: Picture, numbers: np.ndarray, recipe: TrainingRecipe) -> np.ndarray:
    """Do as many operations of the list as the recipe says."""
    for number, direction in numbers.reshape(-1, 4)[:, :2]:
        row = LIST[int(number % np.uint64(len(LIST)))]
        m = recipe.rand_magnitude / HIGHEST
        back = row.signed and bool(direction % np.uint64(2))
        picture = picture.changed(row.of(picture, -m if back else m))
    return picture.pixels
