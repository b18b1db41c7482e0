"""Represents a ``keras.Model`` as a network, on the engine that Keras runs on in this process."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from densespec.backends import StepResult, Trainer
from densespec.network.arrays import Arrays
from densespec.network.graph import Graph
from densespec.recipes.moments import OptimizerMoments, check_moments
from densespec.recipes.recipe import TrainingRecipe
from densespec.weights.layouts import Axes
from densespec.weights.tensors import Tensor
from densespec_conformance.adapters.foreign import ForeignArray, ForeignTrainer, Observation
from densespec_conformance.asking.constructor import ConstructorError
from densespec_conformance.asking.requests import Unsupported
from densespec_keras.float64 import keep_float64
from densespec_keras.losses import loss_of
from densespec_keras.optimizers import OPTIMIZERS, watched
from densespec_keras.states import moments_of, restore_moments, slots
from densespec_keras.variables import to_numpy

LEAVES = {
    **{name: name for name in ("kernel", "bias", "gamma", "beta")},
    "moving_mean": "running_mean",
    "moving_variance": "running_variance",
}


@contextlib.contextmanager
def computing_in(dtype: str) -> Iterator[None]:
    """Make models, and train them, in a dtype for a while.

    Keras keeps losses in ``floatx``, whatever the model's dtype, and layers without a dtype take
    the one of its global policy.

    Raises:
        Unsupported: Keras has no such dtype.
    """
    if dtype == "float64":
        keep_float64()
    before, floatx = keras.config.dtype_policy(), keras.config.floatx()
    try:
        keras.config.set_dtype_policy(dtype)
    except ValueError as error:
        raise Unsupported(f"Keras has no dtype {dtype!r}") from error
    keras.config.set_floatx(dtype if dtype == "float64" else floatx)
    try:
        yield
    finally:
        keras.config.set_floatx(floatx)
        keras.config.set_dtype_policy(before)


@contextlib.contextmanager
def making(dtype: str) -> Iterator[None]:
    """Seed generators, and give layers a dtype, while a constructor is called."""
    keras.utils.set_random_seed(0)
    with computing_in(dtype):
        yield


def adapt(made: object, dtype: str, dims: int) -> KerasNetwork | None:
    """Return the network, or None if it is not one of Keras.

    Raises:
        ConstructorError: The model is not built, or its layers' names do not tell them apart.
    """
    return KerasNetwork(made, dtype, dims) if isinstance(made, keras.Model) else None


class KerasNetwork:
    """Represents a model, nested or not, whose layers are told apart by their names."""

    containers = ("keras-weights", "keras", "keras-legacy")
    axes: Axes = "window_in_out"

    def __init__(self, model: Any, dtype: str, dims: int) -> None:
        self.model, self.dtype = model, dtype
        self._own: list[np.ndarray] = []
        if not model.built:
            raise ConstructorError(
                f"the {type(model).__name__} has no weights yet: call it on an input, or its "
                "build, before it is given"
            )
        self._layers = _named(_leaves(model))
        formats = [layer.data_format for layer in self._layers.values() if _has_format(layer)]
        self._format = formats[0] if formats else keras.config.image_data_format()
        self._sizes = _sizes(model, self._format) or (None,) * dims
        self.any_size = not any(self._sizes)

    @property
    def notes(self) -> tuple[str, ...]:
        kept = ", kept from demoting float64" if self.dtype == "float64" else ""
        return (f"Keras on {keras.backend.backend()}{kept}",)

    def arrays(self) -> dict[str, ForeignArray]:
        return {key: _array(key, variable) for key, variable in self._variables().items()}

    def _variables(self) -> dict[str, Any]:
        return {
            f"{layer.name}/{variable.name}": variable
            for layer in self._layers.values()
            for variable in layer.variables
            if variable.name in LEAVES or variable.trainable
        }

    def variables(self, keys: Mapping[str, str]) -> dict[str, Any]:
        """Return variables by canonical name, for the model's names of them."""
        own = self._variables()
        return {name: own[key] for name, key in keys.items()}

    def write(self, arrays: Mapping[str, np.ndarray]) -> None:
        own = self._variables()
        for key, array in arrays.items():
            own[key].assign(array)

    def load(self, path: Path) -> None:
        self.model.load_weights(path)

    def keep(self) -> None:
        self._own = [to_numpy(variable) for variable in self.model.variables]

    def reset(self) -> None:
        for variable, array in zip(self.model.variables, self._own, strict=True):
            variable.assign(array)

    def count_parameters(self) -> tuple[int, int]:
        groups = (self.model.trainable_weights, self.model.non_trainable_weights)
        trainable, others = (
            sum(math.prod(v.shape) for v in group if v.name in LEAVES) for group in groups
        )
        return trainable, others

    def run(self, x: np.ndarray, parts: Collection[str]) -> Observation:
        inputs: Arrays = {}
        outputs: Arrays = {}
        with contextlib.ExitStack() as stack:
            for name in parts:
                stack.enter_context(_watched(self._layers[name], self._see(name, inputs, outputs)))
            y = self.model(self.images(x), training=False)
        if not keras.ops.is_tensor(y):
            raise ConstructorError(
                f"the network gives a {type(y).__name__}, but should give one tensor"
            )
        return Observation(self._first(to_numpy(y)), inputs, outputs)

    def _see(self, name: str, inputs: Arrays, outputs: Arrays) -> Any:
        def see(x: Any, y: Any) -> None:
            inputs[name] = self._first(to_numpy(x))
            outputs[name] = self._first(to_numpy(y))

        return see

    def images(self, x: np.ndarray) -> Any:
        """Return an array, which is channels first, as the model's input.

        Raises:
            Unsupported: The model takes inputs of another size.
        """
        if not all(size in (None, got) for size, got in zip(self._sizes, x.shape[2:], strict=True)):
            sizes = "x".join(str(size or "any") for size in self._sizes)
            raise Unsupported(
                f"the model only takes inputs of {sizes}, and its constructor has no parameter "
                "input_shape: ask for that size with --input"
            )
        ordered = x if self._format == "channels_first" else np.moveaxis(x, 1, -1)
        return keras.ops.convert_to_tensor(np.ascontiguousarray(ordered), dtype=self.dtype)

    def _first(self, y: np.ndarray) -> np.ndarray:
        return y if self._format == "channels_first" else np.moveaxis(y, -1, 1)

    def trainer(self, keys: Mapping[str, str], graph: Graph, recipe: TrainingRecipe) -> Trainer:
        return ForeignKerasTrainer(self, keys, graph, recipe)


