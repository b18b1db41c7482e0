"""What has to be set before a framework starts."""

from __future__ import annotations

import os
import sys

from densespec.backends import split_mode
from densespec.recipes.recipe import TrainingRecipe


def prepare(backend: str, recipe: TrainingRecipe) -> None:
    """Set what a backend's framework reads when it starts, where nobody has set it yet.

    Nothing is set for a framework that runs already.
    """
    backend, _ = split_mode(backend)
    if backend == "tensorflow" and "tensorflow" not in sys.modules:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    if backend == "jax" and "jax" not in sys.modules and recipe.dtype == "float64":
        os.environ.setdefault("JAX_ENABLE_X64", "1")
