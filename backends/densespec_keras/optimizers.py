"""SGD as the paper trained with: the recipe's step as a ``keras.optimizers.Optimizer``."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from densespec.recipe import TrainingRecipe


@keras.saving.register_keras_serializable(package="densespec")
class SGD(keras.optimizers.Optimizer):
    """SGD whose velocity holds no learning rate and whose weight decay is part of the gradient.

    Per weight: ``g += weight_decay * w``; ``v = momentum * v + g``; then with Nesterov momentum
    ``w -= lr * (g + momentum * v)``, without ``w -= lr * v``: the rule of Torch7 and
    ``torch.optim.SGD``. ``keras.optimizers.SGD`` differs from it as soon as the learning rate
    changes, and decays weights apart from the gradient.

    Args:
        learning_rate: a number or a ``LearningRateSchedule``.
        momentum: in [0, 1).
        nesterov: whether momentum looks ahead.
        weight_decay: coefficient of coupled L2 decay.
        decay_kernels_only: whether norms and biases are spared from weight decay.
        **kwargs: of ``keras.optimizers.Optimizer``: ``clipnorm``, ``loss_scale_factor``, ...
    """

    def __init__(
        self,
        learning_rate: Any = 0.1,
        momentum: float = 0.9,
        nesterov: bool = True,
        weight_decay: float = 1e-4,
        decay_kernels_only: bool = False,
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

    @classmethod
    def from_recipe(cls, recipe: TrainingRecipe, **kwargs: Any) -> SGD:
        """The optimizer of a recipe, at its first learning rate.

        ``keras.callbacks.LearningRateScheduler(recipe.learning_rate_at)`` lets it drop.
        """
        return cls(
            learning_rate=recipe.learning_rate,
            momentum=recipe.momentum,
            nesterov=recipe.nesterov,
            weight_decay=recipe.weight_decay,
            decay_kernels_only=recipe.decay_kernels_only,
            **kwargs,
        )

    def build(self, variables: Any) -> None:
        if self.built:
            return
        super().build(variables)
        self.velocities = self.add_optimizer_variables(variables, "velocity")
        self._decays = [self._decay_of(variable) for variable in variables]

    def _decay_of(self, variable: Any) -> float:
        spared = self.decay_kernels_only and variable.name != "kernel"
        excluded = not self._use_weight_decay(variable)  # by exclude_from_weight_decay
        return 0.0 if spared or excluded else self.coupled_decay

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        rate = ops.cast(learning_rate, variable.dtype)
        gradient = ops.cast(gradient, variable.dtype)
        index = self._get_variable_index(variable)
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
        }
