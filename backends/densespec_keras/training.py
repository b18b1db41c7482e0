"""Takes training steps by ``compile`` and ``train_on_batch``, as Keras's users do."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import keras
import numpy as np

from densespec.backends import StepResult, check_labels, require_logits
from densespec.network import ops
from densespec.network.arrays import Arrays
from densespec.network.graph import Graph
from densespec.recipes.moments import OptimizerMoments, check_moments, initial_moments, moving
from densespec.recipes.recipe import AVERAGE, TrainingRecipe
from densespec_keras.averaging import WeightAverage
from densespec_keras.emitter import Emitter, kind_of
from densespec_keras.losses import loss_of
from densespec_keras.optimizers import OPTIMIZERS, watched
from densespec_keras.running import as_input, formats_of, precision_of
from densespec_keras.states import moments_of, restore_moments, slots, steps_of
from densespec_keras.variables import layer_policy, read, trainable, variables


class Compiled(NamedTuple):
    """Says what a model was compiled for: given masks, and watched gradients."""

    masked: bool
    watched: bool


class KerasTrainer:
    """Takes training steps on a model.

    With masks, it trains a twin of the model that shares its layers and takes the masks as inputs.
    The model is compiled at the first step, and again when gradients or masks are wanted for the
    first time.
    """

    def __init__(self, model: Any, graph: Graph, recipe: TrainingRecipe) -> None:
        require_logits(graph)
        self._model, self._graph, self._recipe = model, graph, recipe
        self._formats, self._dtype = formats_of(model), precision_of(model)
        recipe.check_classes(graph.spec.classes)
        if recipe.accumulate > 1 and layer_policy(model) == "mixed_float16":
            raise ValueError(
                "with mixed_float16, Keras leaves out parts of a batch by themselves: accumulate "
                "with another dtype, or on torch.nn or flax.nnx"
            )
        self._counts = recipe.loss == "softmax"
        self._loss = loss_of(recipe, dtype=self._dtype)
        self._trained = trainable(model, graph)
        self._dropouts = [node.name for node in graph.dropouts]
        self._compiled_for: Compiled | None = None
        self._compiled: Any = None
        self._optimizer: Any = None
        first = initial_moments(graph, recipe, self.weights(), self._dtype)
        self._moments: OptimizerMoments = {name: first[name] for name in recipe.rule.moments}
        self._done = 0
        self._average = None if recipe.average is None else self._new_average()

    def _new_average(self, **options: Any) -> WeightAverage:
        found = variables(self._model, self._graph)
        averaged = {weight.name: found[weight.name] for weight in moving(self._graph)}
        return WeightAverage(averaged, self._recipe, **options)

    def step(
        self,
        x: np.ndarray,
        labels: np.ndarray,
        *,
        learning_rate: float,
        masks: Mapping[str, np.ndarray] | None = None,
        gradients: bool = True,
    ) -> StepResult:
        check_labels(self._recipe, x, labels, self._graph.spec.classes)
        single = self._counts and not self._recipe.has_shares
        labels = np.asarray(labels) if single else np.asarray(labels, self._dtype)
        scales = self._scales(masks or {})
        with self._settings():
            self._compile(Compiled(masked=bool(scales), watched=gradients))
            self._optimizer.learning_rate = learning_rate
            x = as_input(x, self._formats.outer, self._dtype)
            loss, correct, found = self._run_parts([x, *scales], labels, gradients)
            self._done = steps_of(self._optimizer)
            if self._average is not None:
                self._average.update(self._done)
        return StepResult(loss, found, correct if self._counts else None)

    def predict(self, x: np.ndarray) -> np.ndarray:
        with self._settings(), self._averaged():
            logits = self._model.predict_on_batch(as_input(x, self._formats.outer, self._dtype))
        return np.asarray(logits).astype(self._dtype, copy=False)

    def _averaged(self) -> contextlib.AbstractContextManager[None]:
        """Put the averages in place of the weights for a while, if there are averages."""
        return contextlib.nullcontext() if self._average is None else self._average.in_place()

    def moments(self) -> dict[str, Arrays]:
        averages = {} if self._average is None else {AVERAGE: self._average.read()}
        return self._moments_now() | averages

    def _moments_now(self) -> dict[str, Arrays]:
        if self._optimizer is not None:
            return moments_of(self._optimizer, self._trained)
        return {
            moment: {name: np.array(array) for name, array in arrays.items()}
            for moment, arrays in self._moments.items()
        }

    def restore(self, moments: OptimizerMoments, *, step: int) -> None:
        check_moments(self._graph, self._recipe, moments)
        self._moments = {name: moments[name] for name in self._recipe.rule.moments}
        self._done = step
        if self._average is not None:
            self._average.write(moments[AVERAGE])
        if self._optimizer is not None:
            restore_moments(self._optimizer, self._trained, self._moments, step)

    def weights(self) -> Arrays:
        return read(self._model, self._graph)

    def close(self) -> None:
        """Do nothing, as nothing is held: engines keep their devices until the process ends."""

    def _settings(self) -> contextlib.AbstractContextManager[None]:
        """Provide Keras's settings while it builds and runs."""
        return _floatx(self._dtype)

    @property
    def _parts_of_optimizer(self) -> int:
        """Return the number of parts of a batch whose gradients the optimizer takes the mean of."""
        return self._recipe.accumulate

    def _compile(self, wanted: Compiled) -> None:
        if wanted == self._compiled_for:
            return
        if self._optimizer is not None:
            self._moments = self._moments_now()
        self._compiled = self._twin() if wanted.masked else self._model
        kind = OPTIMIZERS[self._recipe.optimizer]
        self._optimizer = (watched(kind) if wanted.watched else kind).from_recipe(
            self._recipe.replace(accumulate=self._parts_of_optimizer)
        )
        optimizer = self._optimizer
        if layer_policy(self._model) == "mixed_float16":
            optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
        self._compiled.compile(
            optimizer,
            self._loss,
            metrics=[self._accuracy()] if self._counts else None,
        )
        optimizer.build(self._compiled.trainable_variables)
        restore_moments(self._optimizer, self._trained, self._moments, self._done)
        self._compiled_for = wanted

    def _accuracy(self) -> Any:
        metrics = keras.metrics
        if self._recipe.has_shares:
            return metrics.CategoricalAccuracy(name="accuracy")
        return metrics.SparseCategoricalAccuracy(name="accuracy")

    def _twin(self) -> Any:
        twin = Emitter(
            self._graph,
            data_format=self._formats.outer,
            inner_format=self._formats.inner,
            dtype=layer_policy(self._model),
            layers=self._model.layers,
            kind=kind_of(self._model),
        ).masked_model()
        if kind_of(self._model) is not keras.Model:
            twin.follow(self._graph, self._model.settings)
        return twin

    def _run_parts(
        self, inputs: list[np.ndarray], labels: np.ndarray, gradients: bool
    ) -> tuple[float, int, Arrays]:
        """Return the loss, the number of right answers, and the gradients of one step if wanted.

        Keras's optimizers take the mean of the gradients of as many batches as the recipe has
        parts; samples are weighed so that it is the mean over all.
        """
        count, total = self._recipe.accumulate, len(labels)
        loss, correct, sums = 0.0, 0, Arrays()
        for part in np.array_split(np.arange(total), count):
            weights = None if count == 1 else np.full(len(part), count * len(part) / total)
            own = inputs if count == 1 else [array[part] for array in inputs]
            lost, right = self._run(own, labels[part], weights)
            loss, correct = loss + lost / count, correct + right
            found = slots(self._optimizer, self._trained, "gradients") if gradients else {}
            sums = {name: sums.get(name, 0) + array / count for name, array in found.items()}
        return loss, correct, sums

    def _run(
        self, inputs: list[np.ndarray], labels: np.ndarray, weights: np.ndarray | None
    ) -> tuple[float, int]:
        """Return the loss and the number of right answers of one part of a batch."""
        x = inputs if len(inputs) > 1 else inputs[0]
        logs = self._compiled.train_on_batch(x, labels, sample_weight=weights, return_dict=True)
        return float(logs["loss"]), round(float(logs.get("accuracy", 0)) * len(labels))

    def _scales(self, masks: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Return the factors on each dropout's input; frozen dropouts have no masks."""
        given = [name for name in self._dropouts if name in masks]
        if given and given != self._dropouts:
            raise ValueError(
                f"masks for {len(given)} of {len(self._dropouts)} dropouts: give one for each, or "
                "none"
            )
        return [self._scale(name, masks[name]) for name in given]

    def _scale(self, name: str, mask: np.ndarray) -> np.ndarray:
        op = self._graph[name].op
        assert isinstance(op, ops.Dropout), f"{name} is no dropout"
        return as_input(mask / (1 - op.rate), self._formats.inner, self._dtype)


@contextlib.contextmanager
def _floatx(dtype: str) -> Iterator[None]:
    """Set ``floatx``: Keras keeps losses, metrics and rates in it, whatever the model's dtype."""
    before = keras.config.floatx()
    keras.config.set_floatx(dtype if dtype == "float64" else before)
    try:
        yield
    finally:
        keras.config.set_floatx(before)
