"""The training recipe: what each term of a training step means, exactly.

Loss: the mean over the batch of -sum over c of t[c] * log softmax(logits)[c], where the target t is
1 at the label and 0 elsewhere; with label smoothing s over C classes it is 1 - s + s / C at the
label and s / C elsewhere.

Step, for every trainable weight w with gradient g of the loss, velocity v (zero at first) and
learning rate lr (times the weight's own factor, where ``layer_rates`` gives one), as in the paper's
Torch7 code and in PyTorch:

    g <- g + weight_decay * w            coupled: part of the gradient, and so of the velocity
    v <- momentum * v + g                holds no learning rate, so a drop does not rescale history
    w <- w - lr * (g + momentum * v)     Nesterov; without it, w - lr * v

Keras's own SGD differs twice: its velocity holds the learning rate, and its ``weight_decay`` is
decoupled from the gradient. Weight decay applies to every trainable weight unless
``decay_kernels_only``.

Running statistics are updated once a step from the batch's statistics, by the spec's convention.

On n devices a batch is split into n consecutive shards, the first ones larger by a sample where it
does not divide. Loss and gradients are the means over all samples, and the step is the same on
every device. With ``batch_norm = "synchronised"`` the statistics are those of the whole batch, so n
devices do what one does. With ``"per-replica"`` each shard is normalised by its own statistics, and
the new running statistics are the mean over the devices of what each would keep by itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from densespec.network.fields import (
    ByName,
    Choice,
    Flag,
    Integer,
    Interval,
    Milestones,
    OrNone,
    Record,
    constrained,
)
from densespec.network.spec import DenseNetSpec

AUGMENTATIONS = ("none", "cifar", "imagenet")
DTYPES = ("float32", "float64", "mixed_bfloat16", "mixed_float16")


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingRecipe(Record):
    """SGD with Nesterov momentum and a learning rate that drops twice: the paper's section 4.2.

    Raises:
        SpecError: naming the field, its value and what is allowed.
    """

    NOUN: ClassVar[str] = "recipe"

    epochs: int = constrained("R1", Integer(1), "passes over the data", default=300)
    batch_size: int = constrained("R2", Integer(1), "samples in a step", default=64)
    learning_rate: float = constrained(
        "R3", Interval(0, 1e3, open_lower=True), "at the start", default=0.1
    )
    milestones: tuple[float, ...] = constrained(
        "R4",
        Milestones(),
        "when the learning rate drops: after these fractions of the epochs, or these epochs",
        default=(0.5, 0.75),
    )
    gamma: float = constrained(
        "R5",
        Interval(0, 1, open_lower=True),
        "factor on the learning rate at each milestone",
        default=0.1,
    )
    momentum: float = constrained("R6", Interval(0, 1, open_upper=True), "of SGD", default=0.9)
    nesterov: bool = constrained("R7", Flag(), "whether momentum looks ahead", default=True)
    weight_decay: float = constrained(
        "R8", Interval(0, 1), "coefficient of coupled L2 decay", default=1e-4
    )
    decay_kernels_only: bool = constrained(
        "R9", Flag(), "whether norms and biases are spared from weight decay", default=False
    )

    layer_rates: tuple[tuple[str, float], ...] = constrained(
        "R10",
        ByName(Interval(0, 1e3)),
        "factors on the learning rate of parts of the network, such as block4 = 0.1; the longest "
        "name that fits a weight counts",
        default=(),
    )
    label_smoothing: float = constrained(
        "R11",
        Interval(0, 1, open_upper=True),
        "share of the target spread evenly over all classes",
        default=0.0,
    )
    dropout_rate: float | None = constrained(
        "R12",
        OrNone(Interval(0, 1, open_upper=True)),
        "replaces the spec's dropout rate; none leaves it",
        default=None,
    )
    augmentation: Literal["none", "cifar", "imagenet"] = constrained(
        "R13",
        Choice(AUGMENTATIONS),
        "of training images: shifts by up to 4 pixels and flips ('cifar'), or crops of 8 to 100 % "
        "of the area, resized, and flips ('imagenet')",
        default="none",
    )
    seed: int = constrained(
        "R14", Integer(0), "of initial weights, order, augmentation and dropout", default=0
    )
    dtype: Literal["float32", "float64", "mixed_bfloat16", "mixed_float16"] = constrained(
        "R15",
        Choice(DTYPES),
        "of weights and arithmetic; mixed ones keep weights in float32 and compute in 16 bits",
        default="float32",
    )
    batch_norm: Literal["per-replica", "synchronised"] = constrained(
        "R16",
        Choice(("per-replica", "synchronised")),
        "on several devices: whether a norm's statistics are of a device's part of the batch, or "
        "of all of it",
        default="per-replica",
    )

    def learning_rate_at(self, epoch: int) -> float:
        """Learning rate of an epoch, counted from 0."""
        drops = sum(epoch >= drop for drop in self.drop_epochs())
        return self.learning_rate * self.gamma**drops

    def learning_rates(self) -> dict[int, float]:
        """The learning rates by the epoch, counted from 0, from which on each holds."""
        found: dict[int, float] = {}
        for epoch in sorted({0, *self.drop_epochs()}):
            rate = self.learning_rate_at(epoch)
            if epoch < self.epochs and rate not in found.values():
                found[epoch] = rate
        return found

    def drop_epochs(self) -> list[int]:
        """The epochs, counted from 0, at whose start the learning rate drops."""
        whole = all(isinstance(milestone, int) for milestone in self.milestones)
        drops = [m if whole else round(m * self.epochs, 9) for m in self.milestones]
        return [math.ceil(drop) for drop in drops]

    def applied_to(self, spec: DenseNetSpec) -> DenseNetSpec:
        """The spec with the recipe's dropout rate, where the recipe states one."""
        return spec if self.dropout_rate is None else spec.replace(dropout_rate=self.dropout_rate)

    def rate_factor_of(self, weight_name: str) -> float:
        """Factor on the learning rate of a trainable weight, by its canonical name."""
        fitting = [
            (len(part), factor)
            for part, factor in self.layer_rates
            if weight_name.startswith(f"{part}.")
        ]
        return max(fitting, default=(0, 1.0))[1]

    def decay_of(self, weight_name: str) -> float:
        """Weight decay of a trainable weight, by its canonical name."""
        spared = self.decay_kernels_only and not weight_name.endswith(".kernel")
        return 0.0 if spared else self.weight_decay

    def step(
        self,
        name: str,
        weight: np.ndarray,
        gradient: np.ndarray,
        velocity: np.ndarray,
        learning_rate: float,
    ) -> tuple[np.ndarray, np.ndarray]:
        """New weight and velocity after one step: the arbiter of every backend's optimizer."""
        gradient = gradient + self.decay_of(name) * weight
        velocity = self.momentum * velocity + gradient
        ahead = gradient + self.momentum * velocity if self.nesterov else velocity
        return weight - learning_rate * self.rate_factor_of(name) * ahead, velocity
