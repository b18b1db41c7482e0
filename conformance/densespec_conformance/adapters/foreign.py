"""Defines what the suite needs of somebody else's network, whichever framework it is in."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from densespec.backends import Trainer, require_logits
from densespec.network.arrays import Arrays
from densespec.network.graph import Graph
from densespec.recipes.recipe import TrainingRecipe
from densespec.weights.layouts import Axes, to_canonical
from densespec.weights.tensors import Tensor
from densespec_conformance.asking.requests import Unsupported


@dataclass(frozen=True)
class Observation:
    """Holds what was seen of one run in inference mode, channels first.

    Attributes:
        output: The output of the network.
        inputs: The input of each watched part, by the part's name, in the order in which they ran.
        outputs: The output of each watched part, in the same way.
    """

    output: np.ndarray
    inputs: Arrays
    outputs: Arrays


@dataclass(frozen=True)
class ForeignArray:
    """Describes one array of a network.

    Attributes:
        tensor: The array in the framework's order of axes.
        part: The name of the module or layer that holds it.
        leaf: Its canonical name without the node's, such as ``gamma``; empty if that is unknown.
    """

    tensor: Tensor
    part: str
    leaf: str


class ForeignNetwork(Protocol):
    """Represents somebody else's network in a framework.

    Attributes:
        axes: The order of axes of its kernels.
        containers: The kinds of weight file whose layouts may know its names.
        any_size: Whether it takes inputs of any size.
        notes: Sentences that say what a user should know of how it is run.
    """

    axes: Axes

    @property
    def containers(self) -> tuple[str, ...]: ...

    @property
    def any_size(self) -> bool: ...

    @property
    def notes(self) -> tuple[str, ...]: ...

    def arrays(self) -> dict[str, ForeignArray]:
        """Return every array but counters, by the framework's name."""
        ...

    def write(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Replace arrays, by the framework's names and in its order of axes."""
        ...

    def load(self, path: Path) -> None:
        """Load a weight file as the framework's users do."""
        ...

    def keep(self) -> None:
        """Remember its state as its own, to :meth:`reset` to."""
        ...

    def reset(self) -> None:
        """Go back to the state that was kept, so that nothing is left of earlier questions."""
        ...

    def count_parameters(self) -> tuple[int, int]:
        """Count trainable parameters and running statistics as the framework does."""
        ...

    def run(self, x: np.ndarray, parts: Collection[str]) -> Observation:
        """Run it in inference mode on x of (batch, channels, *spatial), watching some parts."""
        ...

    def trainer(self, keys: Mapping[str, str], graph: Graph, recipe: TrainingRecipe) -> Trainer:
        """Make a trainer; ``keys`` are the framework's names of arrays, by canonical name."""
        ...


def canonical_arrays(network: ForeignNetwork, keys: Mapping[str, str]) -> Arrays:
    """Read a network's arrays by canonical name, in the canonical order of axes.

    Args:
        keys: The framework's names of arrays, by canonical name.
    """
    arrays = network.arrays()
    return {
        name: to_canonical(name, arrays[key].tensor, network.axes).read()
        for name, key in keys.items()
    }


class ForeignTrainer:
    """Holds what trainers of somebody else's network have in common; frameworks add the steps.

    Raises:
        ValueError: The network gives no logits.
        Unsupported: The recipe keeps averages or accumulates, which a network alone does not do.
    """

    def __init__(
        self,
        network: ForeignNetwork,
        keys: Mapping[str, str],
        graph: Graph,
        recipe: TrainingRecipe,
    ) -> None:
        require_logits(graph)
        if recipe.average is not None or recipe.accumulate > 1:
            raise Unsupported("only networks that densespec built average and accumulate")
        self._network, self._keys = network, keys
        self._graph, self._recipe = graph, recipe

    def predict(self, x: np.ndarray) -> np.ndarray:
        return self._network.run(x, ()).output

    def weights(self) -> Arrays:
        return canonical_arrays(self._network, self._keys)

    def close(self) -> None:
        """Do nothing: the trainer holds nothing but the network."""

    def _check_masks(self, masks: Mapping[str, np.ndarray] | None) -> None:
        """Refuse dropout masks, which only a network that densespec built can be given.

        Raises:
            Unsupported: There are masks.
        """
        if masks:
            raise Unsupported("it draws its own dropout masks, and can't be given any")

    def _trainable_keys(self) -> dict[str, str]:
        return {w.name: self._keys[w.name] for w in self._graph.weights if w.trainable}
