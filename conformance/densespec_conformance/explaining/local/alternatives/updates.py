"""Lists how weights may move instead of as the recipe says, with where each is found."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from densespec.network.arrays import Arrays
from densespec.recipes.optimizers import FIRST, OPTIMIZERS
from densespec.recipes.recipe import TrainingRecipe
from densespec.reference.kernels import Array

Clip = Callable[[Arrays, float], Arrays]
"""Computes the gradients to move by from the gradients and the recipe's norm."""


def norm(gradients: Arrays) -> float:
    """Return the norm of all gradients together."""
    return float(np.sqrt(sum(float((g**2).sum()) for g in gradients.values())))


def clipped(gradients: Arrays, limit: float) -> Arrays:
    """Scale gradients down to a norm, all together."""
    return _by(min(1.0, limit / max(norm(gradients), limit)), gradients)


def _with_margin(gradients: Arrays, limit: float) -> Arrays:
    return _by(min(1.0, limit / (norm(gradients) + 1e-6)), gradients)


def _by(factor: float, gradients: Arrays) -> Arrays:
    return {name: g * factor for name, g in gradients.items()}


def _each(gradients: Arrays, limit: float) -> Arrays:
    return {name: clipped({name: g}, limit)[name] for name, g in gradients.items()}


def _values(gradients: Arrays, limit: float) -> Arrays:
    return {name: np.clip(g, -limit, limit) for name, g in gradients.items()}


def _not_at_all(gradients: Arrays, limit: float) -> Arrays:
    return gradients


@dataclass(frozen=True)
class Move:
    """Holds what is known of a step of some weights, all in arrays of one shape.

    Attributes:
        before, gradient: The weights before the step, and their gradients, clipped.
        moments: What the optimizer kept before the step, by the name of the moment.
        kept: What it shows after the step; a weight moves by this.
        rate, decay: The learning rate of the step, and the weight decay of each.
        factor: What the learning rate of each is multiplied by.
        rate_before: The learning rate of the step before; of this step, where it is the first.
        first: Whether the optimizer starts with this step.
    """

    before: Array
    gradient: Array
    moments: Arrays
    kept: Arrays
    rate: float
    factor: Array
    rate_before: float
    decay: Array
    number: int
    first: bool


