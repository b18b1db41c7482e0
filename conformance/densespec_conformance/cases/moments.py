"""A trainer that has taken no step yet holds the moments that it was given, or zeros."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from densespec.network.graph import Graph, lower
from densespec.network.initial import initial_weights
from densespec.recipes.moments import flat_moments, initial_moments
from densespec.recipes.recipe import TrainingRecipe
from densespec_conformance.answering.target import Target
from densespec_conformance.asking.questions import stream
from densespec_conformance.asking.requests import NetworkToBuild, ReadMoments
from densespec_conformance.case import Case
from densespec_conformance.cases.forward import SMALL
from densespec_conformance.judging.compare import assert_identical
from densespec_conformance.judging.expected import Reference
from densespec_conformance.judging.outcome import Outcome

SIZE = (16, 16)
RECIPES = {
    "sgd": TrainingRecipe(),
    "adamw": TrainingRecipe(optimizer="adamw"),
    "average": TrainingRecipe(average=0.9),
    "rmsprop": TrainingRecipe(optimizer="rmsprop"),
}
CLAIM = (
    "before its first step a trainer holds what moments start at and averages of one array each, "
    "or what it was given, bit for bit"
)


def assert_moments_are_held(
    target: Target, network: NetworkToBuild, graph: Graph, recipe: TrainingRecipe
) -> Outcome:
    """Check that a new trainer of a float64 network has no moments, and one that goes on has what
    it had."""
    weights = network.weights or initial_weights(graph, network.seed)
    asked, first = ReadMoments(network, recipe), initial_moments(graph, recipe, weights, "float64")
    draw = stream("moments")
    given = {
        moment: {name: draw.random(array.shape) for name, array in arrays.items()}
        for moment, arrays in first.items()
    }
    assert_identical(actual=target.ask(asked), expected=flat_moments(first))
    goes_on = replace(asked, moments=given, steps_before=7)
    return assert_identical(actual=target.ask(goes_on), expected=flat_moments(given))


def _check(name: str, target: Target, reference: Reference) -> Outcome:
    network = NetworkToBuild(SMALL, input_size=SIZE)
    return assert_moments_are_held(target, network, lower(SMALL, SIZE), RECIPES[name])


CASES = tuple(
    Case(
        id=f"moments/{name}-before-the-first-step",
        claim=CLAIM,
        check=partial(_check, name),
        tier_in_modes="full",
        cost=1.5,
    )
    for name in RECIPES
)
