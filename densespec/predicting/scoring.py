"""Measures how well a network classifies a data set."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from densespec.backends import REFERENCE
from densespec.data import Batches, DataError, Dataset, Split, load
from densespec.data.batches import LabelledBatch
from densespec.errors import UnknownName, WeightsWarning
from densespec.predicting.classifier import NetworkLike, classifier
from densespec.predicting.guessing import BATCH
from densespec.pretrained.labels import identifiers_by_names
from densespec.pretrained.preprocessing import Preprocessing
from densespec.weights.reading import InterpretingOptions, takes_options_of

LEAST = np.finfo(np.float64).tiny
"""The loss takes a probability of zero for this number."""

TOP = 5


@dataclass(frozen=True)
class Evaluation:
    """Tells how well a network classifies images.

    Attributes:
        data: The name of the data set.
        classes: The names of the data set's classes.
        count: The number of images.
        loss: The mean cross-entropy.
        top1: The part of the images, from 0 to 1, whose class is the likeliest one.
        top5: The part of the images, from 0 to 1, whose class is among the five likeliest.
        confusion: The number of images of each class (row) that are taken for each class (column);
            the last column is for classes that the data set does not have.
    """

    data: str
    classes: tuple[str, ...]
    count: int
    loss: float
    top1: float
    top5: float
    confusion: np.ndarray = field(repr=False)


@takes_options_of(InterpretingOptions)
def evaluate(
    network: NetworkLike,
    data: str | Dataset,
    *,
    backend: str = REFERENCE,
    weights: Any = None,
    preprocessing: Preprocessing | None = None,
    part: str = "test",
    batch_size: int = BATCH,
    progress: Callable[[int, int], None] | None = None,
    **reading: Any,
) -> Evaluation:
    """Measure how well a network classifies a data set.

    Images of bytes are prepared as the network's weights say; others as the data set says. Classes
    of the data set are found among the network's by their names, or by their WordNet ids, so that
    a folder with some of ImageNet's classes will do.

    Args:
        network: As for :func:`densespec.predict`.
        data: A data set, or what :func:`densespec.data.load` takes, such as ``"folder:photos"``.
        backend: Where the network is built, if it is not built yet.
        weights: The weights of a variant; None for those that ``imagenet`` means.
        preprocessing: What images need; None for what the weights say.
        part: Which images to look at: ``"test"``, ``"train"`` or ``"all"``.
        batch_size: How many images are computed together.
        progress: Is told how many of how many images are done.
        {reading}

    Raises:
        DataError: There are no such data, or their classes are not the network's.
        DensespecError: The network has no classifier, tells several classes at once, or nothing
            says what its images need.

    Warns:
        WeightsWarning: Classes of other names are taken to be in the same order.
    """
    built = classifier(
        network,
        backend=backend,
        weights=weights,
        preprocessing=preprocessing,
        reading=InterpretingOptions(**reading),
    )
    if not built.tells_one:
        raise DataError("the network tells several classes at once: there is no one likeliest")
    channels = built.preprocessing.channels
    dataset = data if isinstance(data, Dataset) else load(str(data), channels=channels)
    if dataset.has_several:
        raise DataError(f"images of {dataset.name} have several labels: none is the right one")
    places, splits = class_places(built.labels, dataset), _splits(dataset, part)
    scores, labels = [], []
    for x, y in prepared_batches(built.preprocessing, dataset, splits, batch_size):
        scores.append(built.probabilities(x))
        labels.append(y)
        if progress is not None:
            progress(sum(map(len, labels)), sum(map(len, splits)))
    return _evaluation(dataset, places, np.concatenate(scores), np.concatenate(labels))


def class_places(labels: Sequence[str], dataset: Dataset) -> np.ndarray:
    """Find which of a network's classes each class of a data set is.

    Args:
        labels: What the network's classes are called.

    Raises:
        DataError: They are others.
    """
    for names in (labels, identifiers_by_names().get(tuple(labels), ())):
        known = {name: index for index, name in enumerate(names) if name}
        if all(name in known for name in dataset.classes):
            return np.array([known[name] for name in dataset.classes])
    unknown = next(name for name in dataset.classes if name not in labels)
    if len(dataset.classes) != len(labels):
        raise DataError(
            f"{dataset.name}: the network tells {len(labels)} classes apart, but none "
            f"is called {unknown!r}: name the classes as the network does, or train a new head"
        )
    warnings.warn(
        f"{dataset.name}: no class of the network is called {unknown!r}; its classes are taken to "
        "be those of the data, in their order",
        WeightsWarning,
        stacklevel=3,
    )
    return np.arange(len(dataset.classes))


def _splits(dataset: Dataset, part: str) -> tuple[Split, ...]:
    parts: dict[str, tuple[Split, ...]] = {
        "test": (dataset.test,),
        "train": (dataset.train,),
        "all": (dataset.train, dataset.test),
    }
    if part not in parts:
        raise UnknownName("part of data", part, parts)
    return parts[part]


def prepared_batches(
    prepare: Preprocessing, dataset: Dataset, splits: Sequence[Split], batch_size: int
) -> Iterator[LabelledBatch]:
    """Yield images (batch, channels, *spatial) as a network takes them, and their labels."""
    for split in splits:
        if len(split.shape) == 3 and split.image(0).dtype == np.uint8:
            yield from _prepared(prepare, split, batch_size)
        else:
            said = {"batch_size": batch_size, "size": prepare.size, "shuffle": False}
            yield from Batches(split, dataset.normalisation, **said)  # type: ignore[arg-type]


def _prepared(prepare: Preprocessing, split: Split, batch_size: int) -> Iterator[LabelledBatch]:
    for start in range(0, len(split), batch_size):
        rows = range(start, min(start + batch_size, len(split)))
        images = (np.moveaxis(split.image(row), 0, -1) for row in rows)
        yield prepare.batch(images), split.y[start : start + batch_size]


def _evaluation(
    dataset: Dataset, places: np.ndarray, probabilities: np.ndarray, labels: np.ndarray
) -> Evaluation:
    right = places[labels]
    own = probabilities[np.arange(len(labels)), right]
    better = (probabilities > own[:, None]).sum(1)
    positions = np.full(probabilities.shape[1], len(places))
    positions[places] = np.arange(len(places))
    confusion = np.zeros((len(places), len(places) + 1), np.int64)
    np.add.at(confusion, (labels, positions[probabilities.argmax(1)]), 1)
    return Evaluation(
        data=dataset.name,
        classes=dataset.classes,
        count=len(labels),
        loss=float(-np.log(np.maximum(own, LEAST)).mean()),
        top1=float((better < 1).mean()),
        top5=float((better < TOP).mean()),
        confusion=confusion,
    )
