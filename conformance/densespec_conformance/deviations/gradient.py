"""Gradients that are not those of the loss."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from densespec.network.arrays import Arrays
from densespec.recipes.recipe import TrainingRecipe
from densespec_conformance.deviations.deviation import Change, Deviation
from densespec_conformance.deviations.variant import Clip, clipped, norm

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


def _clip(clip: Clip) -> Change:
    return lambda variant: variant.train_by(clip=clip)


def _not_clipped(gradients: Arrays, limit: float) -> Arrays:
    return gradients


def _clipped_with_margin(gradients: Arrays, limit: float) -> Arrays:
    factor = min(1.0, limit / (norm(gradients) + 1e-6))
    return {name: g * factor for name, g in gradients.items()}


def _clipped_each(gradients: Arrays, limit: float) -> Arrays:
    return {name: clipped({name: g}, limit)[name] for name, g in gradients.items()}


def _clipped_values(gradients: Arrays, limit: float) -> Arrays:
    return {name: np.clip(g, -limit, limit) for name, g in gradients.items()}


def _none_of(*suffixes: str) -> Seen:
    def gradients(found: Arrays, weights: Arrays, recipe: TrainingRecipe) -> Arrays:
        return {n: np.zeros_like(g) if n.endswith(suffixes) else g for n, g in found.items()}

    return gradients


DEVIATIONS = (
    Deviation(
        "norm-not-clipped",
        "the norm of the gradients is not clipped",
        "an ignored option",
        _clip(_not_clipped),
    ),
    Deviation(
        "clipped-with-margin",
        "the norm of the gradients is clipped by a factor of norm / (length + 1e-6)",
        "torch.nn.utils.clip_grad_norm_",
        _clip(_clipped_with_margin),
    ),
    Deviation(
        "clipped-each",
        "the gradient of each weight is clipped by itself",
        "Keras's clipnorm",
        _clip(_clipped_each),
    ),
    Deviation(
        "clipped-values",
        "each value of the gradients is clipped by itself",
        "Keras's clipvalue, clip_grad_value_",
        _clip(_clipped_values),
    ),
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
    Deviation(
        "parts-summed",
        "the gradients of a batch's parts are added up, and so are their losses",
        "loops that call backward() for each part and never divide the loss",
        lambda variant: variant.train_by(parts="sum"),
    ),
    Deviation(
        "parts-averaged",
        "the gradients of a batch's parts count alike, whatever their size",
        "gradient_accumulation_steps of Keras, optax.MultiSteps, Lightning",
        lambda variant: variant.train_by(parts="mean"),
    ),
)
