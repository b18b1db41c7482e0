"""Asks for a training step in 16 bits: mixed, with weights kept in float32, and of weights in 16.

Rounding to 16 bits moves many inputs of ReLUs across zero, and the largest of a window to another
place, so gradients part at once, by more than rounding (``float32_step.py`` says how). In the
network of these steps every op is smooth, or norms shift what every ReLU reads far from zero. So
its gradients are as exact as 16 bits are, and their bounds are derived as those of inference.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from densespec.network.arrays import Arrays
from densespec.network.graph import lower
from densespec.recipes.recipe import TrainingRecipe
from densespec_conformance.answering.target import Target
from densespec_conformance.asking.questions import batches, random_weights
from densespec_conformance.asking.requests import NetworkToBuild, Train
from densespec_conformance.case import Case, Tier
from densespec_conformance.cases.forward import CIFAR_STEM, SMALL
from densespec_conformance.judging.compare import assert_same_steps
from densespec_conformance.judging.expected import Reference
from densespec_conformance.judging.outcome import Outcome
from densespec_conformance.judging.rounding import rounded

SPEC, SIZE = SMALL.replace(**CIFAR_STEM, blocks=(1, 1), activation="silu"), (8, 8)
SHIFTS = np.array([1.25, 1.25, -1.25])
"""These are added to betas, for gammas of 0.25 at most, so that ReLUs are far from zero."""
SMALL_CLASSIFIER = 2.0**-15
"""Behind so small a classifier, gradients are below float16's smallest numbers, unless the loss is
scaled."""


@dataclass(frozen=True)
class NarrowRow:
    """Describes a step.

    Attributes:
        name: The id of its case.
        dtype: The type in which the network is built.
        claim: The claim of its case.
        learning_rate: The step's learning rate. It has to move weights by more than the type of
            weights rounds them.
        classifier: What the classifier's kernel is multiplied by.
        relu: Whether the network has ReLUs, whose norms are shifted.
    """

    name: str
    dtype: str
    claim: str
    learning_rate: float = 0.05
    classifier: float = 1.0
    relu: bool = False
    tier: Tier = "full"

    @property
    def mixed(self) -> bool:
        return self.dtype.startswith("mixed_")

    @property
    def kept(self) -> str:
        """Return the type that weights are kept in."""
        return "float32" if self.mixed else self.dtype

    @property
    def recipe(self) -> TrainingRecipe:
        """Return the recipe, which states the arithmetic if it is mixed."""
        stated: dict[str, Any] = {"dtype": self.dtype} if self.mixed else {}
        rate = self.learning_rate
        return TrainingRecipe(epochs=1, learning_rate=rate, weight_decay=0.1, average=0.5, **stated)


ROWS = (
    NarrowRow(
        "bfloat16/mixed-training-step",
        "mixed_bfloat16",
        "a step in mixed bfloat16 is as close to the reference as bfloat16 can be",
        tier="quick",
    ),
    NarrowRow(
        "bfloat16/mixed-training-step-with-decided-relus",
        "mixed_bfloat16",
        "a step in mixed bfloat16 is as exact as bfloat16 can be if ReLUs are far from zero",
        relu=True,
        tier="quick",
    ),
    NarrowRow(
        "float16/mixed-training-step",
        "mixed_float16",
        "a step in mixed float16, its loss scaled, is as close to the reference as float16 can be",
        classifier=SMALL_CLASSIFIER,
    ),
    NarrowRow(
        "bfloat16/training-step",
        "bfloat16",
        "a step of weights in bfloat16 is as close to the reference as bfloat16 can be",
        learning_rate=2.0,
    ),
)


def request(row: NarrowRow) -> Train:
    """Ask what a row asks: about one step."""
    spec = SPEC.replace(activation="relu") if row.relu else SPEC
    graph = lower(spec, SIZE)
    weights = random_weights(graph, "mixed step")
    weights["classifier.kernel"] *= row.classifier
    weights = _shifted(weights) if row.relu else weights
    kept = {name: rounded(array, row.kept) for name, array in weights.items()}
    network = NetworkToBuild(spec, input_size=SIZE, dtype=row.dtype, weights=kept)
    (given,) = batches(graph, row.recipe, steps=1, batch=8, label="mixed step")
    return Train(network, row.recipe, (replace(given, x=rounded(given.x, row.kept)),))


def _shifted(weights: Arrays) -> Arrays:
    """Have every norm give values that are far from zero, all of a channel on the same side."""
    arrays = dict(weights)
    for name in weights:
        if name.endswith(".gamma"):
            beta = name.replace("gamma", "beta")
            arrays[name] = weights[name] / 6
            arrays[beta] = weights[beta] / 6 + np.resize(SHIFTS, weights[beta].shape)
    return arrays


def _check(row: NarrowRow, target: Target, reference: Reference) -> Outcome:
    asked = request(row)
    expected = reference.expect(row.name, lambda: asked)
    return assert_same_steps(actual=target.ask(asked), expected=expected)


CASES = tuple(
    Case(
        id=row.name,
        claim=row.claim,
        check=partial(_check, row),
        tier=row.tier,
        tier_in_modes=None if row.relu else "full",  # modes fuse ReLUs alone
        cost=3,
    )
    for row in ROWS
)
