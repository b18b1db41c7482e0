"""Defines the recipe's optimizers as ``keras.optimizers.Optimizer``, each of which can be saved."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import keras
from keras import ops

from densespec.recipes.optimizers import FIRST
from densespec.recipes.recipe import TrainingRecipe
from densespec.recipes.schedules import FALLING, STEPS


class RecipeOptimizer(keras.optimizers.Optimizer):
    """Holds what recipes' optimizers share: decay and learning rates by weight, and clipping.

    Attributes:
        moments: the names of the arrays that are kept of each weight, as in
            :mod:`densespec.recipes.optimizers`. After the optimizer is built, the arrays are
            attributes with these names.
    """

    moments: tuple[str, ...] = ()
    NAMES: ClassVar[tuple[str, ...]]
    """Recipes call the optimizer by one of these names."""

    def __init__(
        self,
        learning_rate: Any,
        weight_decay: float,
        decay_kernels_only: bool,
        layer_rates: Mapping[str, float] | None,
        **kwargs: Any,
    ) -> None:
        if "decay" in kwargs:
            raise ValueError(
                f"decay, which Keras once had for the learning rate, is no argument of this "
                f"{type(self).__name__}: give weight_decay for L2 decay, or a schedule for the "
                "learning rate"
            )
        super().__init__(learning_rate=learning_rate, **kwargs)
        if not weight_decay >= 0:
            raise ValueError(f"weight_decay = {weight_decay!r}, but should be at least 0")
        self.own_decay, self.decay_kernels_only = weight_decay, decay_kernels_only
        self.layer_rates = dict(layer_rates or {})

    @classmethod
    def from_recipe(cls, recipe: TrainingRecipe, **kwargs: Any) -> Any:
        """Make the optimizer of a recipe, at its first learning rate.

        ``keras.callbacks.LearningRateScheduler(recipe.learning_rate_at)`` lets the rate drop if
        rates hold for epochs. Or give ``learning_rate=schedule(recipe, steps_per_epoch)``. If the
        recipe accumulates, a batch of ``fit`` is one of the parts, which all have the same size.

        Raises:
            ValueError: the recipe trains by another optimizer.
        """
        if recipe.optimizer not in cls.NAMES:
            raise ValueError(
                f"the recipe trains by {recipe.optimizer!r}, which {cls.__name__} is not: "
                "optimizer_of(recipe) gives the one of any recipe"
            )
        options: dict[str, Any] = {
            "learning_rate": recipe.learning_rate,
            "weight_decay": recipe.weight_decay,
            "decay_kernels_only": recipe.decay_kernels_only,
            "layer_rates": dict(recipe.layer_rates),
            "global_clipnorm": recipe.clip_norm,
            "gradient_accumulation_steps": recipe.accumulate if recipe.accumulate > 1 else None,
        }
        return cls(**options | cls._constants(recipe) | kwargs)

    @classmethod
    def _constants(cls, recipe: TrainingRecipe) -> dict[str, Any]:
        """Return the arguments that this optimizer alone has."""
        raise NotImplementedError

    @property
    def kept(self) -> tuple[str, ...]:
        """Return the names of the moments that have a meaning with these constants."""
        return self.moments

    def build(self, variables: Any) -> None:
        if self.built:
            return
        super().build(variables)
        for moment in self.moments:
            first = keras.initializers.Constant(FIRST.get(moment, 0.0))
            setattr(self, moment, self.add_optimizer_variables(variables, moment, first))
        self._decays = [self.decay_of(variable) for variable in variables]
        self._factors = [self.rate_factor_of(variable) for variable in variables]

    def decay_of(self, variable: Any) -> float:
        """Return the coefficient of a variable's weight decay."""
        spared = self.decay_kernels_only and variable.name != "kernel"
        excluded = not self._use_weight_decay(variable)  # by exclude_from_weight_decay
        return 0.0 if spared or excluded else self.own_decay

    def rate_factor_of(self, variable: Any) -> float:
        """Return the factor on a variable's learning rate, which its path tells."""
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
        self.move(index, variable, ops.cast(gradient, variable.dtype), rate, self._decays[index])

    def move(self, index: int, variable: Any, gradient: Any, rate: Any, decay: float) -> None:
        """Update a variable and what is kept of it, which is at ``index``."""
        raise NotImplementedError

    def _clip_gradients(self, grads: Any) -> Any:
        """Clip by the norm over all devices; of Keras's own, each device takes its part alone."""
        if not self.global_clipnorm:
            return super()._clip_gradients(grads)
        squares = [ops.sum(ops.square(gradient)) for gradient in _over_replicas(grads)]
        factor = ops.minimum(self.global_clipnorm / ops.sqrt(sum(squares)), 1.0)
        return [gradient * ops.cast(factor, gradient.dtype) for gradient in grads]

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {
            "weight_decay": self.own_decay,
            "decay_kernels_only": self.decay_kernels_only,
            "layer_rates": dict(self.layer_rates),
        }


