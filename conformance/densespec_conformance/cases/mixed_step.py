"""A training step in mixed precision: 16-bit arithmetic, with weights kept in float32.

Rounding to 16 bits moves many inputs of ReLUs across zero, and the largest of a window to another
place, so gradients part at once, by more than rounding (``float32_step.py`` says how). In the
network of this step every op is smooth, so that its gradients are as exact as 16 bits are, and
their bounds are derived as those of inference.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from densespec.network.graph import lower
from densespec.recipes.recipe import TrainingRecipe
from densespec_conformance.answering.target import Target
from densespec_conformance.asking.questions import batches, random_weights
from densespec_conformance.asking.requests import NetworkToBuild, Train
from densespec_conformance.case import Case
from densespec_conformance.cases.forward import CIFAR_STEM, SMALL
from densespec_conformance.judging.compare import assert_same_steps
from densespec_conformance.judging.expected import Reference
from densespec_conformance.judging.outcome import Outcome

SPEC, SIZE = SMALL.replace(**CIFAR_STEM, blocks=(1, 1), activation="silu"), (8, 8)
RECIPE = TrainingRecipe(
    epochs=1, learning_rate=0.05, weight_decay=0.1, dtype="mixed_bfloat16", average=0.5
)


def request() -> Train:
    """Ask about one step of weights that float32 holds."""
    graph = lower(SPEC, SIZE)
    weights = random_weights(graph, "mixed step")
    rounded = {name: array.astype(np.float32) for name, array in weights.items()}
    network = NetworkToBuild(SPEC, input_size=SIZE, dtype=RECIPE.dtype, weights=rounded)
    (given,) = batches(graph, RECIPE, steps=1, batch=8, label="mixed step")
    return Train(network, RECIPE, (replace(given, x=given.x.astype(np.float32)),))


def _check(target: Target, reference: Reference) -> Outcome:
    expected = reference.expect("mixed step", request)
    return assert_same_steps(actual=target.ask(request()), expected=expected)


CASES = (
    Case(
        id="bfloat16/mixed-training-step",
        claim="a step in mixed bfloat16 is as close to the reference as bfloat16 can be",
        check=_check,
        cost=3,
    ),
)
