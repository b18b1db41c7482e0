"""The implementations that densespec is timed against: each framework's own DenseNets."""

from __future__ import annotations

import importlib
from typing import Any


def keras_applications(variant: str) -> Any:
    """``keras.applications``' network of a variant, with initial weights and logits."""
    import keras

    name = variant.replace("densenet", "DenseNet")
    constructor = getattr(keras.applications, name)
    return constructor(weights=None, classifier_activation=None)


def torchvision(variant: str) -> Any:
    """Torchvision's network of a variant, with initial weights.

    Raises:
        ImportError: torchvision is not installed.
    """
    _declare_operators()
    models = importlib.import_module("torchvision.models")
    return getattr(models, variant)(weights=None)


_declared: list[Any] = []


def _declare_operators() -> None:
    """Declare two operators that torchvision's import misses beside a CPU build of torch."""
    import torch

    if _declared or importlib.util.find_spec("torchvision") is None:
        return
    library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
    for operator in ("nms", "qnms"):
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")  # type: ignore[no-untyped-call]
    _declared.append(library)