def _over_replicas(gradients: Any) -> Any:
    """Sum up gradients over TensorFlow's replicas; elsewhere, gradients are whole."""
    if keras.backend.backend() != "tensorflow":
        return gradients
    import tensorflow as tf

    replica = tf.distribute.get_replica_context()
    if replica is None or replica.num_replicas_in_sync == 1:
        return gradients
    return replica.all_reduce(tf.distribute.ReduceOp.SUM, list(gradients))


@keras.saving.register_keras_serializable(package="densespec")
class SGD(RecipeOptimizer):
    """This is SGD whose velocity holds no learning rate, with weight decay as part of the gradient.

    Per weight: ``g += weight_decay * w``; ``v = momentum * v + g``; then with Nesterov momentum
    ``w -= lr * (g + momentum * v)``, without it ``w -= lr * v``. This is the rule of Torch7 and
    ``torch.optim.SGD``. ``keras.optimizers.SGD`` differs from it as soon as the learning rate
    changes, and decays weights apart from the gradient.

    Args:
        learning_rate: a number or a ``LearningRateSchedule``.
        momentum: the share of the velocity that is kept at each step, in [0, 1).
        nesterov: whether momentum looks ahead.
        weight_decay: the coefficient of coupled L2 decay.
        decay_kernels_only: whether norms and biases are spared from weight decay.
        layer_rates: the factors on the learning rate by the name of a part of the network, such as
            ``{"block4": 0.1, "classifier": 2}``. A name fits the layer with that name, and layers
            whose names continue it with an underscore. The longest name that fits counts.
        **kwargs: of ``keras.optimizers.Optimizer``: ``global_clipnorm``, ``loss_scale_factor``, ...
    """

    moments = ("velocity",)
    NAMES = ("sgd",)

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
        super().__init__(
            learning_rate, weight_decay, decay_kernels_only, layer_rates, name=name, **kwargs
        )
        _check_share("momentum", momentum)
        self.momentum, self.nesterov = momentum, nesterov

    @classmethod
    def _constants(cls, recipe: TrainingRecipe) -> dict[str, Any]:
        return {"momentum": recipe.momentum, "nesterov": recipe.nesterov}

    @property
    def kept(self) -> tuple[str, ...]:
        """Return the velocity's name, and none without momentum."""
        return self.moments if self.momentum else ()

    def move(self, index: int, variable: Any, gradient: Any, rate: Any, decay: float) -> None:
        velocity = self.velocity[index]
        if decay:
            gradient = gradient + decay * variable
        moved = self.momentum * velocity + gradient
        self.assign(velocity, moved)
        ahead = gradient + self.momentum * moved if self.nesterov else moved
        self.assign_sub(variable, rate * ahead)

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"momentum": self.momentum, "nesterov": self.nesterov}


