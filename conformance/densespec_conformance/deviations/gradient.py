"""Gradients that are not those of the loss."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from densespec.network.arrays import Arrays
from densespec.recipes.recipe import TrainingRecipe
from densespec_conformance.deviations.deviation import Deviation

Seen = Callable[[Arrays, Arrays, TrainingRecipe], Arrays]


def _with_decay(gradients: Arrays, weights: Arrays, recipe: TrainingRecipe) -> Arrays:
    return {name: g + recipe.decay_of(name) * weights[name] for name, g in gradients.items()}


def _clipped_by_norm(margin: float) -> Seen:
    """Clip gradients to a norm of 1; the margin is added to the norm that is divided by."""

    def clipped(gradients: Arrays, weights: Arrays, recipe: TrainingRecipe) -> Arrays:
        length = np.sqrt(sum(float((g**2).sum()) for g in gradients.values()))
        return {name: g * min(1.0, 1.0 / (length + margin)) for name, g in gradients.items()}

    return clipped


def _clipped_by_value(gradients: Arrays, weights: Arrays, recipe: TrainingRecipe) -> Arrays:
    return {name: np.clip(g, -1.0, 1.0) for name, g in gradients.items()}


def _none_of(*suffixes: str) -> Seen:
    def gradients(found: Arrays, weights: Arrays, recipe: TrainingRecipe) -> Arrays:
        return {n: np.zeros_like(g) if n.endswith(suffixes) else g for n, g in found.items()}

    return gradients


DEVIATIONS = (
    Deviation(
        "gradients-accumulate",
        "the gradients of earlier steps are added up",
        "a forgotten optimizer.zero_grad()",
        lambda variant: variant.train_by(accumulate=True),
    ),
    Deviation(
        "gradients-with-decay",
        "the gradients that are shown contain weight decay",
        "decay added in place, old torch.optim",
        lambda variant: variant.train_by(shown=_with_decay),
    ),
    Deviation(
        "gradients-clipped-by-norm",
        "gradients are clipped to a norm of 1, all together",
        "PyTorch's clip_grad_norm_, which divides by the norm plus 1e-6",
        lambda variant: variant.train_by(gradients=_clipped_by_norm(1e-6)),
    ),
    Deviation(
        "gradients-clipped-by-exact-norm",
        "gradients are clipped to a norm of exactly 1, all together",
        "Keras's global_clipnorm, optax.clip_by_global_norm",
        lambda variant: variant.train_by(gradients=_clipped_by_norm(0.0)),
    ),
    Deviation(
        "gradients-clipped-by-value",
        "gradients are clipped to [-1, 1]",
        "clip_grad_value_, clipvalue",
        lambda variant: variant.train_by(gradients=_clipped_by_value),
    ),
    Deviation(
        "norms-not-trained",
        "gamma and beta are not trained",
        "affine=False, trainable=False",
        lambda variant: variant.train_by(gradients=_none_of(".gamma", ".beta")),
    ),
    Deviation(
        "gamma-not-trained",
        "gamma is not trained",
        "scale=False",
        lambda variant: variant.train_by(gradients=_none_of(".gamma")),
    ),
    Deviation(
        "biases-not-trained",
        "biases are not trained",
        "a filter on names",
        lambda variant: variant.train_by(gradients=_none_of(".bias")),
    ),
)
