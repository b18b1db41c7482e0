"""Defines the rules of the optimizers: how one weight moves in a step, in arithmetic alone.

For every weight w with gradient g, weight decay d and learning rate r, in step t, counted from 1:

SGD, as in the paper's Torch7 code and in PyTorch, with the velocity v, zero at first:

    g <- g + d * w                       coupled: part of the gradient, and so of the velocity
    v <- momentum * v + g                holds no learning rate, so a drop does not rescale history
    w <- w - r * (g + momentum * v)      Nesterov; without it, w - r * v

Adam, as in its paper and in PyTorch, with the first moment m and the second s, zero at first:

    g <- g + d * w                       coupled, as above
    m <- beta1 * m + (1 - beta1) * g
    s <- beta2 * s + (1 - beta2) * g**2
    w <- w - r * (m / (1 - beta1**t)) / (sqrt(s / (1 - beta2**t)) + epsilon)

AdamW, as in PyTorch and optax, is Adam but for the decay, which is decoupled from the gradient and
the moments, times the learning rate, and of the weight before the step:

    w <- w - r * d * w - r * (m / (1 - beta1**t)) / (sqrt(s / (1 - beta2**t)) + epsilon)

RMSProp, as TensorFlow 1 had it and timm has it under ``rmsproptf``, with the mean square s, one at
first, and the velocity v:

    g <- g + d * w                       coupled, as above
    s <- beta2 * s + (1 - beta2) * g**2
    v <- momentum * v + r * g / sqrt(s + epsilon)     holds the learning rate
    w <- w - v

A rule takes whatever arrays compute like numpy's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

Moments = Mapping[str, Any]
"""Holds what an optimizer keeps of one weight, by the name of the moment."""


class Constants(Protocol):
    """Holds the constants of all optimizers, as a recipe has them."""

    @property
    def momentum(self) -> float: ...

    @property
    def nesterov(self) -> bool: ...

    @property
    def beta1(self) -> float: ...

    @property
    def beta2(self) -> float: ...

    @property
    def epsilon(self) -> float: ...


@dataclass(frozen=True)
class Step:
    """Holds what a rule is told of a step of one weight.

    Attributes:
        rate: The learning rate, times the weight's own factor.
        decay: The coefficient of the weight's decay.
        number: The number of the step, counted from 1.
    """

    rate: float
    decay: float
    number: int


class Rule(Protocol):
    """Says how one weight moves."""

    @property
    def moments(self) -> tuple[str, ...]:
        """Return the names of the moments that are kept of each weight: ``FIRST``, or zero, at
        first."""
        ...

    def update(
        self, constants: Constants, weight: Any, gradient: Any, moments: Moments, step: Step
    ) -> tuple[Any, dict[str, Any]]:
        """Return the new weight and its new moments."""
        ...


class _SGD:
    moments = ("velocity",)

    def update(
        self, constants: Constants, weight: Any, gradient: Any, moments: Moments, step: Step
    ) -> tuple[Any, dict[str, Any]]:
        gradient = gradient + step.decay * weight
        velocity = constants.momentum * moments["velocity"] + gradient
        ahead = gradient + constants.momentum * velocity if constants.nesterov else velocity
        return weight - step.rate * ahead, {"velocity": velocity}


class _Descent:
    """Moves weights by SGD without momentum, which keeps nothing."""

    moments = ()

    def update(
        self, constants: Constants, weight: Any, gradient: Any, moments: Moments, step: Step
    ) -> tuple[Any, dict[str, Any]]:
        return weight - step.rate * (gradient + step.decay * weight), {}


@dataclass(frozen=True)
class _Adam:
    decoupled: bool
    moments = ("first_moment", "second_moment")

    def update(
        self, constants: Constants, weight: Any, gradient: Any, moments: Moments, step: Step
    ) -> tuple[Any, dict[str, Any]]:
        decayed = step.decay * weight
        if not self.decoupled:
            gradient = gradient + decayed
        beta1, beta2 = constants.beta1, constants.beta2
        first = beta1 * moments["first_moment"] + (1 - beta1) * gradient
        second = beta2 * moments["second_moment"] + (1 - beta2) * gradient**2
        size = (second / (1 - beta2**step.number)) ** 0.5 + constants.epsilon
        ahead = first / (1 - beta1**step.number) / size
        if self.decoupled:
            ahead = ahead + decayed
        return weight - step.rate * ahead, {"first_moment": first, "second_moment": second}


class _RMSProp:
    moments = ("mean_square", "velocity")

    def update(
        self, constants: Constants, weight: Any, gradient: Any, moments: Moments, step: Step
    ) -> tuple[Any, dict[str, Any]]:
        gradient, beta2 = gradient + step.decay * weight, constants.beta2
        square = beta2 * moments["mean_square"] + (1 - beta2) * gradient**2
        ahead = step.rate * gradient / (square + constants.epsilon) ** 0.5
        velocity = constants.momentum * moments["velocity"] + ahead
        return weight - velocity, {"mean_square": square, "velocity": velocity}


OPTIMIZERS: Mapping[str, Rule] = {
    "sgd": _SGD(),
    "adam": _Adam(decoupled=False),
    "adamw": _Adam(decoupled=True),
    "rmsprop": _RMSProp(),
}
"""Gives the optimizers by the names that recipes have for them."""

FIRST: Mapping[str, float] = {"mean_square": 1.0}
"""A moment has these values before the first step, and 0 where it does not stand here."""

DESCENT: Rule = _Descent()
"""Without momentum, SGD is this rule."""
