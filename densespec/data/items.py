"""Reads data sets whose items are pairs of an image and its label, as other libraries have them.

Anything that has a length and gives items by index will do: a ``torch.utils.data.Dataset``, a
dataset of Hugging Face's ``datasets``, a list. An item is ``(image, label)``, or a table with an
image and a label by name. Images are read when they are needed. What has a known length and no
index, such as a ``tf.data.Dataset``, is gone through once and kept in memory. A stream that has
shards, such as an ``IterableDataset`` of Hugging Face's, has an index by way of these.
"""

from __future__ import annotations

import io
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
from densespec.data.label_names import numbered, told
from densespec.data.reading import NORMALISATIONS, read_image
from densespec.data.reading.pictures import pixels_of
from densespec.data.reading.reader import ImageForm
from densespec.data.streams import ShardedStream, StreamItems, items_of
from densespec.errors import bare

IMAGES = ("image", "img", "x", "pixel_values")
LABELS = ("label", "labels", "fine_label", "y", "target", "targets")
"""In items that are tables, labels and images have these names; the first one there counts."""


@dataclass(frozen=True)
class ItemImages:
    """Reads the images of items.

    Attributes:
        items: The sequence that holds the items.
        rows: The index of each image's item.
        channels: The number of channels to which pictures are converted, and which arrays must
            have.
        dims: The number of spatial dimensions of images.
    """

    items: Any
    rows: tuple[int, ...]
    channels: int
    dims: int

    @property
    def shape(self) -> tuple[int | None, ...]:
        """Return the shape (count, channels, None, ...): images may differ in size."""
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
        """Return some of the images, by their indices (count,)."""
        return replace(self, rows=tuple(self.rows[row] for row in rows))


@dataclass(frozen=True)
class StreamImages(ItemImages):
    """Holds the images of a stream: see :class:`densespec.data.dataset.GroupedImages`."""

    @property
    def groups(self) -> np.ndarray:
        """Return the shard of each image, (count,)."""
        return np.asarray(self.items.groups[list(self.rows)])


def of_items(
    train: Any,
    test: Any = None,
    *,
    channels: int = 3,
    classes: Sequence[str] | None = None,
    name: str = "items",
    normalisation: Normalisation | None = None,
) -> Dataset:
    """Make a data set of items by index, or of streams in shards.

    Labels are taken from ``targets`` or ``labels`` of the items, or from the column of labels,
    where they have such; otherwise every item is read once. Labels that are names become numbers,
    in the order of the names. Where items change images at random, as torch's transforms do, runs
    do not repeat: leave that to the recipe.

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
    given = [_indexed(items) for items in (train, test) if items is not None]
    labels = [_labels(items) for items in given]
    names = tuple(map(str, classes or _names(train) or told(labels)))
    numbers = [numbered(part, names, "item") for part in labels]
    parts = [_split(items, y, channels) for items, y in zip(given, numbers, strict=True)]
    pair = parted(parts[0]) if test is None else (parts[0], parts[1])
    return Dataset(name, names, *pair, normalisation or _normalisation(pair[0], channels))


def _indexed(items: Any) -> Any:
    """Return what has a length and an index: the items themselves, or a list of them."""
    kind = type(items).__name__
    if isinstance(items, Mapping):
        raise DataError(f"items of type {kind} have the parts {', '.join(items)}: give one of them")
    try:
        count = len(items)
    except TypeError as error:
        if isinstance(items, ShardedStream):
            return items_of(items, IMAGES, LABELS)
        raise DataError(
            f"items of type {kind} have no known length, and no shards: such a stream has no order "
            "that a run could go on in"
        ) from error
    if not count:
        raise DataError("there are no items")
    if hasattr(items, "__getitem__"):
        return items
    if not hasattr(items, "__iter__"):
        raise DataError(f"items of type {kind} can't be read, neither by index nor one by one")
    return list(items)


def _split(items: Any, labels: np.ndarray, channels: int) -> Split:
    given = _part(items[0], IMAGES, 0, 0)
    first = _image(given, channels, 0)
    dims = first.ndim - 1
    if dims not in DIMS:
        raise DataError(
            f"the image of item 0 has shape {first.shape}, but should have 1 to 3 sizes"
        )
    several = labels.ndim == 2 and labels.shape[1] not in (1, channels)
    if several and first.ndim > 3 and np.shape(given)[:1] == labels.shape[1:]:
        raise DataError(
            f"item 0 has {labels.shape[1]} labels and images of shape {np.shape(given)}, so it "
            "seems to be a batch: give items one by one, such as those of tf.data's unbatch()"
        )
    kind = StreamImages if isinstance(items, StreamItems) else ItemImages
    return Split(kind(items, tuple(range(len(items))), channels, dims), labels)


def _labels(items: Any) -> np.ndarray:
    """Return the labels as they are, numbers or names."""
    stated = _stated(items)
    if stated is None:
        stated = [_part(items[row], LABELS, 1, row) for row in range(len(items))]
    labels = [np.asarray(label) for label in stated]
    for row, label in enumerate(labels):
        if label.shape != labels[0].shape:
            raise DataError(
                f"the label of item {row} has shape {label.shape}, but that of item 0 "
                f"{labels[0].shape}: where an image may have several, give 0 or 1 for each class"
            )
    return np.asarray(labels)


def _stated(items: Any) -> Sequence[Any] | None:
    """Return the labels that items tell without being read; of a part of a set, those of it."""
    known: list[Any] = [getattr(items, name, None) for name in ("targets", "labels")]
    found = next((y for y in known if hasattr(y, "__len__") and len(y) == len(items)), None)
    if found is None and (column := _column(items)):
        return list(items[column])
    if found is None and hasattr(items, "indices") and hasattr(items, "dataset"):
        whole = _stated(items.dataset)
        return None if whole is None else [whole[index] for index in items.indices]
    return found


def _column(items: Any) -> str | None:
    """Return the column of labels, where items have columns."""
    columns = getattr(items, "column_names", None) or ()
    return next((name for name in LABELS if name in columns), None)


def _names(items: Any) -> Sequence[str] | None:
    """Return the names of classes that items tell, as torchvision's and Hugging Face's do."""
    feature = (getattr(items, "features", None) or {}).get(_column(items))
    found = getattr(items, "classes", None) or getattr(feature, "names", None)
    if found is None and hasattr(items, "dataset"):
        return _names(items.dataset)
    return found


def _part(item: Any, names: Sequence[str], place: int, row: int) -> Any:
    """Return the image or the label of an item."""
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
    """Return an image (channels, *sizes)."""
    packed = image.get("bytes") if isinstance(image, Mapping) else image
    if isinstance(packed, bytes):
        return read_image(io.BytesIO(packed), f"the image of item {row}", ImageForm(channels))
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
    except Exception as error:  # what other packages raise of their tensors and pictures
        raise DataError(f"the image of item {row}: {bare(str(error))}") from error


def _normalisation(train: Split, channels: int) -> Normalisation:
    first = train.image(0)
    picture = first.dtype == np.uint8 or 0 <= first.min() <= first.max() <= 1
    full = BYTE if first.dtype == np.uint8 else 1.0
    if channels not in NORMALISATIONS or not picture or first.ndim != 3:
        return measured(train, full)
    return replace(NORMALISATIONS[channels], scale=full)
