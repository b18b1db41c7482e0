"""The recipe's optimizer and loss, as ``optax`` has them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from densespec.recipes.recipe import TrainingRecipe


def optimizer_of(recipe: TrainingRecipe, learning_rate: Any = None) -> Any:
    """Give the recipe's SGD as an ``optax.GradientTransformation``.

    It takes trees of parameters whose paths are densespec's names, such as
    ``nnx.state(model, nnx.Param)``: ``nnx.Optimizer(model, optimizer_of(recipe), wrt=nnx.Param)``.

    Args:
        learning_rate: A number, or a schedule of optax's such as :func:`schedule_of` gives; None
            for the recipe's first learning rate.
    """
    rate = recipe.learning_rate if learning_rate is None else learning_rate
    return optax.chain(
        _each(lambda name, gradient, weight: gradient + recipe.decay_of(name) * weight),
        optax.trace(recipe.momentum, recipe.nesterov) if recipe.momentum else optax.identity(),
        _each(lambda name, update, _: update * recipe.rate_factor_of(name)),
        optax.scale_by_learning_rate(rate),
    )


def schedule_of(recipe: TrainingRecipe, steps_per_epoch: int) -> optax.Schedule:
    """Give the learning rate of a recipe by step, as :func:`optimizer_of` takes it.

    Raises:
        ValueError: There is no step in an epoch.
    """
    if steps_per_epoch < 1:
        raise ValueError(f"steps_per_epoch = {steps_per_epoch!r}, but should be at least 1")
    rates = recipe.learning_rates()
    return optax.join_schedules(
        [optax.constant_schedule(rate) for rate in rates.values()],
        [epoch * steps_per_epoch for epoch in rates if epoch],
    )


def loss_of(recipe: TrainingRecipe) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """Give the recipe's loss: of logits (batch, classes) and integers (batch,), their mean."""

    def loss(logits: jax.Array, labels: jax.Array) -> jax.Array:
        return losses(recipe, logits, labels).mean()

    return loss


def losses(recipe: TrainingRecipe, logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Compute the recipe's loss of each sample, in float32 or wider."""
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    target = jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
    return optax.softmax_cross_entropy(logits, optax.smooth_labels(target, recipe.label_smoothing))


def _each(change: Callable[[str, Any, Any], Any]) -> Any:
    """Make a transformation without state of a change of each update by the parameter's name."""

    def update(updates: Any, params: Any) -> Any:
        def changed(path: Any, gradient: Any, weight: Any) -> Any:
            return change(_name(path), gradient, weight)

        return jax.tree_util.tree_map_with_path(changed, updates, params)

    return optax.stateless(update)


def _name(path: Any) -> str:
    """Give the name of a parameter by its path in a tree of Flax's or of plain tables."""
    parts = [str(getattr(key, "key", getattr(key, "name", key))) for key in path]
    return ".".join(part for part in parts if part != "value")
