"""What a mutant is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

STEM, NEGATIVE = "forward/torchvision-stem", "forward/preactivation-stem-pools-negative-numbers"
SOFTMAX, NO_DROPOUT = "forward/softmax", "forward/dropout-is-off"
DROP, MASKS = "training/learning-rate-drop", "training/given-dropout-masks"
DECAY, KERNELS_ONLY = "training/strong-weight-decay", "training/weight-decay-of-kernels-only"
SMOOTHING, BIASED = "training/label-smoothing", "training/biased-running-variance"
SEED, ROUND_TRIP = "initial/same-bits-in-float32", "initial/weights-come-back-in-float64"
RESUMED = "curve/sgd-taken-over-from-the-reference"
RESUMED_ADAMW = "curve/adamw-taken-over-from-the-reference"
MOMENTS = "moments/sgd-before-the-first-step"
LABELS, WEIGHTS = "training/several-labels", "training/class-weights"
SHARES = "training/shares-of-classes-weighed-and-smoothed"
ACCUMULATED = "training/accumulated"
AVERAGE, WARMED_AVERAGE = "training/average", "training/average-after-a-warm-up"
RMSPROP = "training/rmsprop"
ADAMW, CLIPPED = "training/adamw", "training/clipped-norm"
TOGETHER, APART = "parallel/synchronised-norms", "parallel/norms-of-each-device"
LAYER_RATES = "training/learning-rates-by-layer"
MIXED_FLOAT16 = "float16/mixed-training-step"
COUNTS = "structure/densenet-40-12"
"""Cases by what they are good for."""


@dataclass(frozen=True)
class Mutant:
    """A wrong backend.

    Attributes:
        about: what is wrong with it.
        case: id of the case that must catch it.
        where: what the first difference must be named by.
        diagnosis: ids of the deviations that must be named for it; empty where none is everywhere.
        backend: makes it.
        says: words of the diagnosis, where ops or parts of a training step are named.
    """

    about: str
    case: str
    where: str
    diagnosis: tuple[str, ...]
    backend: Callable[[], Any]
    says: tuple[str, ...] = ()
