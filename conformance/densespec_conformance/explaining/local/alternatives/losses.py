"""Lists what the loss, or the reported figure of it, may be instead, with where each is found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from densespec.network.arrays import Arrays
from densespec.recipes.recipe import TrainingRecipe
from densespec.reference.kernels import Array, SoftmaxKernel, log_softmax
from densespec.reference.losses import loss_and_slope

Loss = Callable[[TrainingRecipe, Array, Array], tuple[float, Array]]
"""Computes the loss and its gradient from the recipe, logits and labels."""

Reported = Callable[[float, Arrays, TrainingRecipe, int], float]
"""Computes the reported figure from the loss, the weights, the recipe and the size of the batch."""


@dataclass(frozen=True)
class OtherLoss:
    """Describes what the loss may be instead.

    Attributes:
        kinds: The recipe's losses for which it is meant; all if empty.
    """

    does: str
    source: str
    loss: Loss
    kinds: tuple[str, ...] = ()


@dataclass(frozen=True)
class OtherReport:
    """Describes what may be reported of the loss while gradients are those of the recipe's."""

    does: str
    source: str
    reported: Reported


def _unweighed(recipe: TrainingRecipe, logits: Array, labels: Array) -> tuple[float, Array]:
    plain = recipe.replace(class_weights=(), positive_weights=())
    return loss_and_slope(plain, logits, labels)


def _by_sum_of_weights(recipe: TrainingRecipe, logits: Array, labels: Array) -> tuple[float, Array]:
    """Divide by the sum of the weights of the batch's labels."""
    loss, slope = loss_and_slope(recipe, logits, labels)
    each = np.asarray(recipe.class_weights or np.ones(logits.shape[1]))[labels]
    return loss / each.mean(), slope / each.mean()


def _weighed_after_smoothing(
    recipe: TrainingRecipe, logits: Array, labels: Array
) -> tuple[float, Array]:
    """Weigh each class of the smoothed target by its own weight."""
    classes, smoothing = logits.shape[1], recipe.label_smoothing
    shares = labels if labels.ndim == 2 else np.eye(classes)[labels]
    target = (1 - smoothing) * shares + smoothing / classes
    target = target * np.asarray(recipe.class_weights or 1.0)
    logarithm = log_softmax(logits)
    slope = target.sum(1, keepdims=True) * np.exp(logarithm) - target
    return float(-(target * logarithm).sum(1).mean()), slope / len(logits)


def _of_the_largest_share(
    recipe: TrainingRecipe, logits: Array, labels: Array
) -> tuple[float, Array]:
    one_hot = np.eye(logits.shape[1])[labels.argmax(1)] if labels.ndim == 2 else labels
    return loss_and_slope(recipe, logits, one_hot)


def _unknown_as_absent(recipe: TrainingRecipe, logits: Array, labels: Array) -> tuple[float, Array]:
    return loss_and_slope(recipe, logits, np.where(labels >= 0, labels, 0.0))


def _over_known(recipe: TrainingRecipe, logits: Array, labels: Array) -> tuple[float, Array]:
    """Divide by the number of labels that are known."""
    loss, slope = loss_and_slope(recipe, logits, labels)
    known = ~np.isnan(labels) if recipe.loss == "squared" else labels >= 0
    share = max(known.mean(), 1 / known.size)
    return loss / share, slope / share


def _over_samples(recipe: TrainingRecipe, logits: Array, labels: Array) -> tuple[float, Array]:
    loss, slope = loss_and_slope(recipe, logits, labels)
    return loss * logits.shape[1], slope * logits.shape[1]


def _summed(recipe: TrainingRecipe, logits: Array, labels: Array) -> tuple[float, Array]:
    loss, slope = loss_and_slope(recipe, logits, labels)
    return loss * len(labels), slope * len(labels)


def _over_classes(recipe: TrainingRecipe, logits: Array, labels: Array) -> tuple[float, Array]:
    loss, slope = loss_and_slope(recipe, logits, labels)
    return loss / logits.shape[1], slope / logits.shape[1]


def _of_probabilities(recipe: TrainingRecipe, logits: Array, labels: Array) -> tuple[float, Array]:
    softmax: SoftmaxKernel = SoftmaxKernel()
    anything: tuple[None, None] = (None, None)
    loss, slope = loss_and_slope(recipe, softmax.forward(*anything, logits), labels)  # type: ignore[arg-type]
    (slope,), _ = softmax.backward(*anything, slope, logits)  # type: ignore[arg-type]
    return loss, slope


def _unsmoothed(recipe: TrainingRecipe, logits: Array, labels: Array) -> tuple[float, Array]:
    return loss_and_slope(recipe.replace(label_smoothing=0.0), logits, labels)


