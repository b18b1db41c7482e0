"""Chooses the images that a network is calibrated on, and others for the comparison."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from densespec.data import DataError, Dataset, Split
from densespec.errors import DensespecError
from densespec.predicting.scoring import class_places, prepared_batches
from densespec.pretrained.accompaniment import Accompaniment
from densespec.pretrained.preprocessing import Preprocessing

BATCH = 8
"""This many images are computed together if a file takes any number."""

Part = Literal["train", "test"]


@dataclass(frozen=True)
class Images:
    """Gives the images of a data set as an exported network takes them.

    Attributes:
        dataset: The images. The network is calibrated on the training images, and compared on the
            test images.
        preprocessing: The preprocessing of the images before the network.
        classes: The network's class for each class of the data; None if nobody states it.
        inside: Whether the file itself does the preprocessing.
        batch: The number of images that are computed together.
    """

    dataset: Dataset
    preprocessing: Preprocessing
    classes: np.ndarray | None
    inside: bool
    batch: int

    def inputs(self, part: Part, count: int) -> Iterator[np.ndarray]:
        """Yield inputs of up to ``count`` images, drawn by a fixed seed."""
        for x, _ in self.labelled(part, count):
            yield x

    def labelled(self, part: Part, count: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield inputs, and the labels by the network's numbers of classes where they are known.

        Only whole batches are given: a file may take no others.

        Raises:
            DataError: There are too few images.
        """
        split = getattr(self.dataset, part)
        if len(split) < self.batch:
            raise DataError(
                f"{self.dataset.name} has {len(split)} images to {part} on, but should have "
                f"{self.batch} at least"
            )
        whole = min(count, len(split)) // self.batch * self.batch or self.batch
        drawn = split.take(np.random.default_rng(0).permutation(len(split))[:whole])
        pairs = _raw(drawn) if self.inside else self._prepared(drawn)
        for x, labels in pairs:
            yield x, labels if self.classes is None else self.classes[labels]

    def _prepared(self, split: Split) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for x, labels in prepared_batches(self.preprocessing, self.dataset, [split], self.batch):
            yield x.astype(np.float32), labels


def _raw(split: Split) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield images one by one, as bytes (1, height, width, channels), each of its own size."""
    for index in range(len(split)):
        image = split.image(index)
        if image.dtype != np.uint8:
            raise DataError("a file that prepares images takes bytes, but these images are not")
        yield np.moveaxis(image, 0, -1)[None], split.y[index : index + 1]


def images_of(
    dataset: Dataset, known: Accompaniment, *, inside: bool = False, batch: int | None = None
) -> Images:
    """Say how an exported network takes the images of a data set.

    Args:
        dataset: The images.
        known: What goes with the network's weights.
        inside: Whether the file itself does the preprocessing.
        batch: The one number of images that the file takes; None for any.

    Raises:
        DensespecError: Nothing says what images need before the network, or a file that prepares
            images takes several at a time.
        DataError: The images have other channels.
    """
    needed = known.preprocessing
    if needed is None:
        raise DensespecError(
            "nothing says what images need before this network: give weights that do, such as "
            "trained ones by name or a checkpoint of a run"
        )
    if dataset.channels != needed.channels:
        raise DataError(
            f"images of {dataset.name} have {dataset.channels} channels, but the network takes "
            f"{needed.channels}"
        )
    if inside and batch not in (None, 1):
        raise DensespecError(
            f"batch = {batch}: images of several sizes can't be calibrated on together; "
            "leave the batch open, or make it 1"
        )
    together = 1 if inside else batch or BATCH
    return Images(dataset, needed, _classes(known, dataset), inside, together)


def _classes(known: Accompaniment, dataset: Dataset) -> np.ndarray | None:
    if dataset.has_several or known.labels is None:
        return None
    with contextlib.suppress(DataError), warnings.catch_warnings(action="error"):
        return class_places(known.labels, dataset)
    return None
