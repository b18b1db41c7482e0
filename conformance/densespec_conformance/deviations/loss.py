"""Another loss, or another figure that is reported for it."""

from __future__ import annotations

import numpy as np

from densespec.network.arrays import Arrays
from densespec.recipes.recipe import TrainingRecipe
from densespec.reference.kernels import Array, SoftmaxKernel, cross_entropy
from densespec_conformance.deviations.deviation import Change, Deviation
from densespec_conformance.deviations.variant import Loss, Variant


def _loss(loss: Loss) -> Change:
    return lambda variant: variant.train_by(loss=loss)


def _summed(logits: Array, labels: Array, smoothing: float) -> tuple[float, Array]:
    loss, slope = cross_entropy(logits, labels, smoothing)
    return loss * len(labels), slope * len(labels)


def _over_classes(logits: Array, labels: Array, smoothing: float) -> tuple[float, Array]:
    loss, slope = cross_entropy(logits, labels, smoothing)
    return loss / logits.shape[1], slope / logits.shape[1]


def _of_probabilities(logits: Array, labels: Array, smoothing: float) -> tuple[float, Array]:
    softmax: SoftmaxKernel = SoftmaxKernel()
    anything: tuple[None, None] = (None, None)
    loss, slope = cross_entropy(softmax.forward(*anything, logits), labels, smoothing)  # type: ignore[arg-type]
    (slope,), _ = softmax.backward(*anything, slope, logits)  # type: ignore[arg-type]
    return loss, slope


def _unsmoothed(logits: Array, labels: Array, smoothing: float) -> tuple[float, Array]:
    return cross_entropy(logits, labels, 0.0)


def _over_the_others(logits: Array, labels: Array, smoothing: float) -> tuple[float, Array]:
    """Give the label 1 - smoothing, and share the rest among the other classes."""
    classes = logits.shape[1]
    return cross_entropy(logits, labels, smoothing * classes / max(classes - 1, 1))


def _squared(logits: Array, labels: Array, smoothing: float) -> tuple[float, Array]:
    difference = logits - np.eye(logits.shape[1])[labels]
    return float((difference**2).mean()), 2 * difference / difference.size


def _sigmoids(logits: Array, labels: Array, smoothing: float) -> tuple[float, Array]:
    """Take the binary cross-entropy of each class, as for several labels a sample."""
    target = np.eye(logits.shape[1])[labels]
    loss = np.logaddexp(0, logits) - target * logits
    return float(loss.mean()), (1 / (1 + np.exp(-logits)) - target) / logits.size


def _shifted(logits: Array, labels: Array, smoothing: float) -> tuple[float, Array]:
    return cross_entropy(logits, (labels - 1) % logits.shape[1], smoothing)


def _with_penalty(loss: float, weights: Arrays, recipe: TrainingRecipe, count: int) -> float:
    decayed = [(recipe.decay_of(n), w) for n, w in weights.items() if ".running_" not in n]
    return loss + sum(decay / 2 * float((w**2).sum()) for decay, w in decayed)


def _with_keras_penalty(loss: float, weights: Arrays, recipe: TrainingRecipe, count: int) -> float:
    return loss + 2 * (_with_penalty(loss, weights, recipe, count) - loss)


DEVIATIONS = (
    Deviation(
        "loss-reported-summed",
        "the loss that is reported is summed over the batch",
        "running totals of training loops",
        lambda variant: _reported(variant, lambda loss, w, recipe, count: loss * count),
    ),
    Deviation(
        "loss-summed",
        "the loss is summed over the batch, and so are gradients",
        "reduction='sum', CrossEntropyLoss(size_average=False)",
        _loss(_summed),
    ),
    Deviation(
        "loss-over-classes",
        "the loss is also divided by the number of classes",
        "a mean over all elements",
        _loss(_over_classes),
    ),
    Deviation(
        "loss-of-probabilities",
        "the loss takes probabilities for logits: the softmax is done twice",
        "from_logits=True after a softmax, nn.CrossEntropyLoss after nn.Softmax",
        _loss(_of_probabilities),
    ),
    Deviation(
        "loss-with-penalty",
        "the loss that is reported contains the penalty of weight decay",
        "kernel_regularizer, losses added up",
        lambda variant: _reported(variant, _with_penalty),
    ),
    Deviation(
        "loss-with-keras-penalty",
        "the loss that is reported contains weight decay times the sum of squares",
        "keras.regularizers.l2",
        lambda variant: _reported(variant, _with_keras_penalty),
    ),
    Deviation(
        "label-smoothing-ignored",
        "labels are not smoothed",
        "an ignored option",
        _loss(_unsmoothed),
    ),
    Deviation(
        "label-smoothing-over-the-others",
        "the smoothed share goes to the other classes alone",
        "hand-written label smoothing",
        _loss(_over_the_others),
    ),
    Deviation(
        "labels-shifted",
        "labels count from 1",
        "MATLAB, Torch7, a background class",
        _loss(_shifted),
    ),
    Deviation(
        "binary-cross-entropy",
        "each class has a binary cross-entropy",
        "multi-label training, as in CheXNet",
        _loss(_sigmoids),
    ),
    Deviation(
        "squared-error",
        "the loss is the squared error",
        "F.mse_loss to one-hot labels",
        _loss(_squared),
    ),
)


def _reported(variant: Variant, reported: object) -> Variant:
    return variant.train_by(reported=reported)
