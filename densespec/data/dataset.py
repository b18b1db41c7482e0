"""Defines data sets: images and labels to train and to test on, checked when they are put in.

Images are (count, channels, *sizes), unsigned bytes or floats, or read one by one when they are
needed. Labels are int64, from 0 to below the number of classes. If an image has several labels,
they are float64 with a number for each class, and an unknown label is NaN.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from densespec.data.draws import permutation
from densespec.errors import DensespecError, shown
from densespec.network.graph import Graph, lower
from densespec.network.ops import Shape
from densespec.network.spec import MOST_CLASSES, DenseNetSpec

BYTE = 255.0
"""A byte at full intensity has this value."""

FLOATS = ("float16", "float32", "float64")
DIMS = (1, 2, 3)
"""Images may have one of these numbers of spatial dimensions."""

TESTED = 5
"""If data come in one piece, one sample in this many of each class is kept for the test."""

MEASURED = 64
"""The pixels of this many images are read to measure them."""

CHUNK = 1 << 24
"""A check reads this many values at a time, which bounds its memory."""


class DataError(DensespecError, ValueError):
    """Data are absent or damaged, or do not fit; the message says what, where, and what to do."""


@runtime_checkable
class LazyImages(Protocol):
    """Reads images when they are needed."""

    @property
    def shape(self) -> Shape:
        """Return the shape (count, channels, *sizes); a size is None if images differ in it."""
        ...

    def read(self, index: int) -> np.ndarray:
        """Read one image of shape (channels, *sizes), uint8 or floats."""
        ...

    def take(self, rows: np.ndarray) -> LazyImages:
        """Return some of the images, by their indices (count,)."""
        ...


@runtime_checkable
class GroupedImages(LazyImages, Protocol):
    """Reads images in groups: those of one group are best read one soon after another."""

    @property
    def groups(self) -> np.ndarray:
        """Return the group of each image, (count,), as whole numbers from 0."""
        ...


@dataclass(frozen=True, eq=False)
class Split:
    """Holds images and their labels.

    Attributes:
        x: The images (count, channels, *sizes), uint8 or floats, or an object that reads them when
            they are needed.
        y: The labels (count,), int64; or (count, classes), float64.

    Raises:
        DataError: There are no images, they or the labels have another shape or type, or a value is
            not finite.
    """

    x: np.ndarray | LazyImages
    y: np.ndarray

    def __post_init__(self) -> None:
        object.__setattr__(self, "y", _labels(self.y))
        if isinstance(self.x, np.ndarray):
            _check_array(self.x)
        elif not isinstance(self.x, LazyImages):
            raise DataError(
                f"x is of type {type(self.x).__name__}, but should be a numpy array of images"
            )
        count, channels, *sizes = self.x.shape
        if len(sizes) not in DIMS:
            raise DataError(
                f"x has shape {tuple(self.x.shape)}, but should have (count, channels, *sizes) "
                "with one to three sizes"
            )
        if count != len(self.y):
            raise DataError(
                f"x has {count} images and y {len(self.y)} labels, but should have as many"
            )
        if not count or not channels or 0 in sizes:
            raise DataError(f"x has shape {tuple(self.x.shape)}: there is nothing in it")

    def __len__(self) -> int:
        return len(self.y)

    @property
    def shape(self) -> Shape:
        """Return the shape of one image, (channels, *sizes); None stands for differing sizes."""
        return tuple(self.x.shape[1:])

    def image(self, index: int) -> np.ndarray:
        """Return one image, (channels, *sizes)."""
        return self.x[index] if isinstance(self.x, np.ndarray) else self.x.read(index)

    def take(self, rows: np.ndarray) -> Split:
        """Return some of the samples, by their indices (count,)."""
        x = self.x[rows] if isinstance(self.x, np.ndarray) else self.x.take(rows)
        return Split(x, self.y[rows])


def _labels(y: object) -> np.ndarray:
    labels = np.asarray(y)
    whole = labels.dtype.kind in "iu"
    if labels.ndim == 2 and labels.shape[1] == 1 and whole:
        labels = labels[:, 0]
    if labels.ndim == 2 and labels.shape[1] and labels.dtype.kind in "biuf":
        return _several(labels)
    if labels.ndim != 1 or not whole:
        raise DataError(
            f"y has shape {labels.shape} and type {labels.dtype}, but should have (count,) and "
            "whole numbers, one for each image, or (count, classes) and numbers"
            f"{_label_advice(labels)}"
        )
    return np.ascontiguousarray(labels, np.int64)


def _several(labels: np.ndarray) -> np.ndarray:
    labels = np.ascontiguousarray(labels, np.float64)
    endless = np.argwhere(np.isinf(labels))
    if len(endless):
        row, column = endless[0]
        raise DataError(f"label {column} of image {row} of y is infinite")
    return labels


def _label_advice(labels: np.ndarray) -> str:
    """Say what to do about labels of another form, if that loses nothing."""
    if labels.ndim != 1 or labels.dtype.kind not in "bf" or not labels.size:
        return ""
    whole = bool((labels == np.floor(labels)).all())
    return ": take y.astype(int)" if whole else ": for a number an image, take y[:, None]"


def _check_array(x: np.ndarray) -> None:
    if x.dtype != np.uint8 and x.dtype.name not in FLOATS:
        raise DataError(
            f"x is of type {x.dtype}, but should be uint8 (0 to 255) or floats (0 to 1)"
            f"{_pixel_advice(x)}"
        )
    if x.dtype == np.uint8 or not x.size:
        return
    flat = x.reshape(len(x), -1)
    step = max(1, CHUNK // flat.shape[1])
    for start in range(0, len(x), step):
        finite = np.isfinite(flat[start : start + step]).all(1)
        if not finite.all():
            index = start + int(np.argmin(finite))
            raise DataError(f"image {index} of x has a value that is not finite (NaN or infinity)")


def _pixel_advice(x: np.ndarray) -> str:
    """Say what to do about pixels of another type, if that loses nothing."""
    if x.dtype.kind not in "iu" or not x.size:
        return ""
    if x.min() >= 0 and x.max() <= BYTE:
        return ": take x.astype('uint8')"
    return f": divide it by its full intensity, such as x / {x.max()}"


@dataclass(frozen=True)
class Normalisation:
    """Turns pixels into numbers, channel by channel: ``(pixel / scale - mean) / std``.

    It is computed in float64 and rounded once.

    Attributes:
        mean: The mean of each channel, where full intensity is 1.
        std: The standard deviation of each channel.
        scale: The value of a pixel at full intensity.
        source: The source of these numbers.
        is_share: Whether a pixel is a share of full intensity, and not a measurement in some unit.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    scale: float = BYTE
    source: str = "given"
    is_share: bool = True

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            object.__setattr__(self, name, tuple(float(value) for value in getattr(self, name)))
        if len(self.mean) != len(self.std) or not self.mean:
            raise DataError(
                f"mean has {len(self.mean)} channels and std {len(self.std)}, but they should "
                "have as many, and at least one"
            )
        if not all(map(math.isfinite, (*self.mean, *self.std, self.scale))):
            raise DataError(f"{self.mean}, {self.std} or {self.scale} is not finite")
        if min(*self.std, self.scale) <= 0:
            raise DataError(f"std = {self.std}, scale = {self.scale}, but should be positive")

    def apply(self, x: np.ndarray, dtype: np.dtype) -> np.ndarray:
        """Turn images (count, channels, *sizes) into numbers of a type."""
        if x.dtype == np.uint8:
            return self._looked_up(x, np.dtype(dtype))
        out = np.empty(x.shape, dtype)
        for channel, (mean, std) in enumerate(zip(self.mean, self.std, strict=True)):
            out[:, channel] = (x[:, channel].astype(np.float64) / self.scale - mean) / std
        return out

    def _looked_up(self, x: np.ndarray, dtype: np.dtype) -> np.ndarray:
        """Turn bytes into numbers by a table, image by image: they stay in the cache so."""
        tables = [
            ((np.arange(256) / self.scale - mean) / std).astype(dtype)
            for mean, std in zip(self.mean, self.std, strict=True)
        ]
        out = np.empty(x.shape, dtype)
        for image, numbers in zip(x, out, strict=True):
            for pixels, table, number in zip(image, tables, numbers, strict=True):
                np.take(table, pixels, out=number, mode="clip")
        return out


