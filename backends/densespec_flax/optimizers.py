"""Makes the recipe's optimizer with ``optax``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from densespec.recipes.optimizers import FIRST
from densespec.recipes.recipe import TrainingRecipe


def optimizer_of(recipe: TrainingRecipe, learning_rate: Any = None) -> Any:
    """Return the recipe's optimizer as an ``optax.GradientTransformation``, clipping included.

    It takes trees of parameters whose paths are densespec's names, such as
    ``nnx.state(model, nnx.Param)``: ``nnx.Optimizer(model, optimizer_of(recipe), wrt=nnx.Param)``.

    Args:
        learning_rate: A number, or a schedule of optax's such as :func:`schedule_of` gives; None
            for the recipe's highest learning rate.
    """
    rate = recipe.learning_rate if learning_rate is None else learning_rate
    clip, decay = recipe.clip_norm, _each(lambda n, g, w: g + recipe.decay_of(n) * w)
    decoupled = recipe.optimizer == "adamw"
    direction, gathered = _DIRECTIONS[recipe.optimizer](recipe)
    return optax.chain(
        optax.identity() if clip is None else optax.clip_by_global_norm(clip),
        optax.identity() if decoupled else decay,
        direction,
        decay if decoupled else optax.identity(),
        _each(lambda name, update, _: update * recipe.rate_factor_of(name)),
        optax.scale_by_learning_rate(rate, flip_sign=False),
        gathered,
        optax.scale(-1.0),
    )


def _sgd(recipe: TrainingRecipe) -> tuple[Any, Any]:
    velocity = optax.trace(recipe.momentum, recipe.nesterov)
    return velocity if recipe.momentum else optax.identity(), optax.identity()


def _adam(recipe: TrainingRecipe) -> tuple[Any, Any]:
    return optax.scale_by_adam(recipe.beta1, recipe.beta2, recipe.epsilon), optax.identity()


def _rmsprop(recipe: TrainingRecipe) -> tuple[Any, Any]:
    first = FIRST["mean_square"]
    root = optax.scale_by_rms(recipe.beta2, recipe.epsilon, initial_scale=first, eps_in_sqrt=True)
    return root, optax.trace(recipe.momentum)


_DIRECTIONS: Mapping[str, Callable[[TrainingRecipe], tuple[Any, Any]]] = {
    "sgd": _sgd,
    "adam": _adam,
    "adamw": _adam,
    "rmsprop": _rmsprop,
}
"""These give what is done to gradients before the learning rate and after it, by optimizer."""


def schedule_of(recipe: TrainingRecipe, steps_per_epoch: int) -> optax.Schedule:
    """Return the learning rate of a recipe by step, as :func:`optimizer_of` takes it.

    Raises:
        ValueError: There is no step in an epoch.
    """
    if steps_per_epoch < 1:
        raise ValueError(f"steps_per_epoch = {steps_per_epoch!r}, but should be at least 1")
    steps = range(recipe.epochs * steps_per_epoch)
    rates = jnp.asarray([recipe.rate_of_step(step, steps_per_epoch) for step in steps])
    return lambda step: rates[jnp.minimum(step, len(rates) - 1)]


# What it keeps

_MOMENTS = {
    optax.TraceState: {"velocity": "trace"},
    optax.ScaleByAdamState: {"first_moment": "mu", "second_moment": "nu"},
    optax.ScaleByRmsState: {"mean_square": "nu"},
}
"""Names the moments in optax's states."""


def moments_in(state: Any) -> dict[str, Any]:
    """Find the moments in a state of :func:`optimizer_of`, by the recipe's names."""
    return {
        moment: getattr(part, name)
        for part in state
        for moment, name in _MOMENTS.get(type(part), {}).items()
    }


def with_moments(state: Any, moments: Mapping[str, Any], step: int) -> Any:
    """Replace the moments of a state by others, as they were after so many steps."""

    def changed(part: Any) -> Any:
        names = _MOMENTS.get(type(part), {})
        fields = {name: moments[moment] for moment, name in names.items()}
        if isinstance(part, optax.ScaleByAdamState):
            fields["count"] = jnp.asarray(step, part.count.dtype)
        return part._replace(**fields) if fields else part

    return tuple(map(changed, state))


def _each(change: Callable[[str, Any, Any], Any]) -> Any:
    """Make a transformation without state of a change of each update by the parameter's name."""

    def update(updates: Any, params: Any) -> Any:
        def changed(path: Any, gradient: Any, weight: Any) -> Any:
            return change(_name(path), gradient, weight)

        return jax.tree_util.tree_map_with_path(changed, updates, params)

    return optax.stateless(update)


def _name(path: Any) -> str:
    """Return the name of a parameter by its path in a tree of Flax's or of plain tables."""
    parts = [str(getattr(key, "key", getattr(key, "name", key))) for key in path]
    return ".".join(part for part in parts if part != "value")
