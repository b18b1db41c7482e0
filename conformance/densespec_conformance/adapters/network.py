"""What the suite needs of somebody else's network, whichever framework it is in."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from densespec.backends import Trainer
from densespec.network.arrays import Arrays
from densespec.network.graph import Graph
from densespec.recipes.recipe import TrainingRecipe
from densespec.weights.layouts import Axes
from densespec.weights.tensors import Tensor


@dataclass(frozen=True)
class Run:
    """What was seen of one run in inference mode, channels first.

    Attributes:
        output: of the network.
        inputs: of those parts that were watched and seen to run, by name, in the order of running.
        outputs: likewise.
    """

    output: np.ndarray
    inputs: Arrays
    outputs: Arrays


@dataclass(frozen=True)
class Seen:
    """One array of a network.

    Attributes:
        tensor: in the framework's order of axes.
        part: name of the module or layer that holds it.
        leaf: what it would be called canonically, such as ``gamma``; empty where that is unknown.
    """

    tensor: Tensor
    part: str
    leaf: str


class Network(Protocol):
    """A network of a framework.

    Attributes:
        containers: kinds of weight file whose layouts may know its names.
        axes: order of axes of kernels.
        any_size: whether it takes inputs of any size.
    """

    containers: tuple[str, ...]
    axes: Axes
    any_size: bool

    def arrays(self) -> dict[str, Seen]:
        """Every array but counters, by the framework's name."""
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
        """Trainable parameters and running statistics, as the framework counts them."""
        ...

    def run(self, x: np.ndarray, parts: Collection[str]) -> Run:
        """Run it in inference mode on x of (batch, channels, *spatial), watching some parts."""
        ...

    def trainer(self, keys: Mapping[str, str], graph: Graph, recipe: TrainingRecipe) -> Trainer:
        """A trainer; ``keys`` are the framework's names of arrays, by canonical name."""
        ...


Adapt = Callable[[object, str], Network]
"""Makes a network of what a constructor gave, to compute in a dtype."""