def measured(split: Split, scale: float) -> Normalisation:
    """Measure the mean and standard deviation of the pixels of each channel.

    Of images that are read when they are needed, at most 64 are: the first of the permutation that
    the stream ``(seed 0, "measured", position = 0)`` gives; see :mod:`densespec.data.draws`. A
    channel that never changes is given a standard deviation of 1.
    """
    if not isinstance(split.x, np.ndarray):
        return _measured_in_part(split, scale)
    moments = [_moments(split.x[:, channel], scale) for channel in range(split.x.shape[1])]
    return Normalisation(
        mean=tuple(mean for mean, _ in moments),
        std=tuple(math.sqrt(variance) or 1.0 for _, variance in moments),
        scale=scale,
        source="measured on the training images",
    )


def _measured_in_part(split: Split, scale: float) -> Normalisation:
    rows = permutation(0, "measured", 0, len(split))[:MEASURED]
    images = (split.image(int(row)) for row in np.sort(rows))
    found = [
        (image[0].size, [_moments(pixels[None], scale) for pixels in image]) for image in images
    ]
    weights = np.array([count for count, _ in found], float)[:, None] / sum(c for c, _ in found)
    means, variances = np.moveaxis(np.array([moments for _, moments in found]), -1, 0)
    mean = (weights * means).sum(0)
    variance = (weights * (variances + (means - mean) ** 2)).sum(0)
    return Normalisation(
        mean=tuple(mean),
        std=tuple(math.sqrt(value) or 1.0 for value in variance),
        scale=scale,
        source=f"measured on {len(rows)} training images",
        is_share=scale == BYTE,
    )


