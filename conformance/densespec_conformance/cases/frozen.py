"""What is frozen stays as it is, and what trains beside it trains as the reference does."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any

from densespec.network.graph import freeze, lower
from densespec.recipes.recipe import TrainingRecipe
from densespec_conformance.answering.target import Target
from densespec_conformance.asking.questions import batches, random_weights
from densespec_conformance.asking.requests import Inspect, NetworkToBuild, StepTrace, Train
from densespec_conformance.case import AS_IN_FAST, Case, Tier
from densespec_conformance.cases.forward import SMALL
from densespec_conformance.cases.structure import assert_structure
from densespec_conformance.judging.compare import assert_identical, assert_same_steps
from densespec_conformance.judging.expected import Reference
from densespec_conformance.judging.outcome import Outcome

STEPS, BATCH, SIZE = 6, 4, (20, 17)
DROPOUT = {"dropout_rate": 0.4, "dropout_place": "every-conv"}


@dataclass(frozen=True)
class FrozenRow:
    """Describes a network, the part that it trains from, and what is changed in the recipe."""

    name: str
    trainable_from: str
    changes: dict[str, Any] = field(default_factory=dict)
    recipe_changes: dict[str, Any] = field(default_factory=dict)
    tier: Tier = "quick"


ROWS = (
    FrozenRow("all-but-the-classifier", "classifier", DROPOUT),
    FrozenRow("all-but-a-new-head", "head1", {"head_units": (6,)}, tier="full"),
    FrozenRow("all-but-the-last-block", "block2", {"running_variance": "biased"}, tier="full"),
    FrozenRow(
        "all-but-the-last-block-with-rates-by-layer",
        "block2",
        DROPOUT,
        {"layer_rates": {"block2": 0.1, "block2.layer3": 0.5}},
    ),
)


def request(row: FrozenRow) -> Train:
    """Ask what a row asks."""
    spec = SMALL.replace(**row.changes)
    recipe = TrainingRecipe(
        epochs=STEPS, milestones=(0.5,), learning_rate=0.05, **row.recipe_changes
    )
    graph = freeze(lower(spec, SIZE), row.trainable_from)
    network = NetworkToBuild(
        spec,
        input_size=SIZE,
        weights=random_weights(graph, row.name),
        options={"trainable_from": row.trainable_from},
    )
    given = batches(graph, recipe, steps=STEPS, batch=BATCH, label=row.name)
    return Train(network, recipe, given)


def _check(row: FrozenRow, target: Target, reference: Reference) -> Outcome:
    asked = request(row)
    graph = freeze(lower(asked.network.spec, SIZE), row.trainable_from)
    assert_structure(target.ask(Inspect(asked.network, SIZE)), graph)
    answer: list[StepTrace] = target.ask(asked)
    expected = reference.expect(f"frozen {row.name}", lambda: asked)
    outcome = assert_same_steps(actual=answer, expected=expected)
    frozen = [weight.name for node in graph.nodes if node.frozen for weight in node.weights]
    given = asked.network.weights
    assert given is not None
    assert_identical(
        actual={name: answer[-1].weights[name] for name in frozen},
        expected={name: given[name] for name in frozen},
    )
    return outcome


CASES = tuple(
    Case(
        id=f"frozen/{row.name}",
        claim="no weight, running statistic or dropout of the frozen part takes part in training, "
        "and the rest trains as the reference does",
        check=partial(_check, row),
        tier=row.tier,
        tier_in_modes=AS_IN_FAST,
        cost=3,
    )
    for row in ROWS
)
