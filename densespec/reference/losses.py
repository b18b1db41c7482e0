"""Computes the losses of logits and their gradients as :mod:`densespec.recipes.recipe` defines."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from densespec.recipes.recipe import TrainingRecipe
from densespec.reference.kernels import Array, check_constraint, log_softmax

LossAndSlope = tuple[float, Array]
"""Holds a loss, and its gradient by the logits, (batch, classes)."""


def loss_and_slope(recipe: TrainingRecipe, logits: Array, labels: Array) -> LossAndSlope:
    """Return the loss of a recipe, and its gradient.

    Args:
        logits: (batch, classes).
        labels: (batch,) integers with the loss ``softmax``, (batch, classes) shares of classes
            where the recipe mixes images, (batch, classes) numbers with other losses.

    Raises:
        OpError: The labels are not such as the loss takes.
    """
    return LOSSES[recipe.loss](recipe, logits, np.asarray(labels))


def cross_entropy(
    logits: Array, labels: Array, smoothing: float = 0.0, weights: Sequence[float] = ()
) -> LossAndSlope:
    """Compute the mean over the batch of -w[label] * sum over c of t[c] * log softmax(logits)[c].

    The target t is ``smoothing / classes`` everywhere, and ``1 - smoothing`` more at the label. The
    weights w are 1 where there are none. It gives the loss, and its gradient by the logits.

    O4: labels are one integer in [0, classes) for each sample.

    Args:
        logits: (batch, classes).
        labels: (batch,).
        weights: One for each class, or none.
    """
    return shared_cross_entropy(logits, _one_hot(logits, np.asarray(labels)), smoothing, weights)


def shared_cross_entropy(
    logits: Array, shares: Array, smoothing: float = 0.0, weights: Sequence[float] = ()
) -> LossAndSlope:
    """Compute the mean over labels of :func:`cross_entropy`, weighed by the samples' shares.

    O10: a sample has a share of each class, none of them negative, which sum to 1.

    Args:
        logits: (batch, classes).
        shares: (batch, classes).
    """
    count, classes = logits.shape
    shaped = shares.shape == logits.shape
    sound = shaped and bool((shares >= 0).all()) and np.allclose(shares.sum(1), 1, atol=1e-5)
    rule = f"should be {logits.shape} numbers, none negative, whose rows sum to 1"
    check_constraint(sound, "O10", "labels", rule)
    weighed = shares * (np.asarray(weights) if len(weights) else 1)
    total = weighed.sum(1, keepdims=True)
    target = ((1 - smoothing) * weighed + smoothing / classes * total).astype(logits.dtype)
    log_probability = log_softmax(logits)
    loss = -(target * log_probability).sum(1).mean()
    slope = total.astype(logits.dtype) * np.exp(log_probability) - target
    return float(loss), slope / count


def _one_hot(logits: Array, labels: Array) -> Array:
    count, classes = logits.shape
    shape_fits = labels.shape == (count,) and np.issubdtype(labels.dtype, np.integer)
    check_constraint(
        shape_fits, "O4", "labels", f"should be {count} integers, but was {labels.shape}"
    )
    in_range = bool(((labels >= 0) & (labels < classes)).all())
    check_constraint(in_range, "O4", "labels", f"should lie in [0, {classes})")
    return np.eye(classes)[labels]


def binary_cross_entropy(
    logits: Array, labels: Array, smoothing: float = 0.0, weights: Sequence[float] = ()
) -> LossAndSlope:
    """Compute the mean over batch and classes of the binary cross-entropy.

    It is -(p * t * log s + (1 - t) * log(1 - s)) with s = sigmoid(logits).

    The target t is ``label * (1 - smoothing) + smoothing / 2``, and p is the class's own weight, 1
    where there are none. A label that is not known adds nothing, and is counted in the mean. It
    gives the loss, and its gradient by the logits.

    O7: labels are a number in [0, 1] for each sample and class; one that is not known is negative
    or NaN.
    """
    known = _known(logits, labels, "O7", labels >= 0)
    in_range = bool((labels[known] <= 1).all())
    check_constraint(in_range, "O7", "labels", "should lie in [0, 1], or be negative or NaN")
    positive = np.asarray(weights, logits.dtype) if len(weights) else logits.dtype.type(1)
    target = np.where(known, labels, 0).astype(logits.dtype) * (1 - smoothing) + smoothing / 2
    sigmoid = np.exp(-np.logaddexp(0, -logits))
    loss = positive * target * np.logaddexp(0, -logits) + (1 - target) * np.logaddexp(0, logits)
    slope = positive * target * (sigmoid - 1) + (1 - target) * sigmoid
    return float((known * loss).mean()), known * slope / logits.size


def squared_error(logits: Array, labels: Array) -> LossAndSlope:
    """Compute the mean over batch and classes of (logits - labels)**2.

    A label that is NaN is not known: it adds nothing, and is counted in the mean. This gives the
    loss, and its gradient by the logits.

    O8: labels are a number for each sample and class, or NaN.
    """
    known = _known(logits, labels, "O8", ~np.isnan(labels))
    difference = np.where(known, logits - labels, 0).astype(logits.dtype)
    return float(np.square(difference).mean()), 2 * difference / logits.size


def _known(logits: Array, labels: Array, constraint: str, known: Array) -> Array:
    shape = f"should have the shape {logits.shape}, but was {labels.shape}"
    check_constraint(labels.shape == logits.shape, constraint, "labels", shape)
    return known


LOSSES: Mapping[str, Callable[[TrainingRecipe, Array, Array], LossAndSlope]] = {
    "softmax": lambda recipe, logits, labels: (
        shared_cross_entropy if recipe.has_shares else cross_entropy
    )(logits, labels, recipe.label_smoothing, recipe.class_weights),
    "sigmoid": lambda recipe, logits, labels: binary_cross_entropy(
        logits, labels, recipe.label_smoothing, recipe.positive_weights
    ),
    "squared": lambda recipe, logits, labels: squared_error(logits, labels),
}
"""Maps the names that recipes have for losses to the losses."""
