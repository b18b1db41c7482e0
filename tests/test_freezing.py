"""Freezing and cutting a graph, and what training then leaves alone."""

from __future__ import annotations

import numpy as np
import pytest

from densespec.errors import UnknownName
from densespec.network.graph import Graph, freeze, lower, split
from densespec.network.initial import initial_weights
from densespec.network.ops import Input
from densespec.recipes.recipe import TrainingRecipe
from densespec.reference.model import ReferenceModel
from tests.strategies import tiny

SPEC = tiny(blocks=(1, 2), dropout_rate=0.3, head_units=(5,), classes=3)
GRAPH = lower(SPEC, (8, 8))
LABELS = np.array([0, 1, 2, 0])
PARTS = ("block1", "transition1", "block2.layer2", "final", "head1", "classifier")


def _images() -> np.ndarray:
    return np.random.default_rng(1).standard_normal((4, SPEC.in_channels, 8, 8))


def _masks(graph: Graph) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(2)
    return {
        node.name: (draw.random((4, *node.shape)) > 0.3).astype(float)  # type: ignore[arg-type]
        for node in graph.nodes
        if "dropout" in node.name and not node.frozen
    }


@pytest.mark.parametrize("part", PARTS)
def test_everything_before_the_part_is_frozen_and_nothing_after(part: str) -> None:
    graph = freeze(GRAPH, part)
    names = [node.name for node in graph.nodes]
    first = names.index(next(name for name in names if name.startswith(part)))
    assert [node.frozen for node in graph.nodes] == [i < first for i in range(len(names))]
    assert graph.trainable_from == names[first]


def test_frozen_arrays_do_not_count_as_trainable() -> None:
    graph = freeze(GRAPH, "head1")
    head = sum(weight.size for weight in GRAPH.weights if weight.name.startswith(("head", "class")))
    assert graph.parameters.trainable == head
    assert graph.parameters.total == GRAPH.parameters.total


def test_freezing_again_replaces_what_was_frozen() -> None:
    assert freeze(freeze(GRAPH, "classifier"), "block2") == freeze(GRAPH, "block2")


def test_a_network_that_trains_from_its_first_node_on_is_not_frozen() -> None:
    assert freeze(freeze(GRAPH, "block2"), "stem") == GRAPH
    assert GRAPH.trainable_from is None


def test_the_dropout_before_the_classifier_drops_where_that_trains() -> None:
    graph = lower(tiny(head_units=(4,), head_dropout_rate=0.5))
    assert freeze(graph, "classifier").trainable_from == "head_dropout"
    assert [node.name for node in freeze(graph, "head_dropout").dropouts] == ["head_dropout"]
    assert [node.name for node in freeze(graph, "head1").dropouts] == ["head_dropout"]


def test_an_unknown_part_is_refused_with_a_suggestion() -> None:
    with pytest.raises(UnknownName, match="Did you mean block2"):
        freeze(GRAPH, "blok2")


@pytest.mark.parametrize("part", PARTS)
def test_training_changes_nothing_that_is_frozen(part: str) -> None:
    graph = freeze(GRAPH, part)
    model = ReferenceModel(graph, initial_weights(graph))
    before = {name: array.copy() for name, array in model.weights.items()}
    result = model.train_step(
        _images(), LABELS, TrainingRecipe(), learning_rate=0.1, masks=_masks(graph)
    )
    changed = {n for n, array in model.weights.items() if not np.array_equal(array, before[n])}
    frozen = {weight.name for node in graph.nodes if node.frozen for weight in node.weights}
    assert not changed & frozen
    trained = {weight.name for weight in graph.weights if weight.trainable}
    assert set(result.gradients) == set(model.moments["velocity"]) == trained
    assert {name for name in changed if "running" not in name} <= trained


def test_frozen_gradients_are_those_of_a_network_whose_frozen_part_is_in_inference() -> None:
    """The slope of the loss along a random direction, with the frozen part run beforehand."""
    graph = freeze(GRAPH, "block2")
    body, rest = split(graph, "block2")
    weights = initial_weights(graph)
    features = ReferenceModel(body, {w.name: weights[w.name] for w in body.weights})(_images())
    own = {w.name: weights[w.name] for w in rest.weights}
    masks = _masks(graph)
    whole = ReferenceModel(graph, weights).loss_and_gradients(_images(), LABELS, masks=masks)
    part = ReferenceModel(rest, own).loss_and_gradients(features, LABELS, masks=masks)
    assert whole[0] == pytest.approx(part[0], rel=1e-12)
    for name, gradient in part[1].items():
        np.testing.assert_allclose(whole[1][name], gradient, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("part", PARTS)
def test_the_two_parts_of_a_network_compute_what_the_whole_does(part: str) -> None:
    weights = initial_weights(GRAPH)
    body, rest = split(GRAPH, part)
    assert isinstance(rest.input.op, Input)
    assert {w.name for w in body.weights} | {w.name for w in rest.weights} == set(weights)
    between = ReferenceModel(body, {w.name: weights[w.name] for w in body.weights})(_images())
    given = {w.name: weights[w.name] for w in rest.weights}
    np.testing.assert_array_equal(
        ReferenceModel(rest, given)(between), ReferenceModel(GRAPH, weights)(_images())
    )


@pytest.mark.parametrize("part", ["stem", "block2.layer2.conv1", "block2.concat2"])
def test_a_network_is_cut_only_where_one_value_passes(part: str) -> None:
    with pytest.raises(ValueError, match="no place to cut"):
        split(GRAPH, part)