def _moments(pixels: np.ndarray, scale: float) -> tuple[float, float]:
    """Return the mean and the variance of one channel of images (count, *sizes)."""
    if pixels.dtype == np.uint8:
        counts = np.zeros(256, np.int64)
        for image in pixels:
            counts += np.bincount(image.reshape(-1), minlength=256)
        values = np.arange(256) / scale
        mean = float(counts @ values / counts.sum())
        variance = float(counts @ (values - mean) ** 2 / counts.sum())
    else:
        mean = float(pixels.mean(dtype=np.float64)) / scale
        variance = float(np.mean((pixels.astype(np.float64) / scale - mean) ** 2))
    return mean, variance


@dataclass(frozen=True, eq=False)
class Dataset:
    """Holds images to train on and to test on.

    Attributes:
        name: Its name in messages and reports.
        classes: The name of the class of each label.
        train: The images to train on.
        test: The images to test on.
        normalisation: The normalisation that turns pixels into numbers.

    Raises:
        DataError: Labels are out of range, or the parts do not go together.
    """

    name: str
    classes: tuple[str, ...]
    train: Split
    test: Split
    normalisation: Normalisation

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", tuple(map(str, self.classes)))
        for part in ("train", "test"):
            _check_range(getattr(self, part).y, len(self.classes), f"{self.name}, {part}")
        if self.train.y.ndim != self.test.y.ndim:
            raise DataError(f"{self.name}: labels to train on and to test on are of another form")
        if self.train.shape != self.test.shape:
            raise DataError(
                f"{self.name}: images to train on have shape {self.train.shape}, but those to test "
                f"on {self.test.shape}"
            )
        known = len(self.normalisation.mean)
        if known != self.channels:
            raise DataError(
                f"{self.name}: images have {self.channels} channels, but the normalisation {known}"
            )

    @property
    def channels(self) -> int:
        """Return the number of channels of every image."""
        channels = self.train.shape[0]
        assert channels is not None, "channels are always known"
        return channels

    @property
    def has_several(self) -> bool:
        """Say whether an image has a label for each class, rather than one."""
        return self.train.y.ndim == 2

    def check_loss(self, loss: str) -> None:
        """Check that the labels are such as a recipe's loss takes.

        Raises:
            DataError: They are not; the message says what could be meant.
        """
        if not self.has_several:
            if loss != "softmax":
                raise DataError(
                    f"{self.name}: an image has one label, but loss = {loss!r} takes a number for "
                    "each class: give y of shape (count, classes), or train with loss = 'softmax'"
                )
            return
        if loss == "softmax":
            raise DataError(
                f"{self.name}: an image has {len(self.classes)} labels, but loss = 'softmax' takes "
                "one: train with loss = 'sigmoid' for several that may go together, or 'squared' "
                f"for numbers{self._one_hot_advice()}"
            )
        if loss == "sigmoid":
            for part in ("train", "test"):
                _check_shares(getattr(self, part).y, f"{self.name}, {part}")

    def _one_hot_advice(self) -> str:
        labels = self.train.y
        if not np.isin(labels, (0, 1)).all() or (labels.sum(1) != 1).any():
            return ""
        return "; if every image is of just one class by its meaning too, give y.argmax(1)"

    @property
    def size(self) -> tuple[int, ...] | None:
        """Return the size of every image; None if images differ."""
        sizes = tuple(size for size in self.train.shape[1:] if size is not None)
        return sizes if len(sizes) == len(self.train.shape) - 1 else None

    @classmethod
    def of(
        cls,
        x: np.ndarray,
        y: np.ndarray,
        test_x: np.ndarray | None = None,
        test_y: np.ndarray | None = None,
        *,
        channels_last: bool | None = None,
        classes: Sequence[str] | int | None = None,
        name: str = "arrays",
        scale: float | None = None,
        normalisation: Normalisation | None = None,
    ) -> Dataset:
        """Make a data set of arrays.

        Args:
            x: The images: (count, channels, *sizes), (count, *sizes, channels), or (count, height,
                width) if they are grey; uint8 or floats.
            y: The labels, whole numbers from 0: (count,) or (count, 1); or a number for each class,
                (count, classes), which is NaN where it is not known.
            test_x: The images to test on; None keeps a fifth of each class of ``x`` for that.
            test_y: The labels of ``test_x``.
            channels_last: Where the channels are; None for the axis after the count or the last
                one, whichever has 1, 3 or 4 of them.
            classes: The names of the classes, or how many there are; None for one more than the
                largest label.
            scale: The value of a pixel at full intensity; None for 255 of uint8 and 1 of floats.
            normalisation: How pixels become numbers; None to measure it on the training images.

        Raises:
            DataError: The arrays are not as they should be; the message says what and where.
        """
        train = Split(channels_first(np.asarray(x), channels_last), y)
        if (test_x is None) != (test_y is None):
            raise DataError("give both test_x and test_y, or neither")
        if test_x is None or test_y is None:
            train, test = parted(train)
        else:
            test = Split(channels_first(np.asarray(test_x), channels_last), test_y)
        if classes is None and train.y.ndim == 2:
            classes = train.y.shape[1]
        if classes is None:
            classes = int(max(train.y.max(), test.y.max(), 0)) + 1
        if isinstance(classes, int):
            check_count(classes)
        names = tuple(map(str, range(classes) if isinstance(classes, int) else classes))
        scale = scale or (BYTE if train.x.dtype == np.uint8 else 1.0)  # type: ignore[union-attr]
        return cls(name, names, train, test, normalisation or measured(train, scale))


