"""SGD as the paper trained with: the recipe's step as a ``keras.optimizers.Optimizer``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras import ops

from densespec.recipes.recipe import TrainingRecipe


@keras.saving.register_keras_serializable(package="densespec")
class SGD(keras.optimizers.Optimizer):
    """SGD whose velocity holds no learning rate and whose weight decay is part of the gradient.

    Per weight: ``g += weight_decay * w``; ``v = momentum * v + g``; then with Nesterov momentum
    ``w -= lr * (g + momentum * v)``, without ``w -= lr * v``: the rule of Torch7 and
    ``torch.optim.SGD``. ``keras.optimizers.SGD`` differs from it as soon as the learning rate
    changes, and decays weights apart from the gradient.

    Args:
        learning_rate: a number or a ``LearningRateSchedule``.
        momentum: the share of the velocity that is kept at each step, in [0, 1).
        nesterov: whether momentum looks ahead.
        weight_decay: coefficient of coupled L2 decay.
        decay_kernels_only: whether norms and biases are spared from weight decay.
        layer_rates: factors on the learning rate by the name of a part of the network, such as
            ``{"block4": 0.1, "classifier": 2}``: it fits the layer of that name, and layers whose
            names go on after it with an underscore. The longest name that fits counts.
        **kwargs: of ``keras.optimizers.Optimizer``: ``clipnorm``, ``loss_scale_factor``, ...
    """

    def __init__(
        self,
        learning_rate: Any = 0.1,
        momentum: float = 0.9,
        nesterov: bool = True,
        weight_decay: float = 1e-4,
        decay_kernels_only: bool = False,
        layer_rates: Mapping[str, float] | None = None,
        name: str = "SGD",
        **kwargs: Any,
    ) -> None:
        if "decay" in kwargs:
            raise ValueError(
                "decay, which Keras once had for the learning rate, is no argument of this SGD: "
                "give weight_decay for L2 decay, or a schedule for the learning rate"
            )
        super().__init__(learning_rate=learning_rate, name=name, **kwargs)
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum = {momentum!r}, but should be in [0, 1)")
        if not weight_decay >= 0:
            raise ValueError(f"weight_decay = {weight_decay!r}, but should be at least 0")
        self.momentum, self.nesterov = momentum, nesterov
        self.coupled_decay, self.decay_kernels_only = weight_decay, decay_kernels_only
        self.layer_rates = dict(layer_rates or {})

    @classmethod
    def from_recipe(cls, recipe: TrainingRecipe, **kwargs: Any) -> SGD:
        """The optimizer of a recipe, at its first learning rate.

        ``keras.callbacks.LearningRateScheduler(recipe.learning_rate_at)`` lets it drop; or give
        ``learning_rate=schedule(recipe, steps_per_epoch)``.
        """
        return cls(
            learning_rate=kwargs.pop("learning_rate", recipe.learning_rate),
            momentum=recipe.momentum,
            nesterov=recipe.nesterov,
            weight_decay=recipe.weight_decay,
            decay_kernels_only=recipe.decay_kernels_only,
            layer_rates=dict(recipe.layer_rates),
            **kwargs,
        )

    def build(self, variables: Any) -> None:
        if self.built:
            return
        super().build(variables)
        self.velocities = self.add_optimizer_variables(variables, "velocity")
        self._decays = [self.decay_of(variable) for variable in variables]
        self._factors = [self.rate_factor_of(variable) for variable in variables]

    def decay_of(self, variable: Any) -> float:
        """The coefficient of a variable's weight decay."""
        spared = self.decay_kernels_only and variable.name != "kernel"
        excluded = not self._use_weight_decay(variable)  # by exclude_from_weight_decay
        return 0.0 if spared or excluded else self.coupled_decay

    def rate_factor_of(self, variable: Any) -> float:
        """What a variable's learning rate is multiplied by, which its path tells."""
        path = getattr(variable, "path", variable.name)
        fitting = [
            (len(part), factor)
            for part, factor in self.layer_rates.items()
            if _begins_with(path, part.replace(".", "_"))
        ]
        return max(fitting, default=(0, 1.0))[1]

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        index = self._get_variable_index(variable)
        rate = ops.cast(learning_rate, variable.dtype)
        if self._factors[index] != 1:
            rate = rate * self._factors[index]
        gradient = ops.cast(gradient, variable.dtype)
        velocity, decay = self.velocities[index], self._decays[index]
        if decay:
            gradient = gradient + decay * variable
        moved = self.momentum * velocity + gradient
        self.assign(velocity, moved)
        ahead = gradient + self.momentum * moved if self.nesterov else moved
        self.assign_sub(variable, rate * ahead)

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {
            "momentum": self.momentum,
            "nesterov": self.nesterov,
            "weight_decay": self.coupled_decay,
            "decay_kernels_only": self.decay_kernels_only,
            "layer_rates": dict(self.layer_rates),
        }


class WatchedSGD(SGD):
    """SGD that keeps the gradients of its last step, as ``fit`` handed them over."""

    def build(self, variables: Any) -> None:
        if self.built:
            return
        super().build(variables)
        self.gradients = self.add_optimizer_variables(variables, "gradient")

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        self.assign(self.gradients[self._get_variable_index(variable)], gradient)
        super().update_step(gradient, variable, learning_rate)


def _begins_with(path: str, part: str) -> bool:
    """Whether a variable's path is of a part. ``dense`` is no part of ``dense_1/kernel``."""
    return re.match(rf"{re.escape(part)}(/|_(?!\d+(/|_)))", path) is not None


@keras.saving.register_keras_serializable(package="densespec")
class StepwiseRate(keras.optimizers.schedules.LearningRateSchedule):
    """A learning rate that changes at given steps, in ``floatx``.

    ``keras.optimizers.schedules.PiecewiseConstantDecay`` is in float32 on TensorFlow, even where
    ``floatx`` is float64.

    Args:
        changes: the first steps at the second rate, the third, ..., counted from 0.
        rates: one more than changes.
    """

    def __init__(self, changes: Sequence[int], rates: Sequence[float]) -> None:
        super().__init__()
        self.changes, self.rates = list(changes), list(rates)
        if len(self.rates) != len(self.changes) + 1:
            raise ValueError(
                f"{len(self.changes)} changes between {len(self.rates)} rates, but there should be "
                "one rate more than changes"
            )

    def __call__(self, step: Any) -> Any:
        step = ops.cast(step, "int32")
        index = sum(ops.cast(step >= change, "int32") for change in self.changes)
        return ops.take(ops.convert_to_tensor(self.rates, keras.config.floatx()), index)

    def get_config(self) -> dict[str, Any]:
        return {"changes": self.changes, "rates": self.rates}


def schedule(recipe: TrainingRecipe, steps_per_epoch: int) -> float | StepwiseRate:
    """The learning rate of a recipe by step, as ``SGD(learning_rate=...)`` takes it.

    A number where the rate never drops.
    """
    if steps_per_epoch < 1:
        raise ValueError(f"steps_per_epoch = {steps_per_epoch!r}, but should be at least 1")
    rates = recipe.learning_rates()
    if len(rates) == 1:
        return rates[0]
    return StepwiseRate([epoch * steps_per_epoch for epoch in rates if epoch], [*rates.values()])
