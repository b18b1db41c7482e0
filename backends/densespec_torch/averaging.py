"""Averages a model's arrays beside them while they are trained."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from densespec.network.arrays import Arrays
from densespec.network.graph import Graph
from densespec.recipes.moments import moving
from densespec.recipes.recipe import TrainingRecipe
from densespec_torch.inspecting import keys_of
from densespec_torch.tensors import from_numpy, to_numpy, unwrapped


class WeightAverage:
    """Averages everything in a model that training moves, by a recipe.

    ``torch.optim.swa_utils.AveragedModel`` does the same with ``use_buffers=True``, except that its
    first update copies, and that it has no warm-up.

    Args:
        model: a module with densespec's names; ``torch.compile`` may have wrapped it.
        graph: the graph that the model computes.
    """

    def __init__(self, model: nn.Module, graph: Graph, recipe: TrainingRecipe) -> None:
        model = unwrapped(model)
        state, keys = model.state_dict(), keys_of(model, graph)
        self._recipe = recipe
        self._arrays = {weight.name: state[keys[weight.name]] for weight in moving(graph)}
        self._averages = {name: array.clone() for name, array in self._arrays.items()}

    @property
    def statistics(self) -> list[Tensor]:
        """Return the averages of running statistics."""
        return [a for name, a in self._averages.items() if ".running_" in name]

    def update(self, number: int) -> None:
        """Update the averages after a step, counted from 1."""
        average = get_ema_multi_avg_fn(  # type: ignore[no-untyped-call]
            1 - self._recipe.average_share(number)
        )
        with torch.no_grad():
            average(self._listed(self._averages), self._listed(self._arrays), number)

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Let the model compute by the averages for a while."""
        before = {name: array.clone() for name, array in self._arrays.items()}
        self._fill(self._arrays, self._averages)
        try:
            yield
        finally:
            self._fill(self._arrays, before)

    def read(self) -> Arrays:
        """Return the averages by canonical name."""
        return {name: to_numpy(average) for name, average in self._averages.items()}

    def write(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Replace the averages, whose names and shapes are known to fit."""
        self._fill(self._averages, {name: from_numpy(array) for name, array in arrays.items()})

    @staticmethod
    def _fill(targets: Mapping[str, Tensor], sources: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            for name, source in sources.items():
                targets[name].copy_(source)

    @staticmethod
    def _listed(tensors: Mapping[str, Tensor]) -> Sequence[Tensor]:
        return list(tensors.values())