def check_count(classes: int) -> None:
    """Check that a network can tell so many classes apart.

    Raises:
        DataError: It can't.
    """
    if not 1 <= classes <= MOST_CLASSES:
        raise DataError(
            f"there are {classes} classes, one more than the largest label unless they were given, "
            f"but a network tells from 1 to {MOST_CLASSES} apart [S6]; number the labels from 0"
        )


def _check_shares(labels: np.ndarray, where: str) -> None:
    wrong = np.argwhere(labels > 1)
    if len(wrong):
        row, column = wrong[0]
        raise DataError(
            f"{where}: label {column} of image {row} is {labels[row, column]:g}, but with loss = "
            "'sigmoid' labels lie in [0, 1], or are negative or NaN where they are not known"
        )


def _check_range(labels: np.ndarray, classes: int, where: str) -> None:
    if labels.ndim == 2:
        if labels.shape[1] != classes:
            raise DataError(
                f"{where}: an image has {labels.shape[1]} labels, but there are {classes} classes"
            )
        return
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if len(wrong):
        raise DataError(
            f"{where}: label {wrong[0]} is {labels[wrong[0]]}, but should be from 0 to "
            f"{classes - 1}; {len(wrong)} of {len(labels)} labels are out of range"
        )


def channels_first(x: np.ndarray, channels_last: bool | None = None) -> np.ndarray:
    """Bring the channels of images to the axis after the count: see :meth:`Dataset.of`.

    Raises:
        DataError: The channels can't be told from the sizes.
    """
    if channels_last is None and x.ndim == 3:
        return x[:, None]
    if x.ndim < 3:
        raise DataError(f"x has shape {x.shape}, but should have (count, channels, *sizes)")
    if channels_last is None:
        first, last = (x.shape[axis] in (1, 3, 4) for axis in (1, -1))
        if first == last:
            raise DataError(
                f"x has shape {x.shape}: channels are looked for in the second and the last axis, "
                f"as 1, 3 or 4, and are in {'both' if first else 'neither'}; give channels_last, "
                "or move them to the second axis"
            )
        channels_last = last
    return np.ascontiguousarray(np.moveaxis(x, -1, 1)) if channels_last else x