@keras.saving.register_keras_serializable(package="densespec")
class Adam(RecipeOptimizer):
    """This is Adam with epsilon outside the root of the corrected second moment, as in its paper.

    Per weight, in step t from 1: ``g += weight_decay * w``; ``m = beta_1 * m + (1 - beta_1) * g``;
    ``s = beta_2 * s + (1 - beta_2) * g**2``; then
    ``w -= lr * (m / (1 - beta_1**t)) / (sqrt(s / (1 - beta_2**t)) + epsilon)``: the rule of
    ``torch.optim.Adam`` and ``optax.adam``. ``keras.optimizers.Adam`` adds epsilon to the root of
    ``s`` as it is, before the correction, and decays weights apart from the gradient.

    Args:
        learning_rate: a number or a ``LearningRateSchedule``.
        beta_1: the share of the first moment that is kept at each step, in [0, 1).
        beta_2: the share of the second moment that is kept at each step, in [0, 1).
        epsilon: the number that is added to the root of the corrected second moment.
        weight_decay: the coefficient of coupled L2 decay.
        decay_kernels_only, layer_rates, kwargs: as of :class:`SGD`.
    """

    moments = ("first_moment", "second_moment")
    NAMES = ("adam",)
    DECOUPLED: ClassVar[bool] = False

    def __init__(
        self,
        learning_rate: Any = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        weight_decay: float = 0.0,
        decay_kernels_only: bool = False,
        layer_rates: Mapping[str, float] | None = None,
        name: str = "Adam",
        **kwargs: Any,
    ) -> None:
        super().__init__(
            learning_rate, weight_decay, decay_kernels_only, layer_rates, name=name, **kwargs
        )
        _check_share("beta_1", beta_1)
        _check_share("beta_2", beta_2)
        self.beta_1, self.beta_2, self.epsilon = beta_1, beta_2, epsilon

    @classmethod
    def _constants(cls, recipe: TrainingRecipe) -> dict[str, Any]:
        return {"beta_1": recipe.beta1, "beta_2": recipe.beta2, "epsilon": recipe.epsilon}

    def move(self, index: int, variable: Any, gradient: Any, rate: Any, decay: float) -> None:
        first, second = self.first_moment[index], self.second_moment[index]
        if decay and not self.DECOUPLED:
            gradient = gradient + decay * variable
        moved = self.beta_1 * first + (1 - self.beta_1) * gradient
        spread = self.beta_2 * second + (1 - self.beta_2) * ops.square(gradient)
        self.assign(first, moved)
        self.assign(second, spread)
        size = ops.sqrt(spread / self._correction(self.beta_2, variable.dtype)) + self.epsilon
        ahead = moved / self._correction(self.beta_1, variable.dtype) / size
        if decay and self.DECOUPLED:
            ahead = ahead + decay * variable
        self.assign_sub(variable, rate * ahead)

    def _correction(self, beta: float, dtype: str) -> Any:
        """Return the divisor that corrects the bias of a moment in this step."""
        number = ops.cast(self.iterations + 1, dtype)
        return 1 - ops.power(ops.convert_to_tensor(beta, dtype), number)

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {
            "beta_1": self.beta_1,
            "beta_2": self.beta_2,
            "epsilon": self.epsilon,
        }


@keras.saving.register_keras_serializable(package="densespec")
class AdamW(Adam):
    """This is :class:`Adam` with weight decay apart from the gradient and the moments.

    Per weight, the step also takes ``lr * weight_decay * w``, with w before the step. This is the
    rule of ``torch.optim.AdamW`` and ``optax.adamw``. In ``keras.optimizers.AdamW`` epsilon stands
    elsewhere.
    """

    NAMES = ("adamw",)
    DECOUPLED = True

    def __init__(
        self,
        learning_rate: Any = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        weight_decay: float = 0.01,
        name: str = "AdamW",
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate, beta_1, beta_2, epsilon, weight_decay, name=name, **kwargs)


