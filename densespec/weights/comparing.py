"""Compares weights: their specs, their arrays, and what a network computes from them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from densespec.backends import REFERENCE, get_backend
from densespec.errors import DensespecError
from densespec.network.arrays import Arrays, select_weights
from densespec.network.differences import spec_differences
from densespec.network.graph import Graph, lower
from densespec.network.spec import DenseNetSpec
from densespec.weights.inferring import NOT_IN_SHAPES
from densespec.weights.opening import IdentifiedWeights, open_weights
from densespec.weights.reading import AS_THEY_ARE, ReadingOptions

PROBE_SIZE = 64
"""Networks are compared on a seeded input whose sides have this many positions."""


@dataclass(frozen=True)
class WeightsComparison:
    """Compares two weight files.

    Attributes:
        spec_differences: The fields that differ, each with the first's and the second's value.
        only_first: The canonical names of arrays that only the first has.
        only_second: The canonical names of arrays that only the second has.
        tensor_differences: The largest absolute difference of each array that both have.
        activations: The activation after the first's and the second's classifier; None if there is
            none.
        output_difference: The largest relative difference at the output, or at the feature map if
            one of them has no classifier; None if one network can't hold the other's arrays.
    """

    first: IdentifiedWeights
    second: IdentifiedWeights
    spec_differences: Mapping[str, tuple[Any, Any]]
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]
    tensor_differences: Mapping[str, float]
    activations: tuple[str | None, str | None]
    output_difference: float | None

    @property
    def assumed_of_both(self) -> dict[str, Any]:
        """Return the spec's fields that were assumed for both files, with their values."""
        theirs = self.second.assumed
        return {name: value for name, value in self.first.assumed.items() if name in theirs}

    @property
    def same_tensors(self) -> bool:
        """Say whether both have the same arrays, value by value."""
        identical = not any(self.tensor_differences.values())
        return identical and not self.only_first and not self.only_second

    @property
    def same_network(self) -> bool:
        """Say whether both have the same arrays and compute the same from them."""
        same_ends = self.activations[0] == self.activations[1]
        return self.same_tensors and same_ends and self.output_difference == 0.0


def compare(
    first: str | os.PathLike[str],
    second: str | os.PathLike[str],
    *,
    reading: tuple[ReadingOptions, ReadingOptions] = (AS_THEY_ARE, AS_THEY_ARE),
    backend: str = REFERENCE,
    logits: bool = False,
) -> WeightsComparison:
    """Compare two weight files of any layouts: their specs, their arrays, and what they compute.

    Args:
        reading: What is said of the first and of the second file.
        backend: The one that computes; the float64 reference unless another is named.
        logits: Whether what follows the classifiers is left out of the comparison.

    Raises:
        WeightsError: A file can't be read, or does not fit its network.
    """
    with (
        open_weights(first, **reading[0].said()) as a,
        open_weights(second, **reading[1].said()) as b,
    ):
        arrays_a, arrays_b = exact(a), exact(b)
        both = [name for name in arrays_a if name in arrays_b]
        same_shapes = all(arrays_a[name].shape == arrays_b[name].shape for name in both)
        comparable = same_shapes and len(both) >= max(len(arrays_a), len(arrays_b)) - 2
        ends = _ends(a.graph, b.graph, logits)
        return WeightsComparison(
            first=a,
            second=b,
            spec_differences=spec_differences(a.spec, b.spec),
            only_first=tuple(name for name in arrays_a if name not in arrays_b),
            only_second=tuple(name for name in arrays_b if name not in arrays_a),
            tensor_differences={name: _apart(arrays_a[name], arrays_b[name]) for name in both},
            activations=(a.graph.classifier_activation, b.graph.classifier_activation),
            output_difference=largest_difference(
                outputs(lower(b.spec, **ends[1]), arrays_b, backend),
                outputs(lower(a.spec, **ends[0]), arrays_a, backend),
            )
            if comparable
            else None,
        )


def exact(weights: IdentifiedWeights) -> Arrays:
    """Read every array in float64, which holds any value of a smaller type."""
    return {name: np.asarray(array, np.float64) for name, array in weights.arrays().items()}


def _ends(first: Graph, second: Graph, logits: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """Choose where to compare two networks: at the outputs, or before a head that only one has."""
    heads = [graph.spec.head_units if graph.has_classifier else None for graph in (first, second)]
    if None in heads or heads[0] != heads[1]:
        return {"include_top": False}, {"include_top": False}
    of_first, of_second = (
        {"classifier_activation": None if logits else graph.classifier_activation}
        for graph in (first, second)
    )
    return of_first, of_second


@dataclass(frozen=True)
class Effect:
    """Tells what another spec changes in the output of given weights.

    Attributes:
        difference: The largest relative difference at the feature map.
        rounding: The relative difference that float32 rounding alone makes there; 0 if the change
            can't be seen there.
    """

    difference: float
    rounding: float

    @property
    def is_rounding(self) -> bool:
        """Say whether float32 can't tell the two networks apart."""
        return self.difference < self.rounding


def effect_of(
    changes: Mapping[str, Any], spec: DenseNetSpec, arrays: Mapping[str, np.ndarray]
) -> Effect | None:
    """Measure what changes of a spec make of a network's arrays.

    Args:
        changes: Fields of the spec, each with another value.
        arrays: By canonical name, in float64.

    Returns:
        The effect; None if the changed network can't hold the arrays.
    """
    try:
        theirs = outputs(lower(spec.replace(**changes), include_top=False), arrays)
    except DensespecError:
        return None
    graph = lower(spec, include_top=False)
    ours, rounding = outputs(graph, arrays), 0.0
    if changes.keys() <= NOT_IN_SHAPES:
        rounding = largest_difference(outputs(graph, arrays, dtype="float32"), ours)
    return Effect(largest_difference(theirs, ours), rounding)


def outputs(
    graph: Graph,
    arrays: Mapping[str, np.ndarray],
    backend: str = REFERENCE,
    *,
    dtype: str | None = None,
) -> np.ndarray:
    """Compute what a network gives for two seeded inputs.

    Args:
        dtype: What it is computed in; None for the backend's default, which is the reference's
            float64.

    Returns:
        The output, (2, channels, *spatial), or (2, classes) of a network with a classifier.
    """
    engine = get_backend(backend)
    model = engine.build(
        graph,
        select_weights(graph, arrays),
        dtype=dtype,
        data_format=engine.data_format(None),
        name="densenet",
    )
    shape = (2, graph.spec.in_channels, *(PROBE_SIZE,) * graph.spec.spatial_dims)
    x, name = np.random.default_rng(0).standard_normal(shape), graph.output.name
    return engine.forward(model, graph, x, [name])[name]


def largest_difference(actual: np.ndarray, expected: np.ndarray) -> float:
    """Return the largest difference over the largest magnitude; infinite for other shapes."""
    if actual.shape != expected.shape:
        return float("inf")
    return float(np.abs(actual - expected).max() / np.abs(expected).max())


def _apart(a: np.ndarray, b: np.ndarray) -> float:
    if a.shape != b.shape:
        return float("inf")
    equal = (a == b) | (np.isnan(a) & np.isnan(b))
    return 0.0 if equal.all() else float(np.nanmax(np.abs(a - b)[~equal], initial=0.0)) or np.inf
