"""Asks for a float32 training step in which no ReLU is undecided.

In float32 training curves part after a few steps, on one backend from one run to another as well
as between backends. The cause is one op: rounding moves a ReLU's input across zero, and its
gradient goes from 0 to 1. So the step compared here is one whose ReLUs are all far from zero, and
it must be as exact as float32 is. ``docs/float32.md`` shows the effect.
"""

from __future__ import annotations

import functools
from dataclasses import replace

import numpy as np

from densespec.network import ops
from densespec.network.graph import lower
from densespec.recipes.recipe import TrainingRecipe
from densespec.reference.model import ReferenceModel
from densespec_conformance.answering.target import Target
from densespec_conformance.asking.questions import batches, random_weights
from densespec_conformance.asking.requests import NetworkToBuild, Train
from densespec_conformance.case import AS_IN_FAST, Case
from densespec_conformance.cases.forward import SMALL
from densespec_conformance.judging.compare import assert_same_steps
from densespec_conformance.judging.expected import Reference
from densespec_conformance.judging.outcome import Outcome

SPEC, SIZE = SMALL.replace(blocks=(1, 2)), (16, 16)
RECIPE = TrainingRecipe(epochs=1, learning_rate=0.05)
MARGIN = 1e-4
"""Every ReLU's input is at least this far from zero: a thousand times float32's rounding."""


def _distance_from_zero(request: Train) -> float:
    graph = lower(SPEC, SIZE)
    weights = request.network.weights
    assert weights is not None
    inputs = [graph.source(node).name for node in graph.nodes_of(ops.Relu)]
    model = ReferenceModel(graph, weights)
    values = model.run(request.batches[0].x, taps=inputs, training=True)
    return min(float(np.abs(value).min()) for value in values.values())


def _request(label: str) -> Train:
    given = batches(lower(SPEC, SIZE), RECIPE, steps=1, batch=2, label=label)
    weights = random_weights(lower(SPEC), label)
    rounded = {name: array.astype(np.float32) for name, array in weights.items()}
    network = NetworkToBuild(SPEC, input_size=SIZE, dtype="float32", weights=rounded)
    x = given[0].x.astype(np.float32)
    return Train(network, RECIPE, (replace(given[0], x=x),))


@functools.cache
def decided_step() -> Train:
    """Find the first step, in a fixed order, whose ReLUs are all decided."""
    for attempt in range(10_000):
        request = _request(f"float32 step {attempt}")
        if _distance_from_zero(request) >= MARGIN:
            return request
    raise AssertionError("no step found")


def _check(target: Target, reference: Reference) -> Outcome:
    expected = reference.expect("float32 step", decided_step)
    return assert_same_steps(actual=target.ask(decided_step()), expected=expected)


CASES = (
    Case(
        id="float32/training-step-with-decided-relus",
        claim="a float32 training step whose ReLUs are far from zero is that of the reference",
        check=_check,
        tier_in_modes=AS_IN_FAST,
        cost=3,
    ),
)
