"""Averages a model's arrays beside them while they are trained, on every engine."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from densespec.network.arrays import Arrays
from densespec.recipes.recipe import TrainingRecipe
from densespec_keras.variables import canonical, from_canonical, to_numpy


class WeightAverage:
    """Averages variables by a recipe.

    ``use_ema`` of Keras's optimizers leaves running statistics out, and begins with a copy.

    Args:
        variables: the variables to average, by canonical name.
        compute: the function that runs a function without arguments on every replica; on one device
            it just calls it.
    """

    def __init__(
        self,
        variables: Mapping[str, Any],
        recipe: TrainingRecipe,
        compute: Callable[[Callable[[], None]], None] = lambda function: function(),
    ) -> None:
        self._recipe, self._variables = recipe, dict(variables)
        engine = ENGINES[keras.backend.backend()]
        self._averages = engine([*self._variables.values()], compute)

    def update(self, number: int) -> None:
        """Update the averages after a step, counted from 1."""
        self._averages.update(self._recipe.average_share(number))

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Let the model compute by the averages for a while."""
        before = [to_numpy(variable) for variable in self._variables.values()]
        self._assign(map(np.asarray, self._averages.read()))
        try:
            yield
        finally:
            self._assign(iter(before))

    def _assign(self, arrays: Iterator[np.ndarray]) -> None:
        for variable, array in zip(self._variables.values(), arrays, strict=True):
            variable.assign(array)

    def read(self) -> Arrays:
        """Return the averages by canonical name."""
        return canonical(dict(zip(self._variables, self._averages.read(), strict=True)))

    def write(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Replace the averages, whose names and shapes are known to fit."""
        self._averages.write([from_canonical(name, arrays[name]) for name in self._variables])


class _OnJax:
    _averages: list[Any]

    def __init__(self, variables: Sequence[Any], compute: Any) -> None:
        import jax

        self._variables = variables
        self.write([to_numpy(variable) for variable in variables])
        self._updated = jax.jit(
            lambda averages, arrays, share: [
                a + (share * (b - a)).astype(a.dtype) for a, b in zip(averages, arrays, strict=True)
            ],
            donate_argnums=0,
        )

    def update(self, share: float) -> None:
        arrays = [variable.value for variable in self._variables]
        self._averages = self._updated(self._averages, arrays, share)

    def read(self) -> list[np.ndarray]:
        return [to_numpy(average) for average in self._averages]

    def write(self, arrays: Sequence[np.ndarray]) -> None:
        import jax.numpy as jnp

        pairs = zip(self._variables, arrays, strict=True)
        self._averages = [jnp.array(array, variable.dtype) for variable, array in pairs]


class _OnTorch:
    def __init__(self, variables: Sequence[Any], compute: Any) -> None:
        self._arrays = [variable.value for variable in variables]
        self._averages = [array.detach().clone() for array in self._arrays]

    def update(self, share: float) -> None:
        import torch
        from torch.optim.swa_utils import get_ema_multi_avg_fn

        with torch.no_grad():
            average: Any = get_ema_multi_avg_fn(1 - share)  # type: ignore[no-untyped-call]
            average(self._averages, self._arrays, None)

    def read(self) -> list[np.ndarray]:
        return [to_numpy(average) for average in self._averages]

    def write(self, arrays: Sequence[np.ndarray]) -> None:
        import torch

        for average, array in zip(self._averages, arrays, strict=True):
            average.copy_(torch.as_tensor(np.ascontiguousarray(array)))


class _OnTensorFlow:
    """Lets each replica have averages of its own, as with running statistics: means are read."""

    def __init__(self, variables: Sequence[Any], compute: Any) -> None:
        import tensorflow as tf

        self._averages = [
            tf.Variable(
                to_numpy(variable),
                trainable=False,
                dtype=variable.dtype,
                synchronization=tf.VariableSynchronization.ON_READ,
                aggregation=tf.VariableAggregation.MEAN,
            )
            for variable in variables
        ]
        self._share = tf.Variable(0.0, trainable=False, dtype=variables[0].dtype)

        def take_up() -> None:
            for average, variable in zip(self._averages, variables, strict=True):
                average.assign_add(self._share * (variable.value - average))

        self._updated = tf.function(lambda: compute(take_up), autograph=False)

    def update(self, share: float) -> None:
        self._share.assign(share)
        self._updated()

    def read(self) -> list[np.ndarray]:
        return [np.mean([to_numpy(own) for own in _own(a)], axis=0) for a in self._averages]

    def write(self, arrays: Sequence[np.ndarray]) -> None:
        for average, array in zip(self._averages, arrays, strict=True):
            for own in _own(average):
                own.assign(array)


def _own(variable: Any) -> Sequence[Any]:
    """Return the variables of each replica, or the one that there is."""
    found: Sequence[Any] = getattr(variable, "values", (variable,))
    return found


ENGINES: Mapping[str, Any] = {"jax": _OnJax, "torch": _OnTorch, "tensorflow": _OnTensorFlow}
