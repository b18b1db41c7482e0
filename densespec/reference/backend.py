"""Offers the reference as the backend ``numpy``, which needs no framework."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from densespec.backends import DataFormat, StepResult
from densespec.network.arrays import Arrays
from densespec.network.graph import Graph
from densespec.network.ops import Shape
from densespec.recipes.moments import OptimizerMoments, check_moments
from densespec.recipes.recipe import TrainingRecipe
from densespec.reference.model import ReferenceModel

DTYPES = ("float64", "float32", "float16")


class NumpyTrainer:
    """Takes training steps of the reference.

    Attributes:
        replicas: the number of devices that a batch is split among, one after the other.
    """

    def __init__(self, model: ReferenceModel, recipe: TrainingRecipe) -> None:
        self._model, self._recipe = model, recipe
        self.replicas = 1
        self._random = np.random.default_rng()

    def step(
        self,
        x: np.ndarray,
        labels: np.ndarray,
        *,
        learning_rate: float,
        masks: Mapping[str, np.ndarray] | None = None,
        gradients: bool = True,
    ) -> StepResult:
        return self._model.train_step(
            x,
            labels,
            self._recipe,
            learning_rate=learning_rate,
            masks=self._drawn(len(x)) if masks is None else masks,
            replicas=self.replicas,
        )

    def _drawn(self, batch: int) -> dict[str, np.ndarray]:
        """Draw masks that nobody gave: the reference draws none itself."""
        return {
            node.name: self._random.random((batch, *filter(None, node.shape))) >= node.drop_rate
            for node in self._model.graph.dropouts
        }

    def predict(self, x: np.ndarray) -> np.ndarray:
        return self._model.averaged()(x)

    def moments(self) -> dict[str, Arrays]:
        first = self._model.initial_moments(self._recipe)
        return {
            moment: arrays | self._model.moments.get(moment, {}) for moment, arrays in first.items()
        }

    def restore(self, moments: OptimizerMoments, *, step: int) -> None:
        check_moments(self._model.graph, self._recipe, moments)
        self._model.moments = {
            moment: {name: np.array(array, self._model.dtype) for name, array in arrays.items()}
            for moment, arrays in moments.items()
        }
        self._model.steps = step

    def weights(self) -> Arrays:
        return {name: array.copy() for name, array in self._model.weights.items()}

    def close(self) -> None:
        """Do nothing, as nothing is held."""


class NumpyBackend:
    def data_format(self, requested: DataFormat | None) -> DataFormat:
        if requested not in (None, "channels_first"):
            raise ValueError(
                f"data_format = {requested!r}, but the numpy reference is channels_first only"
            )
        return "channels_first"

    def build(
        self,
        graph: Graph,
        weights: Mapping[str, np.ndarray],
        *,
        dtype: str | None,
        data_format: DataFormat,
        name: str,
    ) -> ReferenceModel:
        if dtype not in (None, *DTYPES):
            raise ValueError(f"dtype = {dtype!r}, but numpy computes in {' or '.join(DTYPES)}")
        return ReferenceModel(graph, weights, dtype=dtype or "float64")

    def read_weights(self, model: ReferenceModel, graph: Graph) -> Arrays:
        return {name: array.copy() for name, array in model.weights.items()}

    def write_weights(
        self, model: ReferenceModel, graph: Graph, weights: Mapping[str, np.ndarray]
    ) -> None:
        model.load(weights)

    def count_parameters(self, model: ReferenceModel) -> tuple[int, int]:
        trainable = sum(model.weights[w.name].size for w in model.graph.weights if w.trainable)
        return trainable, sum(array.size for array in model.weights.values()) - trainable

    def forward(
        self, model: ReferenceModel, graph: Graph, x: np.ndarray, taps: Sequence[str]
    ) -> Arrays:
        return model.run(x, taps=taps)

    def shapes(
        self, model: ReferenceModel, graph: Graph, names: Sequence[str]
    ) -> Mapping[str, Shape]:
        """Return the shapes that a batch of no samples has there, which takes no time.

        Raises:
            OpError: the graph takes inputs of any size.
        """
        known = (size for size in graph.input.shape if size is not None)
        values = model.run(np.zeros((0, *known)), taps=names)
        return {name: values[name].shape[1:] for name in names}

    def devices(self) -> list[str]:
        """See :class:`densespec.backends.DeviceBackend`."""
        return ["cpu"]

    def trainer(self, model: ReferenceModel, graph: Graph, recipe: TrainingRecipe) -> NumpyTrainer:
        return NumpyTrainer(model, recipe)

    def parallel_trainer(
        self,
        graph: Graph,
        weights: Mapping[str, np.ndarray],
        recipe: TrainingRecipe,
        *,
        replicas: int,
        dtype: str | None,
    ) -> NumpyTrainer:
        model = self.build(
            graph, weights, dtype=dtype, data_format="channels_first", name="densenet"
        )
        trainer = self.trainer(model, graph, recipe)
        trainer.replicas = replicas
        return trainer


BACKEND = NumpyBackend()
