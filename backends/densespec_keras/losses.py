"""The recipe's loss as ``keras.losses``."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from densespec.recipes.recipe import TrainingRecipe


@keras.saving.register_keras_serializable(package="densespec")
class CrossEntropy(keras.losses.Loss):
    """Cross-entropy of integer labels with label smoothing, which Keras's sparse one lacks.

    Args:
        label_smoothing: share of the target spread evenly over all classes.
        from_logits: whether the model gives logits, not probabilities.
        **kwargs: of ``keras.losses.Loss``.
    """

    def __init__(
        self,
        label_smoothing: float = 0.0,
        from_logits: bool = True,
        name: str = "cross_entropy",
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name, **kwargs)
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing = {label_smoothing!r}, but should be in [0, 1)")
        self.label_smoothing, self.from_logits = label_smoothing, from_logits

    def call(self, y_true: Any, y_pred: Any) -> Any:
        if len(y_true.shape) == len(y_pred.shape):  # (batch, 1)
            y_true = ops.squeeze(y_true, -1)
        labels = ops.cast(y_true, "int32")
        target = ops.one_hot(labels, y_pred.shape[-1], dtype=y_pred.dtype)
        return keras.losses.categorical_crossentropy(
            target, y_pred, from_logits=self.from_logits, label_smoothing=self.label_smoothing
        )

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {
            "label_smoothing": self.label_smoothing,
            "from_logits": self.from_logits,
        }


def loss_of(recipe: TrainingRecipe, *, from_logits: bool = True, dtype: Any = None) -> Any:
    """The loss of a recipe: Keras's own, unless the recipe smooths labels.

    Args:
        from_logits: whether the model gives logits, not probabilities.
        dtype: the dtype of the loss; None for Keras's ``floatx``.
    """
    if recipe.label_smoothing:
        return CrossEntropy(recipe.label_smoothing, from_logits, dtype=dtype)
    return keras.losses.SparseCategoricalCrossentropy(from_logits=from_logits, dtype=dtype)