def parted(split: Split) -> tuple[Split, Split]:
    """Part data that come in one piece into what to train on and what to test on.

    Raises:
        DataError: No class has enough samples to give one up.
    """
    test = held_out(split.y)
    if not test.any():
        raise DataError(
            f"{len(split)} samples are too few to keep a fifth of each class for the test; give "
            "images to test on"
        )
    return split.take(np.flatnonzero(~test)), split.take(np.flatnonzero(test))


def held_out(labels: np.ndarray) -> np.ndarray:
    """Choose the samples to test on: a fifth of each class, to the nearest whole number.

    Where an image has several labels, all images are taken for one class, whose label is 0.
    In a class with n samples, they are the first of the permutation of 0 to n-1 that the stream
    ``(seed 0, "split", position = label)`` gives; see :mod:`densespec.data.draws`.
    """
    chosen = np.zeros(len(labels), bool)
    labels = labels if labels.ndim == 1 else np.zeros(len(labels), np.int64)
    for label in np.unique(labels[labels >= 0]):
        rows = np.flatnonzero(labels == label)
        order = permutation(0, "split", int(label), len(rows))
        chosen[rows[order[: (len(rows) + TESTED // 2) // TESTED]]] = True
    return chosen


def fits(dataset: Dataset, spec: DenseNetSpec, size: Sequence[int] | None = None) -> Graph:
    """Check that a network can be trained on a data set.

    Args:
        size: The size to which images are brought; None for the size that they have.

    Returns:
        The network's graph at that size, which :func:`densespec.data.dropout_masks` needs.

    Raises:
        DataError: Channels, classes or sizes differ; the message says what to do.
        SpecError: Nothing is left of images of this size within the network.
    """
    if dataset.channels != spec.in_channels:
        raise DataError(
            f"{dataset.name} has images of {dataset.channels} channels, but the network takes "
            f"{spec.in_channels}: use --in-channels {dataset.channels}, or "
            f"spec.replace(in_channels={dataset.channels}); weights for other channels are fitted "
            "to them"
        )
    if len(dataset.classes) != spec.classes:
        count = len(dataset.classes)
        raise DataError(
            f"{dataset.name} has {count} classes, but the network tells {spec.classes} apart: use "
            f"--classes {count}, or spec.replace(classes={count})"
        )
    sizes = dataset.size if size is None else tuple(size)
    if sizes is None:
        raise DataError(
            f"images of {dataset.name} differ in size: give the size to bring them to, such as "
            "(224, 224)"
        )
    if len(sizes) != spec.spatial_dims:
        raise DataError(
            f"{dataset.name} has images of {len(sizes)} dimensions, {shown(sizes)}, but the "
            f"network takes {spec.spatial_dims}: use spec.replace(spatial_dims={len(sizes)}), to "
            "which weights are fitted"
        )
    return lower(spec, sizes)