@dataclass(frozen=True)
class UpdateRule:
    """Says how weights move, with every choice spelled out; the defaults are the recipe's.

    Attributes:
        decay: Weight decay is ``coupled`` to the gradient; ``decoupled`` from it, times the
            learning rate; or decoupled and ``unscaled``; None stands for the optimizer's own.
        decay_by: What weight decay is multiplied by.
        decay_of: What it is instead; None stands for the recipe's.
        spares: Whether norms and biases are spared from it, where the recipe says so.
        nesterov, momentum, beta1, beta2, epsilon: What replaces the recipe's.
        dampening: The share of the gradient that the velocity does not take, after the first step.
        velocity: Whether that of SGD holds the learning rate, and is shown so (``raw``) or
            ``scaled`` back; that of RMSProp holds it unless it is ``bare``.
        epsilon_place: Where it is added: ``outside`` of the root of the corrected second moment; to
            the root of the ``uncorrected`` one; or ``inside`` of the root. None stands for the
            optimizer's own.
        starts: What the mean square of RMSProp is before the first step.
        corrected: Whether Adam corrects the bias of its moments.
        resumes: Whether moments that are given are taken up.
        recounts: Whether the steps of a run that goes on are counted from 1 again.
        by_layer: What the factors of parts of the network multiply: the ``rate``; all of it but
            decoupled weight decay (``but decay``); the ``gradient``; or nothing.
        rate_by: What the learning rate is multiplied by.
        clip: How gradients are brought to the recipe's norm.
    """

    decay: Literal["coupled", "decoupled", "unscaled"] | None = None
    decay_by: float = 1.0
    decay_of: float | None = None
    spares: bool = True
    nesterov: bool | None = None
    momentum: float | None = None
    beta1: float | None = None
    beta2: float | None = None
    epsilon: float | None = None
    dampening: float = 0.0
    velocity: Literal["plain", "raw", "scaled", "bare"] = "plain"
    epsilon_place: Literal["outside", "uncorrected", "inside"] | None = None
    starts: float = FIRST["mean_square"]
    corrected: bool = True
    resumes: bool = True
    recounts: bool = False
    by_layer: Literal["rate", "but decay", "gradient", "nothing"] = "rate"
    rate_by: float = 1.0
    clip: Clip = clipped

    def moments(self, recipe: TrainingRecipe, move: Move) -> Arrays:
        """Return the moments after a step, as the optimizer's state shows them."""
        g = self._gradient(recipe, move)
        if recipe.optimizer == "sgd":
            return self._velocity(recipe, move, g) if recipe.rule.moments else {}
        if recipe.optimizer == "rmsprop":
            return self._mean_square(recipe, move, g)
        beta1, beta2 = self._betas(recipe)
        return {
            "first_moment": beta1 * self._held(move, "first_moment") + (1 - beta1) * g,
            "second_moment": beta2 * self._held(move, "second_moment") + (1 - beta2) * g**2,
        }

    def weight(self, recipe: TrainingRecipe, move: Move) -> Array:
        """Return the weights after a step, by the moments that are shown after it."""
        w, rate = move.before, self._rate(move, move.rate) * self.rate_by
        if self._kind(recipe) != "coupled":
            of_decay = move.rate * self.rate_by if self.by_layer == "but decay" else rate
            scale = 1.0 if self._kind(recipe) == "unscaled" else of_decay
            w = w - self._decay(recipe, move) * w * scale
        g = self._gradient(recipe, move)
        if recipe.optimizer == "rmsprop":
            return w - (rate if self.velocity == "bare" else 1.0) * move.kept["velocity"]
        if recipe.optimizer != "sgd":
            return w - rate * self._ahead(recipe, move)
        if not move.kept:
            return w - rate * g
        nesterov = recipe.nesterov if self.nesterov is None else self.nesterov
        scale = self._scale(rate)
        v = move.kept["velocity"] * {"plain": 1.0, "raw": -1.0, "scaled": rate}[self.velocity]
        return w - rate / scale * (scale * g + self._momentum(recipe) * v if nesterov else v)

    def _kind(self, recipe: TrainingRecipe) -> str:
        return self.decay or ("decoupled" if recipe.optimizer == "adamw" else "coupled")

    def _rate(self, move: Move, rate: float) -> Array | float:
        return rate * move.factor if self.by_layer in ("rate", "but decay") else rate

    def _decay(self, recipe: TrainingRecipe, move: Move) -> Array | float:
        own = move.decay if self.spares else recipe.weight_decay
        return self.decay_by * own if self.decay_of is None else self.decay_of

    def _gradient(self, recipe: TrainingRecipe, move: Move) -> Array:
        g = move.gradient * (move.factor if self.by_layer == "gradient" else 1.0)
        coupled = self._kind(recipe) == "coupled"
        return g + self._decay(recipe, move) * move.before if coupled else g

    def _held(self, move: Move, moment: str) -> Array:
        starts = move.number == 1 or (move.first and not self.resumes)
        if starts and moment == "mean_square":
            return np.full_like(move.before, self.starts)
        forgets = move.first and not self.resumes
        return np.zeros_like(move.before) if forgets else move.moments[moment]

    def _momentum(self, recipe: TrainingRecipe) -> float:
        return recipe.momentum if self.momentum is None else self.momentum

    def _betas(self, recipe: TrainingRecipe) -> tuple[float, float]:
        beta1 = recipe.beta1 if self.beta1 is None else self.beta1
        return beta1, recipe.beta2 if self.beta2 is None else self.beta2

    def _scale(self, rate: Any) -> Any:
        return 1.0 if self.velocity == "plain" else rate

    def _velocity(self, recipe: TrainingRecipe, move: Move, g: Array) -> Arrays:
        scale, rate_before = self._scale(self._rate(move, move.rate)), move.rate_before
        kept = {"plain": 1.0, "raw": -1.0, "scaled": self._rate(move, rate_before)}[self.velocity]
        held = self._held(move, "velocity") * kept
        starts = move.first and not held.any()
        v = self._momentum(recipe) * held + scale * g * (1.0 if starts else 1 - self.dampening)
        return {"velocity": v * {"plain": 1.0, "raw": -1.0, "scaled": 1 / scale}[self.velocity]}

    def _mean_square(self, recipe: TrainingRecipe, move: Move, g: Array) -> Arrays:
        _, beta2 = self._betas(recipe)
        s = beta2 * self._held(move, "mean_square") + (1 - beta2) * g**2
        rate = self._rate(move, move.rate) * self.rate_by
        ahead = (1.0 if self.velocity == "bare" else rate) * g / self._size(recipe, s, "inside")
        v = self._momentum(recipe) * self._held(move, "velocity") + ahead
        return {"mean_square": s, "velocity": v}

    def _size(self, recipe: TrainingRecipe, s: Array, place: str, correction: float = 1.0) -> Array:
        """Return what a gradient is divided by, for a second moment and what corrects its bias."""
        epsilon = recipe.epsilon if self.epsilon is None else self.epsilon
        match self.epsilon_place or place:
            case "outside":
                return np.sqrt(s / correction) + epsilon
            case "uncorrected":
                return (np.sqrt(s) + epsilon) / np.sqrt(correction)
        return np.sqrt(s / correction + epsilon)

    def _ahead(self, recipe: TrainingRecipe, move: Move) -> Array:
        m, s = move.kept["first_moment"], move.kept["second_moment"]
        first, second = (
            1 - beta**move.number if self.corrected else 1.0 for beta in self._betas(recipe)
        )
        return m / first / self._size(recipe, s, "outside", second)


