"""Lists how averages may follow arrays instead of as the recipe says, and where it is found."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from densespec.recipes.recipe import TrainingRecipe
from densespec.reference.kernels import Array

Kept = Callable[[TrainingRecipe, int], float]
"""Computes the share of an average that a step keeps, from the recipe and the step's number from 1.
"""


def _by_recipe(recipe: TrainingRecipe, number: int) -> float:
    return 1 - recipe.average_share(number)


def _at_most(recipe: TrainingRecipe, kept: float) -> float:
    return min(recipe.average or 0.0, kept)


def _counted_from_zero(recipe: TrainingRecipe, number: int) -> float:
    before = number - 1
    return _at_most(recipe, before / (before + recipe.average_warmup) if before else 0.0)


def _corrected(recipe: TrainingRecipe, number: int) -> float:
    """Return what an average of zeros keeps whose share is divided out."""
    kept = recipe.average or 0.0
    return 1 - (1 - kept) / (1 - kept**number)


@dataclass(frozen=True)
class Following:
    """Holds what is known of an array and its average in a step.

    Attributes:
        before, after: The array before the step and after it.
        held: The average before the step.
        number: The number of the step, counted from 1.
        index: The number of steps before it that are shown.
    """

    before: Array
    after: Array
    held: Array
    number: int
    index: int


@dataclass(frozen=True)
class AverageRule:
    """Says how an average follows its array, with every choice spelled out.

    The defaults are the recipe's.

    Attributes:
        kept: What is kept of the average in a step.
        number: The share that is kept in each step, in place of that; None where there is no such.
        starts: What it starts from: the ``array``, ``zeros``, or the array after the first step
            (``stepped``).
        takes: Whether it takes up the array ``before`` the step or ``after`` it.
        resumes: Whether averages that are given are taken up.
        recounts: Whether the steps of a run that goes on are counted from 1 again.
    """

    kept: Kept = _by_recipe
    number: float | None = None
    starts: Literal["array", "zeros", "stepped"] = "array"
    takes: Literal["before", "after"] = "after"
    resumes: bool = True
    recounts: bool = False

    def average(self, recipe: TrainingRecipe, seen: Following) -> Array:
        """Return the average after a step."""
        number = seen.index + 1 if self.recounts else seen.number
        if number == 1 and self.starts == "stepped":
            return seen.after
        held = seen.before if seen.index == 0 and not self.resumes else seen.held
        if number == 1 and self.starts == "zeros":
            held = np.zeros_like(held)
        kept = self.kept(recipe, number) if self.number is None else self.number
        array = seen.after if self.takes == "after" else seen.before
        return held + (1 - kept) * (array - held)


@dataclass(frozen=True)
class AverageChoice:
    """Describes something that averages may do instead.

    Attributes:
        does: The words for it; ``{}`` stands for the number that is solved.
        source: The place where it is found.
        changes: The fields of the rule that differ.
    """

    does: str
    source: str
    changes: Mapping[str, Any]

    @property
    def unknown(self) -> bool:
        """Return whether the share that is kept is solved from what the target shows."""
        return "{}" in self.does

    def on(self, rule: AverageRule) -> AverageRule | None:
        """Change a rule; None where it has made such a choice already."""
        fields = (*self.changes, *(("kept",) if self.unknown else ()))
        taken = any(getattr(rule, one) != getattr(AverageRule(), one) for one in fields)
        return None if taken else replace(rule, **self.changes)


AVERAGES = (
    AverageChoice(
        "it is the array itself",
        "AveragedModel of PyTorch without use_buffers, ModelEmaV3 of timm with exclude_buffers, "
        "statistics under use_ema of Keras",
        {"kept": lambda recipe, number: 0.0},
    ),
    AverageChoice(
        "it stays what it was at first",
        "averages of model.parameters() alone, a copy of the model that nothing updates",
        {"kept": lambda recipe, number: 1.0},
    ),
    AverageChoice(
        "it starts with what the first step came to",
        "AveragedModel of PyTorch, ModelEmaV3 of timm, use_ema of Keras",
        {"starts": "stepped"},
    ),
    AverageChoice(
        "it starts with zeros, whose share is divided out",
        "optax.ema with debias=True",
        {"kept": _corrected},
    ),
    AverageChoice(
        "it starts with zeros",
        "optax.ema with debias=False",
        {"starts": "zeros"},
    ),
    AverageChoice(
        "it keeps as much from the first step on",
        "an ignored warm-up",
        {"kept": lambda recipe, number: recipe.average or 0.0},
    ),
    AverageChoice(
        "its warm-up counts steps from 0",
        "ModelEmaV3 of timm with warmup_power=1, where a step's number is that of those before it",
        {"kept": _counted_from_zero},
    ),
    AverageChoice(
        "with n steps before, it keeps at most 1 - (1 + n)^(-2/3)",
        "ModelEmaV3 of timm with use_warmup=True",
        {"kept": lambda recipe, number: _at_most(recipe, 1 - number ** (-2 / 3))},
    ),
    AverageChoice(
        "with n steps before, it keeps at most (1 + n) / (10 + n)",
        "ExponentialMovingAverage of TensorFlow with num_updates, updated before it is counted",
        {"kept": lambda recipe, number: _at_most(recipe, number / (9 + number))},
    ),
    AverageChoice(
        "in step n from 1, it keeps at most (1 + n) / (10 + n)",
        "ExponentialMovingAverage of TensorFlow with num_updates, LitEma of latent diffusion",
        {"kept": lambda recipe, number: _at_most(recipe, (1 + number) / (10 + number))},
    ),
    AverageChoice(
        "what should be kept of it is taken from the array",
        "averages that mean the share of what is new, as PyTorch's norms do by momentum",
        {"kept": lambda recipe, number: recipe.average_share(number)},
    ),
    AverageChoice(
        "it takes up the array before the step",
        "an average that is updated before optimizer.step()",
        {"takes": "before"},
    ),
    AverageChoice(
        "a resumed run starts it anew from the array",
        "a checkpoint of the model without its averages",
        {"resumes": False},
    ),
    AverageChoice(
        "a resumed run warms it up again",
        "num_updates or n_averaged that is not restored",
        {"recounts": True},
    ),
    AverageChoice(
        "it keeps {} in each step",
        "another default: 0.99 of Keras, 0.999 of PyTorch, 0.9999 of timm; torchvision's "
        "reference, which scales the rest to batch and epochs",
        {},
    ),
)
"""Lists what averages may do instead, the simplest first."""
