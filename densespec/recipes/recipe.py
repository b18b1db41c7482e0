"""Defines the training recipe: it says exactly what each term of a training step means.

Loss, of logits z over C classes, with label smoothing s:

- ``softmax``: the mean over the batch of -w[label] * sum over c of t[c] * log softmax(z)[c], where
  the target t is 1 - s + s / C at the label and s / C elsewhere, and w is ``class_weights``, or 1.
  Where a sample has shares of several classes, which sum to 1, it is the mean of the losses of
  these labels, weighed by their shares.
- ``sigmoid``: the mean over batch and classes of -(p * t * log sigmoid(z) + (1 - t) * log(1 -
  sigmoid(z))), where t is label * (1 - s) + s / 2, and p is ``positive_weights``, or 1.
- ``squared``: the mean over batch and classes of (z - label)**2.

With the last two a sample has a label for each class. One that is not known is NaN, or negative
with ``sigmoid``; it adds nothing, and is counted in the mean all the same, so that the loss of a
batch is the mean of those of its parts. Nor is it divided by the sum of any weights.

Step: the optimizer's rule (:mod:`densespec.recipes.optimizers`) for every trainable weight, with
the gradient of the loss alone, at the learning rate of the step
(:mod:`densespec.recipes.schedules`) times the weight's own factor, where ``layer_rates`` gives one.
Weight decay applies to every trainable weight unless ``decay_kernels_only``.

Clipping: with ``clip_norm`` c, and n the root of the sum of all squares in the gradients,
each gradient is first multiplied by c / n where n > c. Nothing is added to n.

Average: with ``average`` a, every array that moves, running statistics included, has an average
beside it, at first the array itself. After step t, counted from 1, it is

    average + (1 - k) * (array - average),   k = min(a, t / (t + average_warmup))

Networks are judged by the averages; steps are taken from the arrays.

Running statistics are updated once a step from the batch's statistics, by the spec's convention.

Accumulation: with ``accumulate`` n, a batch is split into n consecutive parts, as among devices
below, of which only one is in memory. Loss and gradients are the means over all samples, so that
the step is that of the whole batch but for norms: each part is normalised by its own statistics,
and running statistics are updated by one part after the other. On several devices each part is
split among them as a batch is otherwise.

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

from densespec.errors import SpecError
from densespec.network.fields import (
    ByName,
    Choice,
    Flag,
    Integer,
    Interval,
    Milestones,
    Numbers,
    OrNone,
    Record,
    constrained,
    parse_fields,
)
from densespec.network.spec import DenseNetSpec
from densespec.recipes.optimizers import DESCENT, OPTIMIZERS, Moments, Rule, Step
from densespec.recipes.schedules import FALLING, SCHEDULES, SHAPES, STEPS, warmed

AUGMENTATIONS = ("none", "cifar", "imagenet")
LOSSES = ("softmax", "sigmoid", "squared")
AVERAGE = "average"
"""Arrays are kept under this name beside the moments, if the recipe has an average."""
OF_ONE_LOSS = (("R29", "class_weights", "softmax"), ("R30", "positive_weights", "sigmoid"))
"""The weights of classes have a meaning with one loss alone."""
MOST_DROPS = 10000
"""A learning rate may drop at most this many times by ``drop_every``."""
DTYPES = ("float32", "float64", "mixed_bfloat16", "mixed_float16")


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingRecipe(Record):
    """Says how a network is trained.

    By default it is trained as in the paper's section 4.2: by SGD with Nesterov momentum and a
    learning rate that drops twice.

    Raises:
        SpecError: a value is not allowed; the message names the field, its value and the allowed
            values.
    """

    NOUN: ClassVar[str] = "recipe"

    epochs: int = constrained("R1", Integer(1), "passes over the data", default=300)
    batch_size: int = constrained("R2", Integer(1), "samples in a step", default=64)
    learning_rate: float = constrained(
        "R3",
        Interval(0, 1e3, open_lower=True),
        "at its highest: at the start, or after the warm-up",
        default=0.1,
    )
    milestones: tuple[float, ...] = constrained(
        "R4",
        Milestones(),
        "when the learning rate drops, with the schedule 'steps': after these fractions of the "
        "epochs, or these epochs",
        default=(0.5, 0.75),
    )
    gamma: float = constrained(
        "R5",
        Interval(0, 1, open_lower=True),
        "factor on the learning rate at each milestone, or after every drop_every epochs",
        default=0.1,
    )
    momentum: float = constrained(
        "R6",
        Interval(0, 1, open_upper=True),
        "of SGD and RMSProp: what is kept of the velocity",
        default=0.9,
    )
    nesterov: bool = constrained(
        "R7", Flag(), "whether the momentum of SGD looks ahead", default=True
    )
    weight_decay: float = constrained(
        "R8",
        Interval(0, 1),
        "coefficient of L2 decay: decoupled from the gradient, times the learning rate, with "
        "'adamw'; part of the gradient with the others",
        default=1e-4,
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

    loss: Literal["softmax", "sigmoid", "squared"] = constrained(
        "R28",
        Choice(LOSSES),
        "of logits: cross entropy of one label an image, or of several, each by itself, or the "
        "squared error to numbers",
        default="softmax",
    )
    class_weights: tuple[float, ...] = constrained(
        "R29",
        Numbers(Interval(0, 1e6)),
        "factors on the loss of an image by its label, one for each class, with 'softmax'; none "
        "are 1",
        default=(),
    )
    positive_weights: tuple[float, ...] = constrained(
        "R30",
        Numbers(Interval(0, 1e6)),
        "factors on the loss of labels that are given, one for each class, with 'sigmoid'; none "
        "are 1",
        default=(),
    )
    optimizer: str = constrained(
        "R17", Choice(tuple(OPTIMIZERS)), "by which rule weights move", default="sgd"
    )
    beta1: float = constrained(
        "R18",
        Interval(0, 1, open_upper=True),
        "of Adam and AdamW: what is kept of the first moment",
        default=0.9,
    )
    beta2: float = constrained(
        "R19",
        Interval(0, 1, open_upper=True),
        "what is kept of the second moment of Adam and AdamW, and of the mean square of RMSProp",
        default=0.999,
    )
    epsilon: float = constrained(
        "R20",
        Interval(0, 1, open_lower=True),
        "what is added to the root of the second moment of Adam and AdamW, or to the mean square "
        "of RMSProp, within the root",
        default=1e-8,
    )
    clip_norm: float | None = constrained(
        "R21",
        OrNone(Interval(0, 1e6, open_lower=True)),
        "the largest norm of all gradients of a step together; a larger one is scaled down to it",
        default=None,
    )
    schedule: Literal["steps", "cosine", "linear", "constant"] = constrained(
        "R22",
        Choice(SCHEDULES),
        "how the learning rate goes down: by a factor at milestones, along half a cosine, along a "
        "line, or not at all",
        default="steps",
    )
    rate_per: Literal["epoch", "step"] = constrained(
        "R23",
        Choice(("epoch", "step")),
        "whether a learning rate holds for an epoch or for a step",
        default="epoch",
    )
    warmup_epochs: float = constrained(
        "R24",
        Interval(0, 1e6),
        "epochs over which the learning rate first goes up along a line; fewer than all",
        default=0.0,
    )
    warmup_steps: int = constrained(
        "R25",
        Integer(0),
        "steps over which it goes up, in place of epochs, where a rate holds for a step",
        default=0,
    )
    warmup_start: float = constrained(
        "R26", Interval(0, 1), "share of the learning rate that a warm-up starts at", default=0.01
    )
    final_rate: float = constrained(
        "R27",
        Interval(0, 1e3),
        "what 'cosine' and 'linear' come down to, at most the learning rate",
        default=0.0,
    )

    drop_every: float | None = constrained(
        "R41",
        OrNone(Interval(0, 1e6, open_lower=True)),
        "epochs from one drop of the learning rate to the next, with the schedule 'steps' and no "
        "milestones",
        default=None,
    )

    average: float | None = constrained(
        "R31",
        OrNone(Interval(0, 1, open_upper=True)),
        "what is kept at each step of the averages of weights and statistics, by which the network "
        "is judged; none keeps no averages",
        default=None,
    )
    average_warmup: float = constrained(
        "R32",
        Interval(0, 1e9),
        "for as many steps or so the averages keep less: in step t at most "
        "t / (t + average_warmup)",
        default=0.0,
    )

    rand_augment: int = constrained(
        "R33",
        Integer(0, 10),
        "how many operations of a list are done to each image: RandAugment",
        default=0,
    )
    rand_magnitude: float = constrained(
        "R34", Interval(0, 30), "how far the operations of rand_augment go", default=9.0
    )
    rotation: float = constrained(
        "R35", Interval(0, 180), "by up to how many degrees images are turned", default=0.0
    )
    colour: float = constrained(
        "R36",
        Interval(0, 1),
        "by up to what share brightness, contrast and saturation change",
        default=0.0,
    )
    erasing: float = constrained(
        "R37", Interval(0, 1), "share of the images of which a box is erased", default=0.0
    )
    erasing_fill: Literal["mean", "noise"] = constrained(
        "R42",
        Choice(("mean", "noise")),
        "what fills the box: the mean colour, or normal noise of its own for each pixel",
        default="mean",
    )
    mixup: float = constrained(
        "R38",
        Interval(0, 1e3),
        "of images with others, by shares of Beta(mixup, mixup); 0 mixes none",
        default=0.0,
    )
    cutmix: float = constrained(
        "R39",
        Interval(0, 1e3),
        "of images with boxes of others, likewise; with mixup as well, a batch is mixed by either",
        default=0.0,
    )

    accumulate: int = constrained(
        "R40",
        Integer(1),
        "into how many parts a batch is split, one after the other on the device, whose gradients "
        "are added up to those of the step",
        default=1,
    )

    def __post_init__(self) -> None:
        parse_fields(self)
        if self.warmup_epochs and self.warmup_epochs >= self.epochs:
            raise SpecError(
                "R24", "warmup_epochs", self.warmup_epochs, f"fewer than all {self.epochs} epochs"
            )
        if self.warmup_steps and (self.warmup_epochs or self.rate_per == "epoch"):
            raise SpecError(
                "R25",
                "warmup_steps",
                self.warmup_steps,
                "0 with warmup_epochs, or unless rate_per = 'step'",
            )
        if self.final_rate > self.learning_rate:
            raise SpecError(
                "R27",
                "final_rate",
                self.final_rate,
                f"at most learning_rate = {self.learning_rate}",
            )

        if self.drop_every and (self.schedule != STEPS or self.milestones):
            only = "none, unless schedule = 'steps' and milestones = []"
            raise SpecError("R41", "drop_every", self.drop_every, only)
        if self.drop_every and self.epochs > MOST_DROPS * self.drop_every:
            most = f"so long that the rate of {self.epochs} epochs drops at most {MOST_DROPS} times"
            raise SpecError("R41", "drop_every", self.drop_every, most)

        if self.average_warmup and self.average is None:
            raise SpecError("R32", "average_warmup", self.average_warmup, "0 without an average")

        if self.accumulate > self.batch_size:
            most = f"at most batch_size = {self.batch_size}"
            raise SpecError("R40", "accumulate", self.accumulate, most)

        for number, name, loss in OF_ONE_LOSS:
            value = getattr(self, name)
            if value and self.loss != loss:
                raise SpecError(number, name, value, f"none, unless loss = {loss!r}")
        if self.label_smoothing and self.loss == "squared":
            raise SpecError("R11", "label_smoothing", self.label_smoothing, "0 of numbers")

    def check_classes(self, classes: int) -> None:
        """Check that weights of classes are as many as a network has classes.

        Raises:
            SpecError: they are not.
        """
        for number, name, _ in OF_ONE_LOSS:
            value = getattr(self, name)
            if value and len(value) != classes:
                raise SpecError(number, name, value, f"{classes} numbers, one for each class")

    def rate_of_step(self, step: int, steps_per_epoch: int) -> float:
        """Return the learning rate of a step of the run, counted from 0."""
        if self.rate_per == "epoch":
            return self.learning_rate_at(step // steps_per_epoch)
        warmup = self.warmup_steps or self.warmup_epochs * steps_per_epoch
        return self._rate(step, warmup, steps_per_epoch)

    def learning_rate_at(self, epoch: int) -> float:
        """Return the learning rate of an epoch, counted from 0.

        Raises:
            ValueError: each step has a rate of its own.
        """
        if self.rate_per == "step":
            raise ValueError(
                "the learning rate of this recipe changes with each step: ask rate_of_step"
            )
        return self._rate(epoch, self.warmup_epochs, 1)

    def _rate(self, at: int, warmup: float, per_epoch: int) -> float:
        """Return the rate of a step, or of an epoch, if an epoch has this many of them."""
        if at < warmup:
            return self.learning_rate * warmed(self.warmup_start, at, warmup)
        if self.schedule == STEPS:
            drops = sum(at >= drop * per_epoch for drop in self.drop_epochs())
            return self.learning_rate * self.gamma**drops
        left = SHAPES[self.schedule]((at - warmup) / (self.epochs * per_epoch - warmup))
        return self.final_rate + (self.learning_rate - self.final_rate) * left

    @property
    def holds_rates(self) -> bool:
        """Say whether the learning rate holds for many epochs and changes at a few."""
        return self.rate_per == "epoch" and self.schedule not in FALLING

    def learning_rates(self) -> dict[int, float]:
        """Return the learning rates by the epoch, counted from 0, at which each begins.

        Raises:
            ValueError: the recipe's rate does not hold for epochs.
        """
        if not self.holds_rates:
            raise ValueError(f"the learning rate of this recipe changes with each {self.rate_per}")
        found: dict[int, float] = {}
        for epoch in sorted({*range(math.ceil(self.warmup_epochs) + 1), *self.drop_epochs()}):
            rate = self.learning_rate_at(epoch)
            if epoch < self.epochs and (not found or rate != [*found.values()][-1]):
                found[epoch] = rate
        return found

    def course(self) -> str:
        """Describe the course of the learning rate in words."""
        if self.holds_rates and not self.drop_every:
            rates = self.learning_rates().items()
            return ", ".join(f"{rate:g} from epoch {epoch + 1}" for epoch, rate in rates)
        falls = f"{self.schedule} from {self.learning_rate:g}, a rate for each {self.rate_per}"
        end = f", towards {self.final_rate:g}" if self.schedule in FALLING else ""
        if self.drop_every:
            end = f", times {self.gamma:g} every {self.drop_every:g} epochs"
        start = self.warmup_start * self.learning_rate
        long = (
            f"{self.warmup_steps} steps" if self.warmup_steps else f"{self.warmup_epochs:g} epochs"
        )
        warm = self.warmup_steps or self.warmup_epochs
        return falls + end + (f", after {long} of warm-up from {start:g}" if warm else "")

    def drop_epochs(self) -> list[int]:
        """Return the epochs, counted from 0, at whose start the learning rate drops by the
        milestones."""
        if self.schedule != STEPS:
            return []
        if self.drop_every:
            return self._every(self.drop_every)
        whole = all(isinstance(milestone, int) for milestone in self.milestones)
        drops = [m if whole else round(m * self.epochs, 9) for m in self.milestones]
        return [math.ceil(drop) for drop in drops]

    def _every(self, epochs: float) -> list[int]:
        """Return the epochs at whose start a drop is due that comes every so many epochs."""
        count = math.ceil(self.epochs / epochs)
        drops = (math.ceil(round(number * epochs, 9)) for number in range(1, count))
        return [drop for drop in drops if drop < self.epochs]

    @property
    def rule(self) -> Rule:
        """Return the rule by which weights move."""
        rule = OPTIMIZERS[self.optimizer]
        return DESCENT if self.optimizer == "sgd" and not self.momentum else rule

    def applied_to(self, spec: DenseNetSpec) -> DenseNetSpec:
        """Return the spec with the recipe's dropout rate, if the recipe states one."""
        return spec if self.dropout_rate is None else spec.replace(dropout_rate=self.dropout_rate)

    def rate_factor_of(self, weight_name: str) -> float:
        """Return the factor on the learning rate of a trainable weight, by its canonical name."""
        fitting = [
            (len(part), factor)
            for part, factor in self.layer_rates
            if weight_name.startswith(f"{part}.")
        ]
        return max(fitting, default=(0, 1.0))[1]

    def decay_of(self, weight_name: str) -> float:
        """Return the weight decay of a trainable weight, by its canonical name."""
        spared = self.decay_kernels_only and not weight_name.endswith(".kernel")
        return 0.0 if spared else self.weight_decay

    def clip_factor(self, norm: float) -> float:
        """Return the factor on every gradient of a step, by the norm of all of them together."""
        return 1.0 if self.clip_norm is None or norm <= self.clip_norm else self.clip_norm / norm

    @property
    def mixes(self) -> bool:
        """Say whether images are mixed, so that labels are shares of several classes."""
        return bool(self.mixup or self.cutmix)

    @property
    def has_shares(self) -> bool:
        """Say whether a label is the shares of all classes, rather than one class."""
        return self.mixes and self.loss == "softmax"

    @property
    def changes_images(self) -> bool:
        """Say whether an image is another one in each epoch."""
        fields = (self.rand_augment, self.rotation, self.colour, self.erasing)
        return self.augmentation != "none" or self.mixes or any(fields)

    @property
    def kept(self) -> tuple[str, ...]:
        """Return the names of what is kept beside the weights: the moments and the average."""
        return (*self.rule.moments, *(() if self.average is None else (AVERAGE,)))

    def average_share(self, number: int) -> float:
        """Return how much of an array its average takes up in a step, counted from 1.

        Raises:
            ValueError: the recipe has no average.
        """
        if self.average is None:
            raise ValueError("the recipe has no average")
        return 1 - min(self.average, number / (number + self.average_warmup))

    def step(
        self,
        name: str,
        weight: np.ndarray,
        gradient: np.ndarray,
        moments: Moments,
        learning_rate: float,
        number: int = 1,
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Compute the new weight and moments after one step, as every backend's optimizer must.

        Args:
            gradient: the gradient of the loss alone, clipped.
            moments: the arrays that are kept of the weight, by the names of ``rule.moments``; zeros
                at first.
            number: the number of the step, counted from 1.
        """
        rate = learning_rate * self.rate_factor_of(name)
        step = Step(rate, self.decay_of(name), number)
        return self.rule.update(self, weight, gradient, moments, step)