@keras.saving.register_keras_serializable(package="densespec")
class RMSProp(RecipeOptimizer):
    """Moves weights by RMSProp as TensorFlow 1 had it, with mean squares that start at one.

    Per weight: ``g += weight_decay * w``; ``s = rho * s + (1 - rho) * g**2``;
    ``v = momentum * v + lr * g / sqrt(s + epsilon)``; then ``w -= v``: the rule of timm's
    ``rmsproptf``. ``keras.optimizers.RMSprop`` starts at zero and decays weights apart from the
    gradient.

    Args:
        learning_rate: a number or a ``LearningRateSchedule``.
        rho: the share of the mean square that is kept at each step, in [0, 1).
        momentum: the share of the velocity that is kept at each step, in [0, 1).
        epsilon: what is added to the mean square.
        weight_decay: coefficient of coupled L2 decay.
        decay_kernels_only, layer_rates, kwargs: as of :class:`SGD`.
    """

    moments = ("mean_square", "velocity")
    NAMES = ("rmsprop",)

    def __init__(
        self,
        learning_rate: Any = 0.01,
        rho: float = 0.9,
        momentum: float = 0.9,
        epsilon: float = 1e-3,
        weight_decay: float = 0.0,
        decay_kernels_only: bool = False,
        layer_rates: Mapping[str, float] | None = None,
        name: str = "RMSProp",
        **kwargs: Any,
    ) -> None:
        super().__init__(
            learning_rate, weight_decay, decay_kernels_only, layer_rates, name=name, **kwargs
        )
        _check_share("rho", rho)
        _check_share("momentum", momentum)
        self.rho, self.momentum, self.epsilon = rho, momentum, epsilon

    @classmethod
    def _constants(cls, recipe: TrainingRecipe) -> dict[str, Any]:
        return {"rho": recipe.beta2, "momentum": recipe.momentum, "epsilon": recipe.epsilon}

    def move(self, index: int, variable: Any, gradient: Any, rate: Any, decay: float) -> None:
        if decay:
            gradient = gradient + decay * variable
        square = self.rho * self.mean_square[index] + (1 - self.rho) * ops.square(gradient)
        ahead = rate * gradient / ops.sqrt(square + self.epsilon)
        moved = self.momentum * self.velocity[index] + ahead
        self.assign(self.mean_square[index], square)
        self.assign(self.velocity[index], moved)
        self.assign_sub(variable, moved)

    def get_config(self) -> dict[str, Any]:
        constants = {"rho": self.rho, "momentum": self.momentum, "epsilon": self.epsilon}
        return super().get_config() | constants


OPTIMIZERS: Mapping[str, type[RecipeOptimizer]] = {
    name: kind for kind in (SGD, Adam, AdamW, RMSProp) for name in kind.NAMES
}
"""Gives the optimizers by the names that recipes have for them."""


def optimizer_of(recipe: TrainingRecipe, **kwargs: Any) -> RecipeOptimizer:
    """Make the optimizer of a recipe; see :meth:`RecipeOptimizer.from_recipe`."""
    optimizer: RecipeOptimizer = OPTIMIZERS[recipe.optimizer].from_recipe(recipe, **kwargs)
    return optimizer


class Watching:
    """Lets optimizers keep the gradients of their last step, as ``fit`` handed them over.

    Each has a place that adds up what replicas write to it.
    """

    def build(self: Any, variables: Any) -> None:
        if self.built:
            return
        super().build(variables)  # type: ignore[misc]
        self.gradients = [
            self.add_variable(v.shape, dtype=v.dtype, aggregation="sum", name=f"gradient_{index}")
            for index, v in enumerate(variables)
        ]

    def apply(self: Any, grads: Any, trainable_variables: Any = None) -> None:
        variables = (
            self._trainable_variables if trainable_variables is None else trainable_variables
        )
        for gradient, variable in zip(grads, variables, strict=True):
            self.assign(self.gradients[self._get_variable_index(variable)], gradient)
        super().apply(grads, trainable_variables)  # type: ignore[misc]


