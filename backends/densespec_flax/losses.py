"""Computes the recipe's loss, in float32 or wider."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from densespec.recipes.recipe import TrainingRecipe


def loss_of(recipe: TrainingRecipe) -> Callable[[Any, Any], jax.Array]:
    """Return the recipe's loss of logits (batch, classes) and labels: the mean over the batch.

    Labels are integers (batch,) with ``softmax``, and numbers (batch, classes) otherwise, or where
    the recipe mixes images.
    """

    def loss(logits: Any, labels: Any) -> jax.Array:
        return losses(recipe, logits, labels).mean()

    return loss


def losses(recipe: TrainingRecipe, logits: Any, labels: Any) -> jax.Array:
    """Compute the recipe's loss of each sample."""
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    return _KINDS[recipe.loss](recipe, logits, jnp.asarray(labels))


def _softmax(recipe: TrainingRecipe, logits: Any, labels: Any) -> jax.Array:
    classes, smoothing = logits.shape[-1], recipe.label_smoothing
    shares = labels if labels.ndim == 2 else jax.nn.one_hot(labels, classes)
    weighed = shares.astype(logits.dtype) * jnp.asarray(recipe.class_weights or 1, logits.dtype)
    spread = smoothing / classes * weighed.sum(-1, keepdims=True)
    return optax.softmax_cross_entropy(logits, (1 - smoothing) * weighed + spread)


def _sigmoid(recipe: TrainingRecipe, logits: Any, labels: Any) -> jax.Array:
    known = labels >= 0
    smoothing = recipe.label_smoothing
    target = jnp.where(known, labels, 0).astype(logits.dtype) * (1 - smoothing) + smoothing / 2
    positive = jnp.asarray(recipe.positive_weights or 1.0, logits.dtype)
    each = -positive * target * jax.nn.log_sigmoid(logits)
    each -= (1 - target) * jax.nn.log_sigmoid(-logits)
    return jnp.where(known, each, 0).mean(-1)


def _squared(recipe: TrainingRecipe, logits: Any, labels: Any) -> jax.Array:
    known = ~jnp.isnan(labels)
    apart = logits - jnp.where(known, labels, 0).astype(logits.dtype)
    return jnp.where(known, jnp.square(apart), 0).mean(-1)


_KINDS: dict[str, Callable[[TrainingRecipe, Any, Any], jax.Array]] = {
    "softmax": _softmax,
    "sigmoid": _sigmoid,
    "squared": _squared,
}
