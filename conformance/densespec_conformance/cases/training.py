"""Twelve training steps in float64 with a learning-rate drop half-way equal the reference.

After every step the loss, each gradient, each moment, each weight and each running
statistic is compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from densespec.network.graph import lower
from densespec.network.spec import DenseNetSpec
from densespec.recipes.recipe import TrainingRecipe
from densespec_conformance.answering.target import Target
from densespec_conformance.asking.questions import batches, random_weights
from densespec_conformance.asking.requests import NetworkToBuild, Train
from densespec_conformance.case import AS_IN_FAST, Case, Tier, TierByMode
from densespec_conformance.cases.forward import (
    BLURS,
    CIFAR_STEM,
    DEEP,
    PLAIN,
    PREACTIVATION,
    SMALL,
    UNPOOLED,
)
from densespec_conformance.judging.compare import assert_same_steps
from densespec_conformance.judging.expected import Reference
from densespec_conformance.judging.outcome import Outcome

STEPS, BATCH = 12, 4
FEW_LAYERS = {"blocks": (2, 1)}
ONE_LAYER = {"blocks": (1,), "bottleneck_width": None, "stem_kind": "conv", "stem_pool": None}
"""Networks with fewer layers show as well what most rows ask, and JAX compiles them sooner."""


CLASS_WEIGHTS = tuple(0.25 + 0.5 * index for index in range(SMALL.classes))
ADAM: dict[str, Any] = {
    "optimizer": "adam",
    "learning_rate": 1e-3,
    "epsilon": 1e-3,
    "beta2": 0.95,
}
"""An epsilon as large as many gradients shows where it is added."""
ADAMW = {**ADAM, "optimizer": "adamw"}
RMSPROP = {**ADAM, "optimizer": "rmsprop", "beta2": 0.9, "epsilon": 0.01}


@dataclass(frozen=True)
class TrainingRow:
    """Describes a network, and what is changed in the recipe.

    Attributes:
        name: The name of its case.
        changes: What is changed in the spec.
        recipe_changes: What is changed in the recipe.
        size: The height and width of the images, or the lengths of their dimensions.
        tier: The tier, which in modes is ``full`` for a changed recipe: modes run networks
            differently, but train them alike.
        in_modes: The tier in modes of rows that do not change the recipe.
    """

    name: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    recipe_changes: Mapping[str, Any] = field(default_factory=dict)
    size: tuple[int, ...] = (20, 17)
    tier: Tier = "quick"
    in_modes: Tier | TierByMode = field(default_factory=lambda: AS_IN_FAST)

    @property
    def tier_in_modes(self) -> Tier | TierByMode:
        return "full" if self.recipe_changes else self.in_modes

    @property
    def spec(self) -> DenseNetSpec:
        blocks = ONE_LAYER if self.recipe_changes else FEW_LAYERS
        return SMALL.replace(**(blocks | dict(self.changes)))

    @property
    def recipe(self) -> TrainingRecipe:
        defaults: dict[str, Any] = {"epochs": STEPS, "milestones": (0.5,), "learning_rate": 0.05}
        return TrainingRecipe(**(defaults | dict(self.recipe_changes)))


ROWS = (
    TrainingRow("learning-rate-drop", {"blocks": SMALL.blocks}, in_modes="quick"),
    TrainingRow("preactivation-stem", PREACTIVATION),
    TrainingRow(
        "biased-running-variance", {"running_variance": "biased", "batch_norm_momentum": 0.01}
    ),
    TrainingRow("plain-cifar-network", PLAIN | CIFAR_STEM, size=(8, 8), in_modes="quick"),
    TrainingRow("same-padding", {"padding": "same", "batch_norm_epsilon": 1e-3}),
    TrainingRow("strong-weight-decay", {}, {"weight_decay": 0.1}),
    TrainingRow(
        "weight-decay-of-kernels-only",
        {"conv_bias": True},
        {"weight_decay": 0.1, "decay_kernels_only": True},
    ),
    TrainingRow("label-smoothing", {}, {"label_smoothing": 0.2}),
    TrainingRow(
        "learning-rates-by-layer",
        {"blocks": (2,)},
        {"layer_rates": {"block1": 0.1, "block1.layer2": 0.5, "classifier": 2.0}},
    ),
    TrainingRow("class-weights", {}, {"class_weights": CLASS_WEIGHTS, "label_smoothing": 0.2}),
    TrainingRow("shares-of-classes", {}, {"mixup": 0.4}),
    TrainingRow(
        "shares-of-classes-weighed-and-smoothed",
        {},
        {"mixup": 0.4, "class_weights": CLASS_WEIGHTS, "label_smoothing": 0.2},
        tier="full",
    ),
    TrainingRow("several-labels", {}, {"loss": "sigmoid"}),
    TrainingRow(
        "several-labels-weighed-and-smoothed",
        {},
        {"loss": "sigmoid", "positive_weights": CLASS_WEIGHTS, "label_smoothing": 0.2},
        tier="full",
    ),
    TrainingRow("squared-error", {}, {"loss": "squared"}),
    TrainingRow("adam", {"conv_bias": True}, ADAM | {"weight_decay": 0.1}),
    TrainingRow("adamw", {"conv_bias": True}, ADAMW | {"weight_decay": 0.5}),
    TrainingRow(
        "adamw-by-layer",
        {"conv_bias": True},
        ADAMW
        | {
            "weight_decay": 0.5,
            "decay_kernels_only": True,
            "layer_rates": {"block1": 0.1, "classifier": 2.0},
        },
        tier="full",
    ),
    TrainingRow("rmsprop", {"conv_bias": True}, RMSPROP | {"weight_decay": 0.1}),
    TrainingRow(
        "rmsprop-by-layer",
        {},
        RMSPROP | {"momentum": 0.0, "decay_kernels_only": True, "layer_rates": {"block1": 0.1}},
        tier="full",
    ),
    TrainingRow("clipped-norm", {}, {"clip_norm": 0.25}),
    TrainingRow("accumulated", {}, {"accumulate": 3}),
    TrainingRow("average", {}, {"average": 0.75}, tier="full"),
    TrainingRow("average-after-a-warm-up", {}, {"average": 0.75, "average_warmup": 5}),
    TrainingRow("without-nesterov", {}, {"nesterov": False}),
    TrainingRow("without-momentum", {}, {"momentum": 0.0, "nesterov": False}, tier="full"),
    TrainingRow("given-dropout-masks", {"dropout_rate": 0.2}),
    TrainingRow(
        "given-dropout-masks-after-every-conv",
        PREACTIVATION | {"dropout_rate": 0.4, "dropout_place": "every-conv"},
        in_modes="quick",
    ),
    TrainingRow(
        "given-dropout-masks-after-layers",
        {"dropout_rate": 0.3, "dropout_place": "layer"},
        tier="full",
    ),
    TrainingRow(
        "given-dropout-masks-before-the-classifier",
        {"head_dropout_rate": 0.3, "classifier_bias": False, "global_pool": "catavgmax"},
        in_modes="full",
    ),
    TrainingRow("deep-stem-and-blurs", DEEP | BLURS),
    # Compilers may compute what is pooled twice, with other roundings each time.
    TrainingRow(
        "group-norms-before-a-pool-of-2",
        {
            "blocks": (1,),
            "norm_groups": 2,
            "activation_slope": 0.3,
            "stem_stride": 1,
            "stem_pool": 2,
        },
        size=(29, 29),
        tier="full",
    ),
    TrainingRow("three-dimensions", UNPOOLED | {"spatial_dims": 3}, size=(6, 5, 6)),
)


def request(row: TrainingRow) -> Train:
    """Ask what a row asks."""
    graph = lower(row.spec, row.size)
    network = NetworkToBuild(row.spec, input_size=row.size, weights=random_weights(graph, row.name))
    given = batches(graph, row.recipe, steps=STEPS, batch=BATCH, label=row.name)
    return Train(network, row.recipe, given)


def _check(row: TrainingRow, target: Target, reference: Reference) -> Outcome:
    asked = request(row)
    expected = reference.expect(f"training {row.name}", lambda: asked)
    return assert_same_steps(actual=target.ask(asked), expected=expected)


CASES = tuple(
    Case(
        id=f"training/{row.name}",
        claim="12 float64 training steps across a learning-rate drop are those of the reference",
        check=partial(_check, row),
        tier=row.tier,
        tier_in_modes=row.tier_in_modes,
        cost=3,
    )
    for row in ROWS
)