@dataclass(frozen=True)
class Choice:
    """Describes something that an optimizer may do instead.

    Attributes:
        does: The words for it; ``{}`` stands for the number that is solved.
        source: The place where it is found.
        changes: The fields of the rule that differ.
        unknown: The field whose value is solved from what the target shows; none if empty.
        optimizers: The optimizers that have such a choice.
        below: The upper bound of the number; it is never less than 0.
    """

    does: str
    source: str
    changes: Mapping[str, Any]
    unknown: str = ""
    optimizers: tuple[str, ...] = tuple(OPTIMIZERS)
    below: float = np.inf

    def fits(self, recipe: TrainingRecipe) -> bool:
        """Say whether a recipe could be misread so."""
        asks = {
            "clip": recipe.clip_norm is not None,
            "by_layer": bool(recipe.layer_rates),
            "spares": recipe.decay_kernels_only,
            "nesterov": recipe.nesterov != self.changes.get("nesterov"),
            "momentum": bool(recipe.rule.moments),
        }
        fields = {*self.changes, self.unknown}
        return recipe.optimizer in self.optimizers and all(asks.get(one, True) for one in fields)

    def on(self, rule: UpdateRule) -> UpdateRule | None:
        """Change a rule; None where it has made such a choice already."""
        taken = any(
            getattr(rule, name) != getattr(UpdateRule(), name)
            for name in (*self.changes, *filter(None, [self.unknown]))
        )
        return None if taken else replace(rule, **self.changes)


SGD, ADAM, RMSPROP = ("sgd",), ("adam", "adamw"), ("rmsprop",)