def watched(kind: type[RecipeOptimizer]) -> type[RecipeOptimizer]:
    """Make an optimizer's class whose instances also keep the gradients of their last step."""
    return type(f"Watched{kind.__name__}", (Watching, kind), {})


def _check_share(name: str, value: float) -> None:
    if not 0 <= value < 1:
        raise ValueError(f"{name} = {value!r}, but should be in [0, 1)")


def _begins_with(path: str, part: str) -> bool:
    """Say whether a path belongs to a part. ``dense`` is no part of ``dense_1/kernel``."""
    return re.match(rf"{re.escape(part)}(/|_(?!\d+(/|_)))", path) is not None


@keras.saving.register_keras_serializable(package="densespec")
class StepwiseRate(keras.optimizers.schedules.LearningRateSchedule):
    """This is a learning rate that changes at given steps, in ``floatx``.

    ``keras.optimizers.schedules.PiecewiseConstantDecay`` is in float32 on TensorFlow, even where
    ``floatx`` is float64.

    Args:
        changes: the first steps at the second rate, the third, ..., counted from 0.
        rates: the learning rates, one more than there are changes.
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


@keras.saving.register_keras_serializable(package="densespec")
class RecipeRate(keras.optimizers.schedules.LearningRateSchedule):
    """This is the learning rate of a recipe by step, worked out at each step, in ``floatx``.

    Args:
        recipe: the recipe, or its fields by name.
        steps_per_epoch: the number of steps in an epoch.
    """

    def __init__(self, recipe: Any, steps_per_epoch: int) -> None:
        super().__init__()
        given = isinstance(recipe, TrainingRecipe)
        self.recipe = recipe if given else TrainingRecipe.from_dict(recipe)
        self.steps_per_epoch = steps_per_epoch

    def __call__(self, step: Any) -> Any:
        recipe, per = self.recipe, self.steps_per_epoch
        step = ops.cast(step, "int32")
        if recipe.rate_per == "epoch":
            step, per = step // per, 1
        at = ops.cast(step, keras.config.floatx())
        warmup = recipe.warmup_steps or recipe.warmup_epochs * per
        rising = recipe.warmup_start + (1 - recipe.warmup_start) * at / (warmup or 1)
        steady = self._after(at, warmup, per)
        return ops.where(at < warmup, recipe.learning_rate * rising, steady)

    def _after(self, at: Any, warmup: float, per: int) -> Any:
        recipe = self.recipe
        if recipe.schedule == STEPS:
            drops = sum((ops.cast(at >= d * per, at.dtype) for d in recipe.drop_epochs()), 0 * at)
            return recipe.learning_rate * ops.power(
                ops.convert_to_tensor(recipe.gamma, at.dtype), drops
            )
        if recipe.schedule not in FALLING:
            return ops.full_like(at, recipe.learning_rate)
        done = (at - warmup) / (recipe.epochs * per - warmup)
        left = 1 - done if recipe.schedule == "linear" else (1 + ops.cos(math.pi * done)) / 2
        return recipe.final_rate + (recipe.learning_rate - recipe.final_rate) * left

    def get_config(self) -> dict[str, Any]:
        return {"recipe": self.recipe.to_dict(), "steps_per_epoch": self.steps_per_epoch}


def schedule(recipe: TrainingRecipe, steps_per_epoch: int) -> float | StepwiseRate | RecipeRate:
    """Return the learning rate of a recipe by step, as ``SGD(learning_rate=...)`` takes it.

    It is a number if the rate never changes.
    """
    if steps_per_epoch < 1:
        raise ValueError(f"steps_per_epoch = {steps_per_epoch!r}, but should be at least 1")
    if not recipe.holds_rates:
        return RecipeRate(recipe, steps_per_epoch)
    rates = recipe.learning_rates()
    if len(rates) == 1:
        return rates[0]
    return StepwiseRate([epoch * steps_per_epoch for epoch in rates if epoch], [*rates.values()])