def _leaves(layer: Any) -> Iterator[Any]:
    """Yield the layers that hold variables of their own, however deep they are."""
    inner = list(layer._layers) if hasattr(layer, "_layers") else []
    if not inner and layer.variables:
        yield layer
    for one in inner:
        yield from _leaves(one)


def _named(layers: Iterator[Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for layer in layers:
        if found.setdefault(layer.name, layer) is not layer:
            raise ConstructorError(f"two layers of the model are called {layer.name!r}")
    return found


def _has_format(layer: Any) -> bool:
    return getattr(layer, "data_format", None) in ("channels_first", "channels_last")


def _sizes(model: Any, data_format: str) -> tuple[int | None, ...]:
    """Return the spatial sizes that the model is built for, None for any, or nothing if it does not
    say."""
    try:
        shape = tuple(model.input_shape)[1:]
    except (AttributeError, ValueError, TypeError):  # it is no functional model
        return ()
    return shape[1:] if data_format == "channels_first" else shape[:-1]


@contextlib.contextmanager
def _watched(layer: Any, see: Any) -> Iterator[None]:
    """Hand what a layer reads and gives to ``see``, as long as this lasts."""
    call = layer.call

    def watching(x: Any, *args: Any, **kwargs: Any) -> Any:
        y = call(x, *args, **kwargs)
        see(x, y)
        return y

    layer.call = watching
    try:
        yield
    finally:
        layer.call = call


def _array(key: str, variable: Any) -> ForeignArray:
    part, _, leaf = key.rpartition("/")
    kind = keras.backend.standardize_dtype(variable.dtype)
    tensor = Tensor(tuple(variable.shape), kind, lambda: to_numpy(variable))
    return ForeignArray(tensor, part, LEAVES.get(leaf, ""))


def _foreign_optimizer(recipe: TrainingRecipe, trained: Mapping[str, Any]) -> Any:
    """Make the recipe's optimizer for variables that have other names than densespec's layers.

    Args:
        trained: The variables by canonical name.
    """
    names = {id(variable): name for name, variable in trained.items()}

    class Foreign(watched(OPTIMIZERS[recipe.optimizer])):  # type: ignore[misc]
        def decay_of(self, variable: Any) -> float:
            return recipe.decay_of(names[id(variable)])

        def rate_factor_of(self, variable: Any) -> float:
            return recipe.rate_factor_of(names[id(variable)])

    return Foreign.from_recipe(recipe)


class ForeignKerasTrainer(ForeignTrainer):
    """Steps through Keras's own ``compile`` and ``train_on_batch``, with the loss and the optimizer
    that the Keras backends have.

    It is the network that is under test, not what its package puts around training, such as
    keras-hub's preprocessing.
    """

    def __init__(
        self, network: KerasNetwork, keys: Mapping[str, str], graph: Graph, recipe: TrainingRecipe
    ) -> None:
        super().__init__(network, keys, graph, recipe)
        self._images, self._model, self._dtype = network.images, network.model, network.dtype
        self._trained = network.variables(self._trainable_keys())
        with computing_in(self._dtype):
            self._optimizer = _foreign_optimizer(recipe, self._trained)
            loss = loss_of(recipe, dtype=self._dtype)
            keras.Model.compile(self._model, self._optimizer, loss)
            self._optimizer.build(self._model.trainable_variables)

    def step(
        self,
        x: np.ndarray,
        labels: np.ndarray,
        *,
        learning_rate: float,
        masks: Mapping[str, np.ndarray] | None = None,
        gradients: bool = True,
    ) -> StepResult:
        self._check_masks(masks)
        with computing_in(self._dtype):
            self._optimizer.learning_rate = learning_rate
            images = self._images(x)
            logs = keras.Model.train_on_batch(self._model, images, labels, return_dict=True)
        found = slots(self._optimizer, self._trained, "gradients") if gradients else {}
        return StepResult(float(logs["loss"]), found)

    def moments(self) -> dict[str, Arrays]:
        return moments_of(self._optimizer, self._trained)

    def restore(self, moments: OptimizerMoments, *, step: int) -> None:
        check_moments(self._graph, self._recipe, moments)
        restore_moments(self._optimizer, self._trained, moments, step)
