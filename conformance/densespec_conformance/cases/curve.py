"""Asks for fifty steps of a whole recipe, and for the same run stopped half-way and continued.

Images are augmented, dropout masks drawn, batches shuffled and the learning rate dropped as a
training run does it. The run that is taken up again goes through a checkpoint file, written from
what the target itself holds after the first half, or from what the reference holds: so a run can
stop on any backend and go on on any other.
"""

from __future__ import annotations

import functools
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from densespec.data import Batches, Dataset, Normalisation, Split, dropout_masks
from densespec.network.graph import lower
from densespec.network.spec import DenseNetSpec
from densespec.recipes.recipe import TrainingRecipe
from densespec.weights.checkpoint import TrainingState, read_checkpoint, write_checkpoint
from densespec_conformance.answering.target import Target
from densespec_conformance.asking.questions import random_weights, stream
from densespec_conformance.asking.requests import Batch, NetworkToBuild, StepTrace, Train
from densespec_conformance.case import AS_IN_FAST, Case
from densespec_conformance.judging.compare import assert_same_steps
from densespec_conformance.judging.expected import Expectation, Reference
from densespec_conformance.judging.outcome import Outcome

STEPS, HALF = 50, 25
SIZE = (12, 12)
SPEC = DenseNetSpec(
    blocks=(2, 1),
    growth_rate=4,
    bottleneck_width=2,
    compression=0.5,
    classes=4,
    stem_width=6,
    dropout_rate=0.2,
)
RECIPE = TrainingRecipe(
    epochs=10,
    batch_size=8,
    learning_rate=0.05,
    milestones=(0.6,),
    weight_decay=1e-3,
    label_smoothing=0.1,
    augmentation="cifar",
    seed=3,
    dtype="float64",
)
"""Its five batches an epoch make fifty steps; the rate drops after the run was taken up again."""
RECIPES = {
    "sgd": RECIPE,
    "adamw": RECIPE.replace(
        optimizer="adamw",
        learning_rate=1e-3,
        weight_decay=0.1,
        decay_kernels_only=True,
        clip_norm=0.5,
        schedule="cosine",
        rate_per="step",
        warmup_steps=7,
        final_rate=1e-5,
        mixup=0.4,
        rand_augment=2,
        erasing=0.25,
        average=0.9,
        average_warmup=9,
    ),
    "rmsprop": RECIPE.replace(
        optimizer="rmsprop",
        learning_rate=1e-2,
        beta2=0.9,
        epsilon=1e-3,
        milestones=(),
        gamma=0.5,
        drop_every=2.4,
        warmup_epochs=2,
        erasing=0.5,
        erasing_fill="noise",
        average=0.9,
    ),
}


def _data() -> Dataset:
    draw = stream("curve data")
    x = draw.integers(0, 256, (40, SPEC.in_channels, *SIZE)).astype(np.uint8)
    labels = draw.integers(0, SPEC.classes, 40)
    split = Split(x, labels)
    channels = (0.5,) * SPEC.in_channels
    return Dataset("noise", tuple("abcd"), split, split, Normalisation(channels, channels))


@functools.cache
def whole_run(name: str) -> Train:
    """Ask for all fifty steps of a recipe."""
    graph, recipe = lower(SPEC, SIZE), RECIPES[name]
    given = Batches.for_training(_data(), recipe, dtype="float64")
    batches = []
    for step in range(STEPS):
        x, labels = given[step]
        masks = dropout_masks(graph, recipe.seed, step, len(x))
        rate = recipe.rate_of_step(step, given.steps_per_epoch)
        batches.append(Batch(x, labels, rate, masks))
    network = NetworkToBuild(SPEC, input_size=SIZE, weights=random_weights(graph, "curve"))
    return Train(network, recipe, tuple(batches))


def _expected(name: str, reference: Reference) -> Expectation:
    return reference.expect(f"curve {name}", partial(whole_run, name))


def _check_curve(name: str, target: Target, reference: Reference) -> Outcome:
    answer = target.ask(whole_run(name))
    return assert_same_steps(actual=answer, expected=_expected(name, reference))


def taken_up(name: str, after: StepTrace) -> Train:
    """Ask for the second half of the run, from a checkpoint of the step before it."""
    whole, graph = whole_run(name), lower(SPEC, SIZE)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "half.safetensors"
        state = TrainingState(HALF, whole.recipe, after.moments)
        write_checkpoint(path, graph, after.weights, state)
        found = read_checkpoint(path)
    assert found.training is not None, "it was written with one"
    step = found.training.step
    return replace(
        whole,
        network=replace(whole.network, weights=found.arrays),
        batches=whole.batches[step:],
        moments=found.training.moments,
        steps_before=step,
    )


def _check_resumed(name: str, stopped: str, target: Target, reference: Reference) -> Outcome:
    whole, expected = whole_run(name), _expected(name, reference)
    assert isinstance(expected.values, list)
    if stopped == "itself":
        first_half: list[StepTrace] = target.ask(replace(whole, batches=whole.batches[:HALF]))
        after = first_half[-1]
    else:
        after = expected.values[HALF - 1]
    answer: list[StepTrace] = target.ask(taken_up(name, after))
    return assert_same_steps(
        actual=[*expected.values[:HALF], *answer],
        expected=expected,
    )


ABOUT = {
    "sgd": "augmentation, dropout, label smoothing and a learning-rate drop",
    "adamw": "AdamW, clipping, averages, mixup, a warm-up and a cosine by step",
    "rmsprop": "RMSProp, averages, boxes of noise, a warm-up and a drop every 2.4 epochs",
}


def _cases(name: str) -> tuple[Case, ...]:
    return (
        Case(
            id=f"curve/fifty-steps-of-{name}",
            claim=f"50 float64 steps with {ABOUT[name]} are those of the reference",
            check=partial(_check_curve, name),
            tier="full" if name == "rmsprop" else "quick",
            tier_in_modes=AS_IN_FAST if name == "sgd" else "full",
            cost=4,
        ),
        Case(
            id=f"curve/{name}-stopped-and-resumed",
            claim="a run stopped after 25 steps goes on from its checkpoint as if it had not",
            check=partial(_check_resumed, name, "itself"),
            tier="full",
            cost=5,
        ),
        Case(
            id=f"curve/{name}-taken-over-from-the-reference",
            claim="a run that the reference stopped after 25 steps goes on as if it had not",
            check=partial(_check_resumed, name, "the reference"),
            tier="quick" if name == "adamw" else "full",  # it has the most moments
            tier_in_modes="full",
            cost=3,
        ),
    )


CASES = tuple(case for name in RECIPES for case in _cases(name))
