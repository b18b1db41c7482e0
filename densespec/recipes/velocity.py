"""Whether an optimizer's momentum fits a network and a recipe."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from densespec.errors import WeightsError
from densespec.network.graph import Graph
from densespec.recipes.recipe import TrainingRecipe


def check_velocity(
    graph: Graph, recipe: TrainingRecipe, velocity: Mapping[str, np.ndarray]
) -> None:
    """Check that momentum is that of a network's trainable weights, or of none without momentum.

    Raises:
        WeightsError: names the first array that does not fit.
    """
    trainable = {w.name: w.shape for w in graph.weights if w.trainable}
    wanted = trainable if recipe.momentum else {}
    given = {name: tuple(array.shape) for name, array in velocity.items()}
    differing = sorted(n for n in given.keys() | wanted.keys() if given.get(n) != wanted.get(n))
    if differing:
        first = differing[0]
        raise WeightsError(
            f"the momentum of {len(differing)} weights does not fit the network: {first} has shape "
            f"{given.get(first)}, but should have {wanted.get(first)}"
        )
