"""What an optimizer keeps of every weight: its moments, by their names and the weights'."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from densespec.errors import WeightsError
from densespec.network.arrays import Arrays
from densespec.network.graph import Graph
from densespec.recipes.optimizers import OPTIMIZERS
from densespec.recipes.recipe import TrainingRecipe

MOMENTS = frozenset(moment for rule in OPTIMIZERS.values() for moment in rule.moments)
"""The names of the moments of all optimizers."""

OptimizerMoments = Mapping[str, Mapping[str, np.ndarray]]
"""Arrays by the name of the moment, such as ``velocity``, and the canonical name of the weight."""


def check_moments(graph: Graph, recipe: TrainingRecipe, moments: OptimizerMoments) -> None:
    """Check that moments are those that a recipe's optimizer keeps of a network.

    Raises:
        WeightsError: names the first array that does not fit.
    """
    trainable = {w.name: w.shape for w in graph.weights if w.trainable}
    wanted = {
        (moment, name): trainable[name] for moment in recipe.rule.moments for name in trainable
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


def zero_moments(graph: Graph, recipe: TrainingRecipe, dtype: str) -> dict[str, Arrays]:
    """Give the moments before the first step."""
    trainable = [weight for weight in graph.weights if weight.trainable]
    return {
        moment: {weight.name: np.zeros(weight.shape, dtype) for weight in trainable}
        for moment in recipe.rule.moments
    }


def flat_moments(moments: OptimizerMoments) -> Arrays:
    """Give moments as one table, by names such as ``velocity/stem.conv.kernel``."""
    return {
        f"{moment}/{name}": np.asarray(array)
        for moment, arrays in moments.items()
        for name, array in arrays.items()
    }


def nested_moments(arrays: Mapping[str, np.ndarray]) -> dict[str, Arrays]:
    """Give the moments that a table of :func:`flat_moments` holds, whatever else it holds."""
    found: dict[str, Arrays] = {}
    for key, array in arrays.items():
        moment, _, name = key.partition("/")
        if moment in MOMENTS:
            found.setdefault(moment, {})[name] = array
    return found


def names_a_moment(key: str) -> bool:
    """Whether an array of this name is a moment in a table of :func:`flat_moments`."""
    return key.partition("/")[0] in MOMENTS
