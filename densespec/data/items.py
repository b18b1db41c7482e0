"""Data sets whose items are pairs of an image and its label, as other libraries have them.

Anything that has a length and gives items by index will do: a ``torch.utils.data.Dataset``, a
dataset of Hugging Face's ``datasets``, a list. An item is ``(image, label)``, or a table with an
image and a label by name. Images are read when they are needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from densespec.data.dataset import (
    BYTE,
    DIMS,
    DataError,
    Dataset,
    Normalisation,
    Split,
    measured,
    parted,
)
from densespec.data.reading.pictures import pixels_of
from densespec.data.sources.files import NORMALISATIONS

IMAGES = ("image", "img", "x", "pixel_values")
LABELS = ("label", "labels", "fine_label", "y", "target", "targets")
"""What images and labels are called in items that are tables; the first that is there counts."""


@dataclass(frozen=True)
class ItemImages:
    """The images of items.

    Attributes:
        items: What gives the items.
        rows: The index of each image's item.
        channels: How many channels pictures are converted to; arrays have to have them.
        dims: How many spatial dimensions images have.
    """

    items: Any
    rows: tuple[int, ...]
    channels: int
    dims: int

    @property
    def shape(self) -> tuple[int | None, ...]:
        """The shape (count, channels, None, ...): images may differ in size."""
        return (len(self.rows), self.channels, *[None] * self.dims)

    def read(self, index: int) -> np.ndarray:
        """Read one image (channels, *sizes), uint8 or floats.

        Raises:
            DataError: It is no image, or has another number of channels; the message says which.
        """
        row = self.rows[index]
        image = _image(_part(self.items[row], IMAGES, 0, row), self.channels, row)
        if image.shape[0] != self.channels or image.ndim != self.dims + 1:
            raise DataError(
                f"the image of item {row} has shape {image.shape}, but should have {self.channels} "
                f"channels and {self.dims} sizes"
            )
        return image

    def take(self, rows: np.ndarray) -> ItemImages:
        """Give some of the images, by their indices (count,)."""
        chosen = tuple(self.rows[row] for row in rows)
        return ItemImages(self.items, chosen, self.channels, self.dims)


def of_items(
    train: Any,
    test: Any = None,
    *,
    channels: int = 3,
    classes: Sequence[str] | None = None,
    name: str = "items",
    normalisation: Normalisation | None = None,
) -> Dataset:
    """Make a data set of items by index.

    Labels are taken from ``targets`` or ``labels`` of the items, or from the column of labels,
    where they have such; otherwise every item is read once. Where items change images at random,
    as torch's transforms do, runs do not repeat: leave that to the recipe.

    Args:
        train: What to train on.
        test: What to test on; None keeps a fifth of each class of ``train`` for that.
        channels: How many channels pictures are converted to, and arrays have.
        classes: The names of the classes; None for those that the items tell, or numbers.
        normalisation: How pixels become numbers; None for ImageNet's where images are grey or in
            colours, of bytes or of floats from 0 to 1, and otherwise to measure it on at most 64.

    Raises:
        DataError: Items are not as they should be; the message says which and what.
    """
    parts = [_split(items, channels) for items in (train, test) if items is not None]
    pair = parted(parts[0]) if test is None else (parts[0], parts[1])
    names = classes or _names(train) or _numbers(pair)
    given = normalisation or _normalisation(pair[0], channels)
    return Dataset(name, tuple(map(str, names)), *pair, given)


def _split(items: Any, channels: int) -> Split:
    if not hasattr(items, "__len__") or not hasattr(items, "__getitem__"):
        raise DataError(
            f"items of type {type(items).__name__} have no length or no index: a stream has no "
            "order that a run could go on in"
        )
    if not len(items):
        raise DataError("there are no items")
    first = _image(_part(items[0], IMAGES, 0, 0), channels, 0)
    dims = first.ndim - 1
    if dims not in DIMS:
        raise DataError(
            f"the image of item 0 has shape {first.shape}, but should have 1 to 3 sizes"
        )
    images = ItemImages(items, tuple(range(len(items))), channels, dims)
    return Split(images, _labels(items))


def _labels(items: Any) -> np.ndarray:
    stated = next((getattr(items, n) for n in ("targets", "labels") if hasattr(items, n)), None)
    if stated is None and (column := _column(items)):
        stated = items[column]
    if stated is None:
        stated = [_part(items[row], LABELS, 1, row) for row in range(len(items))]
    return np.asarray([np.asarray(label) for label in stated])


def _column(items: Any) -> str | None:
    """Give the column of labels, where items have columns."""
    columns = getattr(items, "column_names", ())
    return next((name for name in LABELS if name in columns), None)


def _names(items: Any) -> Sequence[str] | None:
    """Give the names of classes that items tell, as torchvision's and Hugging Face's do."""
    feature = (getattr(items, "features", None) or {}).get(_column(items))
    return getattr(items, "classes", None) or getattr(feature, "names", None)


def _numbers(pair: tuple[Split, Split]) -> Sequence[str]:
    labels = [part.y for part in pair]
    several = labels[0].ndim == 2
    count = labels[0].shape[1] if several else max(int(y.max()) for y in labels) + 1
    return [str(number) for number in range(count)]


def _part(item: Any, names: Sequence[str], place: int, row: int) -> Any:
    """Give the image or the label of an item."""
    if isinstance(item, Mapping):
        found = [name for name in names if name in item]
        if not found:
            raise DataError(
                f"item {row} has {', '.join(map(str, item))}, but none of {', '.join(names)}"
            )
        return item[found[0]]
    if isinstance(item, tuple | list) and len(item) == 2:
        return item[place]
    raise DataError(
        f"item {row} is of type {type(item).__name__}, but should be (image, label), or a table of "
        "both by name"
    )


def _image(image: Any, channels: int, row: int) -> np.ndarray:
    """Give an image (channels, *sizes)."""
    try:
        if hasattr(image, "convert") and hasattr(image, "mode"):
            return pixels_of(image, channels)
        array = np.asarray(image)
        if array.dtype != np.uint8 and array.dtype.kind != "f":
            raise ValueError(f"it is of type {array.dtype}, but should be uint8 or floats")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ValueError("it has a value that is not finite (NaN or infinity)")
        if array.ndim == 2:
            return array[None]
        last = channels in array.shape[-1:] and channels not in array.shape[:1]
        return np.moveaxis(array, -1, 0) if last else array
    except ValueError as error:
        raise DataError(f"the image of item {row}: {error}") from error


def _normalisation(train: Split, channels: int) -> Normalisation:
    first = train.image(0)
    picture = first.dtype == np.uint8 or 0 <= first.min() <= first.max() <= 1
    full = BYTE if first.dtype == np.uint8 else 1.0
    if channels not in NORMALISATIONS or not picture or first.ndim != 3:
        return measured(train, full)
    return replace(NORMALISATIONS[channels], scale=full)