def _over_the_others(recipe: TrainingRecipe, logits: Array, labels: Array) -> tuple[float, Array]:
    """Return the label 1 - smoothing, and share the rest among the other classes."""
    classes = logits.shape[1]
    smoothing = recipe.label_smoothing * classes / max(classes - 1, 1)
    return loss_and_slope(recipe.replace(label_smoothing=smoothing), logits, labels)


def _squared(recipe: TrainingRecipe, logits: Array, labels: Array) -> tuple[float, Array]:
    difference = logits - np.eye(logits.shape[1])[labels]
    return float((difference**2).mean()), 2 * difference / difference.size


def _sigmoids(recipe: TrainingRecipe, logits: Array, labels: Array) -> tuple[float, Array]:
    """Take the binary cross-entropy of each class, as for several labels a sample."""
    target = np.eye(logits.shape[1])[labels]
    loss = np.logaddexp(0, logits) - target * logits
    return float(loss.mean()), (1 / (1 + np.exp(-logits)) - target) / logits.size


def _shifted(recipe: TrainingRecipe, logits: Array, labels: Array) -> tuple[float, Array]:
    return loss_and_slope(recipe, logits, (labels - 1) % logits.shape[1])


def _with_penalty(loss: float, weights: Arrays, recipe: TrainingRecipe, count: int) -> float:
    decayed = [(recipe.decay_of(n), w) for n, w in weights.items() if ".running_" not in n]
    return loss + sum(decay / 2 * float((w**2).sum()) for decay, w in decayed)


def _with_keras_penalty(loss: float, weights: Arrays, recipe: TrainingRecipe, count: int) -> float:
    return loss + 2 * (_with_penalty(loss, weights, recipe, count) - loss)


LOSSES = (
    OtherLoss(
        "the loss is summed over the batch, and so are gradients",
        "reduction='sum', CrossEntropyLoss(size_average=False)",
        _summed,
    ),
    OtherLoss(
        "the loss is also divided by the number of classes",
        "a mean over all elements",
        _over_classes,
    ),
    OtherLoss(
        "the loss takes probabilities for logits: the softmax is done twice",
        "from_logits=True after a softmax, nn.CrossEntropyLoss after nn.Softmax",
        _of_probabilities,
        ("softmax",),
    ),
    OtherLoss(
        "labels are not smoothed",
        "an ignored option",
        _unsmoothed,
    ),
    OtherLoss(
        "the smoothed share goes to the other classes alone",
        "hand-written label smoothing",
        _over_the_others,
        ("softmax",),
    ),
    OtherLoss(
        "classes have no weights",
        "an ignored option",
        _unweighed,
    ),
    OtherLoss(
        "the loss is divided by the sum of the weights of its labels",
        "nn.CrossEntropyLoss(weight=...)",
        _by_sum_of_weights,
        ("softmax",),
    ),
    OtherLoss(
        "each class of the smoothed target is weighed, not the label",
        "nn.CrossEntropyLoss(weight=..., label_smoothing=...), or of shares",
        _weighed_after_smoothing,
        ("softmax",),
    ),
    OtherLoss(
        "a label of several classes counts as the one with the largest share",
        "losses of integer labels after mixup",
        _of_the_largest_share,
        ("softmax",),
    ),
    OtherLoss(
        "labels that are not known count as absent",
        "label tables whose empty cells are read as 0",
        _unknown_as_absent,
        ("sigmoid",),
    ),
    OtherLoss(
        "the loss is a mean over the labels that are known",
        "losses of chest X-rays that divide by mask.sum()",
        _over_known,
        (
            "sigmoid",
            "squared",
        ),
    ),
    OtherLoss(
        "the losses of a sample's labels are added up",
        "reduction='sum' over the labels",
        _over_samples,
        (
            "sigmoid",
            "squared",
        ),
    ),
    OtherLoss(
        "labels count from 1",
        "MATLAB, Torch7, a background class",
        _shifted,
        ("softmax",),
    ),
    OtherLoss(
        "each class has a binary cross-entropy",
        "multi-label training, as in CheXNet",
        _sigmoids,
        ("softmax",),
    ),
    OtherLoss(
        "the loss is the squared error",
        "F.mse_loss to one-hot labels",
        _squared,
        ("softmax",),
    ),
)
"""Lists other losses."""

REPORTS = (
    OtherReport(
        "the loss that is reported is summed over the batch",
        "running totals of training loops",
        lambda loss, w, recipe, count: loss * count,
    ),
    OtherReport(
        "the loss that is reported contains the penalty of weight decay",
        "kernel_regularizer, losses added up",
        _with_penalty,
    ),
    OtherReport(
        "the loss that is reported contains weight decay times the sum of squares",
        "keras.regularizers.l2",
        _with_keras_penalty,
    ),
)
"""Lists other figures that are reported for a loss."""
