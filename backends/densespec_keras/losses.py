"""Makes the recipe's loss as ``keras.losses``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from densespec.recipes.recipe import TrainingRecipe


@keras.saving.register_keras_serializable(package="densespec")
class CrossEntropy(keras.losses.Loss):
    """Computes the cross-entropy of integer labels with smoothing and weights, which Keras's lacks.

    Args:
        shares: whether a label is the shares of all classes, rather than an integer.
        label_smoothing: the share of the target that is spread evenly over all classes.
        class_weights: the factors on the loss of a sample by its label, one for each class; without
            any, each is 1.
        from_logits: whether the model gives logits, not probabilities.
        **kwargs: of ``keras.losses.Loss``.
    """

    def __init__(
        self,
        label_smoothing: float = 0.0,
        from_logits: bool = True,
        class_weights: Sequence[float] = (),
        shares: bool = False,
        name: str = "cross_entropy",
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name, **kwargs)
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing = {label_smoothing!r}, but should be in [0, 1)")
        self.label_smoothing, self.from_logits = label_smoothing, from_logits
        self.class_weights, self.shares = tuple(class_weights), shares

    def call(self, y_true: Any, y_pred: Any) -> Any:
        shares = self._shares(y_true, y_pred)
        if not self.class_weights:
            return self._each(shares, y_pred)
        weighed = shares * ops.convert_to_tensor(self.class_weights, shares.dtype)
        total = ops.sum(weighed, -1)  # TensorFlow's gradient is that of targets which sum to 1
        known = ops.where(total > 0, total, 1)
        return total * self._each(weighed / ops.expand_dims(known, -1), y_pred)

    def _each(self, shares: Any, y_pred: Any) -> Any:
        return keras.losses.categorical_crossentropy(
            shares, y_pred, from_logits=self.from_logits, label_smoothing=self.label_smoothing
        )

    def _shares(self, y_true: Any, y_pred: Any) -> Any:
        if self.shares:
            return ops.cast(y_true, y_pred.dtype)
        if len(y_true.shape) == len(y_pred.shape):  # (batch, 1)
            y_true = ops.squeeze(y_true, -1)
        return ops.one_hot(ops.cast(y_true, "int32"), y_pred.shape[-1], dtype=y_pred.dtype)

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {
            "shares": self.shares,
            "label_smoothing": self.label_smoothing,
            "from_logits": self.from_logits,
            "class_weights": list(self.class_weights),
        }


@keras.saving.register_keras_serializable(package="densespec")
class BinaryCrossEntropy(keras.losses.Loss):
    """Computes the cross-entropy of several labels a sample. Negative or NaN labels are unknown.

    Unknown labels add nothing, but count in the mean.

    Args:
        label_smoothing: the share of the target that becomes a half.
        from_logits: whether the model gives logits, not probabilities.
        positive_weights: the factors on the loss of present labels, one for each class.
        **kwargs: of ``keras.losses.Loss``.
    """

    def __init__(
        self,
        label_smoothing: float = 0.0,
        from_logits: bool = True,
        positive_weights: Sequence[float] = (),
        name: str = "binary_cross_entropy",
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name, **kwargs)
        self.label_smoothing, self.from_logits = label_smoothing, from_logits
        self.positive_weights = tuple(positive_weights)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        known = y_true >= 0
        label = ops.cast(ops.where(known, y_true, 0), y_pred.dtype)
        target = label * (1 - self.label_smoothing) + self.label_smoothing / 2
        given, other = self._surprises(y_pred)
        if self.positive_weights:
            given = given * ops.convert_to_tensor(self.positive_weights, y_pred.dtype)
        each = target * given + (1 - target) * other
        return ops.mean(ops.cast(known, each.dtype) * each, axis=-1)

    def _surprises(self, y_pred: Any) -> tuple[Any, Any]:
        """Return minus the logarithms of a label's probability, and of its absence."""
        if self.from_logits:
            return ops.softplus(-y_pred), ops.softplus(y_pred)
        least = keras.config.epsilon()
        return -ops.log(ops.maximum(y_pred, least)), -ops.log(ops.maximum(1 - y_pred, least))

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {
            "label_smoothing": self.label_smoothing,
            "from_logits": self.from_logits,
            "positive_weights": list(self.positive_weights),
        }


@keras.saving.register_keras_serializable(package="densespec")
class SquaredError(keras.losses.Loss):
    """Computes the squared error to several numbers a sample. NaN numbers are unknown.

    Unknown numbers add nothing, but count in the mean.

    Args:
        **kwargs: of ``keras.losses.Loss``.
    """

    def __init__(self, name: str = "squared_error", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        known = ops.logical_not(ops.isnan(y_true))
        label = ops.where(known, ops.cast(y_true, y_pred.dtype), ops.stop_gradient(y_pred))
        return ops.mean(ops.square(y_pred - label), axis=-1)


def loss_of(recipe: TrainingRecipe, *, from_logits: bool = True, dtype: Any = None) -> Any:
    """Make the loss of a recipe: Keras's own, unless the recipe smooths, weighs or mixes labels.

    Args:
        from_logits: whether the model gives logits, not probabilities.
        dtype: the dtype of the loss; None for Keras's ``floatx``.
    """
    smoothing, weights, shares = recipe.label_smoothing, recipe.class_weights, recipe.has_shares
    if recipe.loss == "sigmoid":
        return BinaryCrossEntropy(smoothing, from_logits, recipe.positive_weights, dtype=dtype)
    if recipe.loss == "squared":
        return SquaredError(dtype=dtype)
    if smoothing or weights or shares:
        return CrossEntropy(smoothing, from_logits, weights, shares, dtype=dtype)
    return keras.losses.SparseCategoricalCrossentropy(from_logits=from_logits, dtype=dtype)
