"""Makes the recipe's loss as a module, by PyTorch's own functions where they mean the same."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from densespec.recipes.recipe import TrainingRecipe


class WeightedCrossEntropy(nn.Module):
    """Computes cross-entropy with samples weighted by their labels, or by their shares of them.

    ``nn.CrossEntropyLoss(weight=...)`` divides by the sum of the weights in the batch. So with it
    the loss of a batch is not the mean of its parts' losses.
    """

    def __init__(self, weights: Sequence[float], smoothing: float) -> None:
        super().__init__()
        self.weights, self.smoothing = tuple(weights), smoothing

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        classes = logits.shape[1]
        shares = labels if labels.ndim == 2 else functional.one_hot(labels, classes)
        weighed = shares * logits.new_tensor(self.weights)
        spread = self.smoothing / classes * weighed.sum(1, keepdim=True)
        return functional.cross_entropy(logits, (1 - self.smoothing) * weighed + spread)


class BinaryCrossEntropy(nn.Module):
    """Computes the cross-entropy of several labels a sample. Negative or NaN labels are unknown."""

    def __init__(self, weights: Sequence[float], smoothing: float) -> None:
        super().__init__()
        self.weights, self.smoothing = tuple(weights), smoothing

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        known = labels >= 0
        target = torch.where(known, labels, 0).to(logits.dtype)
        return functional.binary_cross_entropy_with_logits(
            logits,
            target * (1 - self.smoothing) + self.smoothing / 2,
            weight=known.to(logits.dtype),
            pos_weight=logits.new_tensor(self.weights) if self.weights else None,
        )


class SquaredError(nn.Module):
    """Computes the squared error to several numbers a sample. NaN numbers are unknown."""

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        target = torch.where(torch.isnan(labels), logits.detach(), labels.to(logits.dtype))
        return functional.mse_loss(logits, target)


def loss_of(recipe: TrainingRecipe) -> nn.Module:
    """Make the recipe's loss of logits (batch, classes) and labels, as the recipe defines them.

    Labels are integers (batch,) with ``softmax``. Otherwise, and if the recipe mixes images, they
    are numbers (batch, classes).
    """
    if recipe.loss == "sigmoid":
        return BinaryCrossEntropy(recipe.positive_weights, recipe.label_smoothing)
    if recipe.loss == "squared":
        return SquaredError()
    if recipe.class_weights:
        return WeightedCrossEntropy(recipe.class_weights, recipe.label_smoothing)
    return nn.CrossEntropyLoss(label_smoothing=recipe.label_smoothing)
