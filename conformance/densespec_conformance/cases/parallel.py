"""Asks whether training on two devices is what the recipe defines."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any

from densespec.network.graph import lower
from densespec.recipes.recipe import TrainingRecipe
from densespec_conformance.answering.target import Target
from densespec_conformance.asking.questions import batches, random_weights
from densespec_conformance.asking.requests import NetworkToBuild, Train
from densespec_conformance.case import AS_IN_FAST, Case, Tier, TierByMode
from densespec_conformance.cases.forward import SMALL
from densespec_conformance.cases.training import FEW_LAYERS, RMSPROP
from densespec_conformance.judging.compare import assert_same_steps
from densespec_conformance.judging.expected import Reference
from densespec_conformance.judging.outcome import Outcome

STEPS, SIZE, DEVICES = 4, (20, 17), 2


@dataclass(frozen=True)
class ParallelRow:
    """Describes a network, the scope of its norms, its batch's size, and changes of the recipe.

    Each costs the start of a process for every device, so the quick tier has few.
    """

    name: str
    batch_norm: str
    batch: int
    changes: dict[str, Any] = field(default_factory=dict)
    tier: Tier = "full"
    recipe_changes: dict[str, Any] = field(default_factory=dict)
    tier_in_modes: Tier | TierByMode = "full"


ROWS = (
    ParallelRow(
        "synchronised-norms",
        "synchronised",
        5,
        {"dropout_rate": 0.2},
        tier="quick",
        recipe_changes={"clip_norm": 0.1},
        tier_in_modes=AS_IN_FAST,
    ),
    ParallelRow("biased-synchronised-norms", "synchronised", 6, {"running_variance": "biased"}),
    ParallelRow(
        "adamw-clipped-of-several-labels",
        "synchronised",
        5,
        recipe_changes={
            "optimizer": "adamw",
            "learning_rate": 1e-3,
            "weight_decay": 0.1,
            "clip_norm": 0.1,
            "loss": "sigmoid",
        },
    ),
    ParallelRow(
        "rmsprop",
        "synchronised",
        5,
        recipe_changes=RMSPROP | {"weight_decay": 0.1, "average": 0.75},
    ),
    ParallelRow("norms-of-each-device", "per-replica", 6, {"dropout_rate": 0.2}, tier="quick"),
    ParallelRow("norms-of-each-device-and-uneven-shards", "per-replica", 5),
    ParallelRow("accumulated", "synchronised", 5, recipe_changes={"accumulate": 2}),
    ParallelRow(
        "accumulated-with-norms-of-each-device",
        "per-replica",
        7,
        recipe_changes={"accumulate": 3},
    ),
)


def request(row: ParallelRow) -> Train:
    """Ask what a row asks."""
    spec = SMALL.replace(**FEW_LAYERS, **row.changes)
    stated: dict[str, Any] = {"epochs": STEPS, "milestones": (0.5,), "learning_rate": 0.05}
    recipe = TrainingRecipe(**stated | {"batch_norm": row.batch_norm} | row.recipe_changes)
    graph = lower(spec, SIZE)
    network = NetworkToBuild(spec, input_size=SIZE, weights=random_weights(graph, row.name))
    given = batches(graph, recipe, steps=STEPS, batch=row.batch, label=row.name)
    return Train(network, recipe, given, replicas=DEVICES)


def _check(row: ParallelRow, target: Target, reference: Reference) -> Outcome:
    asked = request(row)
    expected = reference.expect(f"parallel {row.name}", lambda: asked)
    return assert_same_steps(actual=target.ask(asked), expected=expected)


CASES = tuple(
    Case(
        id=f"parallel/{row.name}",
        claim="steps on two devices are those that the recipe defines, "
        + (
            "which with synchronised norms are those of one"
            if row.batch_norm == "synchronised"
            else "each device normalising by its own statistics"
        ),
        check=partial(_check, row),
        tier=row.tier,
        tier_in_modes=row.tier_in_modes,
        cost=6,
    )
    for row in ROWS
)
