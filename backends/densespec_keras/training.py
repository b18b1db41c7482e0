"""Training steps through ``compile`` and ``train_on_batch``, as Keras's users train."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np

from densespec import ops
from densespec.backends import StepResult, require_logits
from densespec.graph import Graph
from densespec.recipe import TrainingRecipe
from densespec.weights import Arrays
from densespec_keras.emitter import Emitter
from densespec_keras.optimizers import SGD
from densespec_keras.running import as_input, formats_of
from densespec_keras.variables import canonical, to_numpy, trainable


class _WatchedSGD(SGD):
    """SGD that keeps the gradients of its last step, as ``fit`` handed them over."""

    def build(self, variables: Any) -> None:
        if self.built:
            return
        super().build(variables)
        self.gradients = self.add_optimizer_variables(variables, "gradient")

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        self.assign(self.gradients[self._get_variable_index(variable)], gradient)
        super().update_step(gradient, variable, learning_rate)


class KerasTrainer:
    """Training steps on a model.

    With masks, on a twin of it that shares its layers and takes the masks as inputs.
    """

    def __init__(self, model: Any, graph: Graph, recipe: TrainingRecipe) -> None:
        self._model, self._graph, self._recipe = model, graph, recipe
        require_logits(graph)
        self._formats = formats_of(model)
        self._dtype = model.input.dtype
        self._compiled: Any = None
        self._masked: list[str] = []

    def step(
        self,
        x: np.ndarray,
        labels: np.ndarray,
        *,
        learning_rate: float,
        masks: Mapping[str, np.ndarray] | None = None,
    ) -> StepResult:
        with _floatx(self._dtype):
            if self._compiled is None:
                self._compile(with_masks=bool(masks))
            if set(masks or {}) != set(self._masked):
                raise ValueError("every dropout is given a mask at every step, or none ever is")
            self._compiled.optimizer.learning_rate = learning_rate
            inputs = [as_input(x, self._formats.outer, self._dtype)]
            inputs += [self._scale(name, (masks or {})[name]) for name in self._masked]
            loss = self._compiled.train_on_batch(inputs if self._masked else inputs[0], labels)
        return StepResult(float(loss), self._slots(self._compiled.optimizer.gradients))

    def velocity(self) -> Arrays:
        if not self._recipe.momentum:
            return {}
        return self._slots(self._compiled.optimizer.velocities)

    def _compile(self, *, with_masks: bool) -> None:
        self._compiled = self._model
        if with_masks:
            twin = Emitter(
                self._graph,
                data_format=self._formats.outer,
                inner_format=self._formats.inner,
                dtype=self._model.get_layer("stem_conv").dtype_policy,
                layers=self._model.layers,
            )
            self._compiled, self._masked = twin.masked_model()
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, dtype=self._dtype)
        self._compiled.compile(_WatchedSGD.from_recipe(self._recipe), loss)

    def _scale(self, name: str, mask: np.ndarray) -> np.ndarray:
        op = self._graph[name].op
        assert isinstance(op, ops.Dropout), f"{name} is no dropout"
        return as_input(mask / (1 - op.rate), self._formats.inner, self._dtype)

    def _slots(self, slots: list[Any]) -> Arrays:
        optimizer = self._compiled.optimizer
        arrays = {
            name: to_numpy(slots[optimizer._get_variable_index(variable)])
            for name, variable in trainable(self._model, self._graph)
        }
        return canonical(arrays)


@contextlib.contextmanager
def _floatx(dtype: str) -> Iterator[None]:
    """Keras keeps losses, metrics and learning rates in ``floatx``, whatever the model's dtype."""
    before = keras.config.floatx()
    keras.config.set_floatx(dtype if dtype == "float64" else before)
    try:
        yield
    finally:
        keras.config.set_floatx(before)
