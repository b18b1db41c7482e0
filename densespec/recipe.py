"""The training recipe: what each term of a training step means, exactly.

Loss: the mean over the batch of -log softmax(logits)[label].

Step, for every trainable weight w with gradient g of the loss, velocity v (zero at first) and
learning rate lr, as in the paper's Torch7 code and in PyTorch:

    g <- g + weight_decay * w            coupled: part of the gradient, and so of the velocity
    v <- momentum * v + g                holds no learning rate, so a drop does not rescale history
    w <- w - lr * (g + momentum * v)     Nesterov; without it, w - lr * v

Keras's own SGD differs twice: its velocity holds the learning rate, and its ``weight_decay`` is
decoupled from the gradient. Weight decay applies to every trainable weight unless
``decay_kernels_only``.

Running statistics are updated once a step from the batch's statistics, by the spec's convention.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from densespec.fields import Flag, Fractions, Integer, Interval, Record, constrained, parse_fields

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingRecipe(Record):
    """SGD with Nesterov momentum and a learning rate that drops twice: the paper's section 4.2.

    Raises:
        SpecError: naming the field, its value and what is allowed.
    """

    epochs: int = constrained("R1", Integer(1), "passes over the data", default=300)
    batch_size: int = constrained("R2", Integer(1), "samples in a step", default=64)
    learning_rate: float = constrained(
        "R3", Interval(0, 1e3, open_lower=True), "at the start", default=0.1
    )
    milestones: tuple[float, ...] = constrained(
        "R4",
        Fractions(),
        "fractions of the epochs after which the learning rate drops",
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

    def __post_init__(self) -> None:
        parse_fields(self)

    def learning_rate_at(self, epoch: int) -> float:
        """Learning rate of an epoch, counted from 0."""
        drops = sum(epoch >= round(fraction * self.epochs, 9) for fraction in self.milestones)
        return self.learning_rate * self.gamma**drops

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
        return weight - learning_rate * ahead, velocity
