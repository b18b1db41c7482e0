"""A trainer that has taken no step yet holds the momentum that it was given, or zeros."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from densespec.network.arrays import Arrays
from densespec.network.graph import Graph, lower
from densespec.recipes.recipe import TrainingRecipe
from densespec_conformance.answering.target import Target
from densespec_conformance.asking.questions import stream
from densespec_conformance.asking.requests import NetworkToBuild, ReadVelocity
from densespec_conformance.case import Case
from densespec_conformance.cases.forward import SMALL
from densespec_conformance.judging.compare import assert_identical
from densespec_conformance.judging.expected import Reference
from densespec_conformance.judging.outcome import Outcome

SIZE = (16, 16)
RECIPE = TrainingRecipe()
CLAIM = "before its first step a trainer holds zeros, or the momentum it was given, bit for bit"


def random_velocity(graph: Graph, label: str) -> Arrays:
    """Draw momentum as after some training, for every trainable weight."""
    draw = stream(f"{label} velocity")
    return {w.name: draw.standard_normal(w.shape) for w in graph.weights if w.trainable}


def assert_momentum_is_held(target: Target, network: NetworkToBuild, graph: Graph) -> Outcome:
    """Check that a new trainer of a float64 network has no momentum, and one that goes on has what
    it had."""
    asked = ReadVelocity(network, RECIPE)
    given = random_velocity(graph, "momentum")
    zeros = {name: np.zeros_like(array) for name, array in given.items()}
    assert_identical(actual=target.ask(asked), expected=zeros)
    return assert_identical(actual=target.ask(replace(asked, velocity=given)), expected=given)


def _check(target: Target, reference: Reference) -> Outcome:
    network = NetworkToBuild(SMALL, input_size=SIZE)
    return assert_momentum_is_held(target, network, lower(SMALL, SIZE))


CASES = (Case(id="momentum/before-the-first-step", claim=CLAIM, check=_check, cost=1.5),)