CHOICES = (
    Choice(
        "momentum does not look ahead",
        "the default of torch.optim.SGD and keras.optimizers.SGD",
        {"nesterov": False},
        optimizers=SGD,
    ),
    Choice(
        "momentum looks ahead", "an option that is always on", {"nesterov": True}, optimizers=SGD
    ),
    Choice(
        "there is no weight decay",
        "Keras's decay=1e-4, which is of the learning rate; filters on names",
        {"decay_by": 0.0},
    ),
    Choice("weight decay counts twice", "keras.regularizers.l2", {"decay_by": 2.0}),
    Choice(
        "weight decay is decoupled from the gradient",
        "Keras's weight_decay, AdamW, optax.add_decayed_weights after the momentum",
        {"decay": "decoupled"},
    ),
    Choice(
        "weight decay is part of the gradient, and so of the moments",
        "torch.optim.Adam with weight_decay, keras.regularizers",
        {"decay": "coupled"},
        optimizers=("adamw",),
    ),
    Choice(
        "weight decay is decoupled and not scaled by the learning rate",
        "SGDW and AdamW by their paper",
        {"decay": "unscaled"},
    ),
    Choice(
        "velocity holds the learning rate, with its sign turned",
        "keras.optimizers.SGD",
        {"velocity": "raw"},
        optimizers=SGD,
    ),
    Choice(
        "velocity holds the learning rate, so a drop does not reach what was gathered before",
        "keras.optimizers.SGD, momentum read relative to the rate",
        {"velocity": "scaled"},
        optimizers=SGD,
    ),
    Choice(
        "epsilon is added to the root of the second moment before its bias is corrected",
        "keras.optimizers.Adam and AdamW, Adam's paper at the end of its section 2",
        {"epsilon_place": "uncorrected"},
        optimizers=ADAM,
    ),
    Choice(
        "epsilon is added to the second moment, within the root",
        "optax.adam(eps_root=...), RMSProp of TensorFlow 1",
        {"epsilon_place": "inside"},
        optimizers=ADAM,
    ),
    Choice(
        "epsilon is added to the root of the mean square",
        "torch.optim.RMSprop, optax.rmsprop with eps_in_sqrt=False",
        {"epsilon_place": "outside"},
        optimizers=RMSPROP,
    ),
    Choice(
        "the mean square starts at 0",
        "torch.optim.RMSprop, keras.optimizers.RMSprop, optax.rmsprop without initial_scale",
        {"starts": 0.0},
        optimizers=RMSPROP,
    ),
    Choice(
        "velocity holds no learning rate, so a drop rescales what was gathered before",
        "torch.optim.RMSprop, rmsproptf of timm with lr_in_momentum=False",
        {"velocity": "bare"},
        optimizers=RMSPROP,
    ),
    Choice(
        "the bias of the moments is not corrected",
        "BERT's AdamWeightDecayOptimizer, correct_bias=False",
        {"corrected": False},
        optimizers=ADAM,
    ),
    Choice(
        "a resumed run starts without the optimizer's moments",
        "a checkpoint of the model without its optimizer",
        {"resumes": False},
    ),
    Choice(
        "a resumed run corrects the bias of its moments as if it had just begun",
        "optimizer.iterations, or the state's step, that is not restored",
        {"recounts": True},
        optimizers=ADAM,
    ),
    Choice(
        "norms and biases have weight decay too",
        "an optimizer with one parameter group",
        {"spares": False},
    ),
    Choice(
        "every part of the network has the same learning rate",
        "an optimizer with one parameter group, a schedule that sets one rate for all groups",
        {"by_layer": "nothing"},
    ),
    Choice(
        "factors of layers multiply their gradients, not their learning rates",
        "hooks on gradients, multipliers of gradients, which Adam divides out",
        {"by_layer": "gradient"},
    ),
    Choice(
        "weight decay is scaled by the learning rate alone, without the factors of layers",
        "Keras's weight_decay under learning rates by variable",
        {"by_layer": "but decay"},
        optimizers=("adamw",),
    ),
    Choice("the norm of the gradients is not clipped", "an ignored option", {"clip": _not_at_all}),
    Choice(
        "the norm of the gradients is clipped by a factor of norm / (length + 1e-6)",
        "torch.nn.utils.clip_grad_norm_",
        {"clip": _with_margin},
    ),
    Choice("the gradient of each weight is clipped by itself", "Keras's clipnorm", {"clip": _each}),
    Choice(
        "each value of the gradients is clipped by itself",
        "Keras's clipvalue, clip_grad_value_",
        {"clip": _values},
    ),
    Choice("momentum is {}", "another default", {}, "momentum", (*SGD, *RMSPROP), below=1),
    Choice(
        "momentum is dampened by {}",
        "dampening=momentum, Torch7's default",
        {},
        "dampening",
        SGD,
        below=1,
    ),
    Choice("beta1 is {}", "another default", {}, "beta1", ADAM, below=1),
    Choice("beta2 is {}", "another default", {}, "beta2", (*ADAM, *RMSPROP), below=1),
    Choice("epsilon is {}", "another default", {}, "epsilon", (*ADAM, *RMSPROP)),
    Choice("weight decay is {}", "filters on names, another default", {}, "decay_of"),
    Choice("the learning rate is multiplied by {}", "parameter groups", {}, "rate_by"),
)
"""Lists what an optimizer may do instead, the simplest first."""
