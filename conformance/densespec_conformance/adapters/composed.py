"""Makes networks that users compose themselves: a backbone, and a classifier on it."""

from __future__ import annotations

import importlib
from typing import Any

models = importlib.import_module("keras_hub.models")


def DenseNetImageClassifier(  # noqa: N802 (it is called as the package calls it)
    stackwise_num_repeats: Any, num_classes: Any, **options: Any
) -> Any:
    """Make keras-hub's classifier on its ``DenseNetBackbone``, which takes the options."""
    backbone = models.DenseNetBackbone(stackwise_num_repeats, **options)
    return models.DenseNetImageClassifier(backbone, num_classes=num_classes)
