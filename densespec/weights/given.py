"""The weights that users give: a file of any layout, or arrays by canonical name."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping

import numpy as np

from densespec.errors import WeightsError, in_words
from densespec.network.arrays import Arrays, select_weights
from densespec.network.differences import TRAINING_ONLY, spec_differences
from densespec.network.graph import Graph
from densespec.network.spec import DenseNetSpec
from densespec.weights.containers.base import EXTENDED
from densespec.weights.opening import IdentifiedWeights, open_weights

WeightsLike = str | os.PathLike[str] | Mapping[str, np.ndarray]
"""The path of a weight file, or arrays by canonical name."""

GivenWeights = IdentifiedWeights | Mapping[str, np.ndarray] | None
"""What was given once it is open; None for nothing."""


@contextlib.contextmanager
def opened(
    weights: WeightsLike | None, otherwise: DenseNetSpec | None = None
) -> Iterator[GivenWeights]:
    """Open the weights that a user gave; a file can be read until the block ends.

    Args:
        otherwise: The spec to take if a file does not tell it.

    Raises:
        WeightsError: A file can't be read, or its arrays do not fit its network.
    """
    if weights is None or isinstance(weights, Mapping):
        yield weights
        return
    if str(weights) == "imagenet":
        raise WeightsError(
            "densespec ships no pretrained weights: give the path of a weight file, of any layout "
            "that `densespec layouts` lists"
        )
    with open_weights(weights, otherwise=otherwise) as identified:
        yield identified


def stated_spec(given: GivenWeights) -> DenseNetSpec:
    """Give the spec of the network that weights are of.

    Raises:
        WeightsError: They do not come from a file, and so do not tell it.
    """
    if not isinstance(given, IdentifiedWeights):
        raise WeightsError("give a spec, or a weight file that tells it")
    return given.spec


def fitted(graph: Graph, given: GivenWeights) -> Arrays:
    """Read the arrays that a network needs: if it has no classifier, a head is left out.

    Raises:
        WeightsError: None were given, or they do not fit; names the first that are missing,
            unexpected or of another shape, or the fields in which the file's network differs.
    """
    if given is None:
        raise WeightsError("no weights were given: give a weight file, or arrays by canonical name")
    if isinstance(given, IdentifiedWeights):
        _check_same_network(graph, given)
        given = given.arrays()
    return select_weights(graph, {name: _widened(array) for name, array in given.items()})


def _widened(array: np.ndarray) -> np.ndarray:
    """Give an array in a type of numpy's own: float32 holds every value of the shorter others."""
    array = np.asarray(array)
    return array.astype(np.float32) if array.dtype.name in EXTENDED else array


def _check_same_network(graph: Graph, given: IdentifiedWeights) -> None:
    may_differ = (
        TRAINING_ONLY if graph.has_classifier else TRAINING_ONLY | {"classes", "head_units"}
    )
    apart = {
        name: values
        for name, values in spec_differences(given.spec, graph.spec).items()
        if name not in may_differ
    }
    if apart:
        raise WeightsError(
            f"{given.path} holds weights of another network: {'; '.join(in_words(apart))}"
        )


def weights_for(graph: Graph, weights: WeightsLike) -> Arrays:
    """Read the arrays that a network needs of those that a user gave; see :func:`fitted`."""
    with opened(weights, otherwise=graph.spec) as given:
        return fitted(graph, given)


def spec_of_file(weights: WeightsLike | None) -> DenseNetSpec:
    """Give the spec of the network in a weight file.

    Raises:
        WeightsError: There is no file, or it does not tell.
    """
    with opened(weights) as given:
        return stated_spec(given)
