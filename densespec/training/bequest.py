"""Writes what a run leaves with its weights: classes, preprocessing, and where it started."""

from __future__ import annotations

import warnings

import numpy as np

from densespec.building import goes_with
from densespec.data import Dataset
from densespec.errors import WeightsWarning
from densespec.network.graph import Graph
from densespec.pretrained.accompaniment import LINEAR, SIGMOID, SOFTMAX, Accompaniment, Provenance
from densespec.pretrained.preprocessing import Preprocessing
from densespec.weights.given import WeightsLike, opened
from densespec.weights.reading import ReadingOptions

BYTE = 255
"""Preprocessing takes a byte of this value for full intensity; data may state another value."""

KEPT = 7 / 8
"""This part of each side is kept of images that are brought to a size."""

OUTPUTS = {"softmax": SOFTMAX, "sigmoid": SIGMOID, "squared": LINEAR}
"""Each loss of a recipe has this function from logits to what the network is asked for."""

LOOKED_AT = 16
"""How many images tell whether all have the network's size."""


def bequest_of(
    dataset: Dataset,
    graph: Graph,
    weights: WeightsLike | None,
    reading: ReadingOptions,
    *,
    loss: str = SOFTMAX,
) -> Accompaniment:
    """Say what goes with the weights of a run.

    Args:
        graph: The network at the size of the images.
        weights: What the run starts from.
        reading: The options of how to read it.
        loss: The recipe's, which says what makes probabilities of logits, if anything does.

    Raises:
        WeightsError: The weights can't be read; or it is said how, but there are none.
    """
    return Accompaniment(
        preprocessing=_preprocessing(dataset, graph),
        labels=dataset.classes,
        provenance=_provenance(weights, reading, graph),
        outputs=OUTPUTS[loss],
    ).fitted_to(graph)


def _preprocessing(dataset: Dataset, graph: Graph) -> Preprocessing | None:
    size = tuple(side for side in graph.input_size if side is not None)
    if len(size) != 2 or not dataset.normalisation.is_share:
        return None
    normal = dataset.normalisation
    full = normal.scale / BYTE if dataset.train.image(0).dtype == np.uint8 else 1.0
    return Preprocessing(
        mean=tuple(full * mean for mean in normal.mean),
        std=tuple(full * std for std in normal.std),
        size=size,
        crop=1.0 if _have(dataset, size) else KEPT,
    )


def _have(dataset: Dataset, size: tuple[int, ...]) -> bool:
    """Say whether images have a size already, and are left as they are.

    Of images that are read when they are needed, the first ones tell it.
    """
    if dataset.size is not None:
        return dataset.size == size
    looked_at = range(min(LOOKED_AT, len(dataset.train)))
    return all(dataset.train.image(index).shape[1:] == size for index in looked_at)


def _provenance(
    weights: WeightsLike | None, reading: ReadingOptions, graph: Graph
) -> Provenance | None:
    with warnings.catch_warnings():  # they are said where the arrays are read
        warnings.simplefilter("ignore", WeightsWarning)
        with opened(weights, graph.spec, reading) as given:
            return goes_with(weights, given).provenance
