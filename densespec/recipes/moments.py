"""Names what is kept beside the weights: the optimizer's moments, and averages."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from densespec.errors import WeightsError
from densespec.network.arrays import Arrays
from densespec.network.graph import Graph
from densespec.network.ops import Weight
from densespec.recipes.optimizers import FIRST, OPTIMIZERS
from densespec.recipes.recipe import AVERAGE, TrainingRecipe

MOMENTS = frozenset(moment for rule in OPTIMIZERS.values() for moment in rule.moments) | {AVERAGE}
"""Lists the names of the moments of all optimizers, and of the averages."""

OptimizerMoments = Mapping[str, Mapping[str, np.ndarray]]
"""Holds arrays by the name of the moment, such as ``velocity``, and the weight's canonical name."""


def moving(graph: Graph) -> list[Weight]:
    """Return the arrays that training moves: weights and running statistics that are not frozen."""
    return [weight for node in graph.nodes if not node.frozen for weight in node.weights]


def _kept(graph: Graph, recipe: TrainingRecipe) -> dict[str, list[Weight]]:
    """Return the arrays of which each moment is kept."""
    trainable = [weight for weight in graph.weights if weight.trainable]
    return {moment: moving(graph) if moment == AVERAGE else trainable for moment in recipe.kept}


def check_moments(graph: Graph, recipe: TrainingRecipe, moments: OptimizerMoments) -> None:
    """Check that moments are those that are kept of a network by a recipe.

    Raises:
        WeightsError: names the first array that does not fit.
    """
    wanted = {
        (moment, weight.name): weight.shape
        for moment, weights in _kept(graph, recipe).items()
        for weight in weights
    }
    given = {
        (moment, name): tuple(array.shape)
        for moment, arrays in moments.items()
        for name, array in arrays.items()
    }
    differing = sorted(n for n in given.keys() | wanted.keys() if given.get(n) != wanted.get(n))
    if differing:
        moment, name = first = differing[0]
        raise WeightsError(
            f"{len(differing)} moments of the optimizer do not fit the network and the recipe: the "
            f"{moment} of {name} has shape {given.get(first)}, but should have {wanted.get(first)}"
        )


def initial_moments(
    graph: Graph, recipe: TrainingRecipe, weights: Mapping[str, np.ndarray], dtype: str
) -> dict[str, Arrays]:
    """Return what is kept before the first step: moments as they start, and averages of one array
    each.

    Args:
        weights: The network's arrays by canonical name.
    """
    return {
        moment: {
            weight.name: np.array(weights[weight.name], dtype)
            if moment == AVERAGE
            else np.full(weight.shape, FIRST.get(moment, 0), dtype)
            for weight in own
        }
        for moment, own in _kept(graph, recipe).items()
    }


def flat_moments(moments: OptimizerMoments) -> Arrays:
    """Return moments as one table, by names such as ``velocity/stem.conv.kernel``."""
    return {
        f"{moment}/{name}": np.asarray(array)
        for moment, arrays in moments.items()
        for name, array in arrays.items()
    }


def nested_moments(arrays: Mapping[str, np.ndarray]) -> dict[str, Arrays]:
    """Return the moments that a table of :func:`flat_moments` holds, whatever else it holds."""
    found: dict[str, Arrays] = {}
    for key, array in arrays.items():
        moment, _, name = key.partition("/")
        if moment in MOMENTS:
            found.setdefault(moment, {})[name] = array
    return found


def names_a_moment(key: str) -> bool:
    """Say whether an array of this name is a moment in a table of :func:`flat_moments`."""
    return key.partition("/")[0] in MOMENTS
