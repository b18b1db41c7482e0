"""Every row of what a training step may do instead is found where a run does it."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from densespec.network import ops
from densespec.network.arrays import Arrays
from densespec.network.graph import Graph
from densespec.recipes.moments import initial_moments
from densespec.recipes.recipe import AVERAGE, TrainingRecipe
from densespec.reference.losses import loss_and_slope
from densespec_conformance.answering.answers import graph_of
from densespec_conformance.asking.requests import Batch, StepTrace, Train
from densespec_conformance.cases import training as cases
from densespec_conformance.deviations.kernels import KERNELS
from densespec_conformance.explaining.diagnosis import diagnose
from densespec_conformance.explaining.local.alternatives.averages import (
    AVERAGES,
    AverageRule,
    Following,
)
from densespec_conformance.explaining.local.alternatives.gradients import GRADIENTS
from densespec_conformance.explaining.local.alternatives.in_training import (
    DROPOUTS,
    NORMS,
    STATISTICS,
    InTraining,
)
from densespec_conformance.explaining.local.alternatives.losses import LOSSES, REPORTS
from densespec_conformance.explaining.local.alternatives.parts import PARTS, PartsRule
from densespec_conformance.explaining.local.alternatives.rates import COURSES
from densespec_conformance.explaining.local.alternatives.updates import CHOICES, Move, UpdateRule
from densespec_conformance.explaining.local.passes import Pass
from densespec_conformance.judging.expected import Expectation, expectation

ROWS = {row.name: row for row in cases.ROWS}
ABOUT = ("learning-rate-drop", "label-smoothing", "class-weights", "several-labels", "adamw")
MORE = (
    *("clipped-norm", "learning-rates-by-layer", "without-nesterov", "given-dropout-masks"),
    *("shares-of-classes", "weight-decay-of-kernels-only", "adamw-by-layer", "rmsprop"),
)
AVERAGED = ("average-after-a-warm-up", "average")

OWN, OWN_AVERAGE, OWN_PARTS = UpdateRule(), AverageRule(), PartsRule()


@functools.cache
def _asked(name: str, resumed: bool = False) -> tuple[Train, Expectation]:
    whole = cases.request(ROWS[name])
    asked = replace(whole, batches=whole.batches[4:8])  # the rate drops between them
    if resumed:
        weights, graph = asked.network.weights or {}, graph_of(asked.network)
        first = initial_moments(graph, asked.recipe, weights, "float64")
        moments = {
            moment: {name: 0.1 * abs(weights[name]) for name in arrays}
            for moment, arrays in first.items()
        }
        asked = replace(asked, moments=moments, steps_before=7)
    return asked, expectation(asked)


def _answer(
    asked: Train,
    rule: UpdateRule = OWN,
    loss: Any = loss_and_slope,
    reported: Any = lambda loss, *about: loss,
    gradient: Any = lambda g, w, earlier: g,
    course: Any = lambda rates, index: rates[index],
    change: InTraining | None = None,
    kinds: tuple[type, ...] = (),
    average: AverageRule = OWN_AVERAGE,
    parts: PartsRule = OWN_PARTS,
) -> list[StepTrace]:
    """Take the steps of a run that does something else everywhere."""
    graph, recipe = graph_of(asked.network), asked.recipe
    weights = {n: np.asarray(w, np.float64) for n, w in (asked.network.weights or {}).items()}
    names = [weight.name for weight in graph.weights if weight.trainable]
    first = asked.moments or initial_moments(graph, recipe, weights, "float64")
    held: dict[str, Arrays] = {moment: dict(first[moment]) for moment in recipe.rule.moments}
    averages = dict(first.get(AVERAGE, {}))
    rates = [batch.learning_rate for batch in asked.batches]
    steps: list[StepTrace] = []
    for index, batch in enumerate(asked.batches):
        nodes = [node for node in graph.nodes if change and isinstance(node.op, kinds)]
        instead = {node.name: change.kernel for node in nodes if change}
        split = parts.split(len(batch.x), recipe.accumulate)
        passed, now = [], dict(weights)
        for part in split:
            passed.append(_passed(graph, recipe, _part_of(batch, part), now, instead, loss))
            now |= passed[-1].statistics if parts.statistics == "in turn" else {}
        value, gradients, statistics = _together(parts, [len(part) for part in split], passed)
        earlier = steps[-1].gradients if steps else dict.fromkeys(names, 0.0)
        gradients = {n: gradient(gradients[n], weights[n], earlier[n]) for n in names}
        used = gradients
        if recipe.clip_norm is not None:
            used = rule.clip(gradients, recipe.clip_norm)
        after = dict(weights)
        kept: dict[str, Arrays] = {moment: {} for moment in held}
        for name in names:
            rate, before = (course(rates, i) for i in (index, max(index - 1, 0)))
            move = Move(
                before=weights[name],
                gradient=used[name],
                moments={moment: arrays[name] for moment, arrays in held.items()},
                kept={},
                rate=rate,
                factor=np.asarray(recipe.rate_factor_of(name)),
                rate_before=before,
                decay=np.asarray(recipe.decay_of(name)),
                number=index + 1 + (0 if rule.recounts else asked.steps_before),
                first=index == 0,
            )
            moved = rule.moments(recipe, move)
            after[name] = rule.weight(recipe, replace(move, kept=moved))
            for moment, array in moved.items():
                kept[moment][name] = array
        after |= statistics
        number = asked.steps_before + index + 1
        averages = {
            name: average.average(
                recipe, Following(weights[name], after[name], held_average, number, index)
            )
            for name, held_average in averages.items()
        }
        kept |= {AVERAGE: averages} if averages else {}
        said = reported(value, weights, recipe, len(batch.labels))
        steps.append(StepTrace(said, gradients, kept, after))
        weights, held = after, {moment: kept[moment] for moment in held}
    return steps


@dataclass(frozen=True)
class _Passed:
    """What a part of a batch comes to."""

    loss: float
    gradients: Arrays
    statistics: Arrays


def _part_of(batch: Batch, part: np.ndarray) -> Batch:
    masks = {name: mask[part] for name, mask in batch.masks.items()}
    return replace(batch, x=batch.x[part], labels=np.asarray(batch.labels)[part], masks=masks)


def _passed(
    graph: Graph, recipe: TrainingRecipe, batch: Batch, weights: Arrays, instead: Any, loss: Any
) -> _Passed:
    run = Pass(graph, KERNELS, weights, batch, instead)
    for node in graph.nodes[1:]:
        run.forward(node)
    value, slope = loss(recipe, run.values[graph.output.name], np.asarray(batch.labels))
    gradients: Arrays = {}
    for node in reversed(graph.nodes[1:]):
        own = run.backward(node, slope if node is graph.output else run.slope(node))
        gradients |= {f"{node.name}.{short}": g for short, g in own.items()}
    statistics = {
        f"{name}.{short}": array
        for name, context in run.contexts.items()
        for short, array in context.statistics.items()
    }
    return _Passed(value, gradients, statistics)


def _together(
    rule: PartsRule, sizes: list[int], passed: list[_Passed]
) -> tuple[float, Arrays, Arrays]:
    """Give what parts come to together: the loss, the gradients and the running statistics."""
    loss = sum(share * one.loss for share, one in zip(rule.loss(sizes), passed, strict=True))
    gradients = _weighed([one.gradients for one in passed], rule.gradients(sizes))
    if rule.statistics != "mean":
        return loss, gradients, passed[-1].statistics
    means = [1 / len(passed)] * len(passed)
    return loss, gradients, _weighed([one.statistics for one in passed], means)


def _weighed(groups: list[Arrays], factors: Any) -> Arrays:
    pairs = list(zip(factors, groups, strict=True))
    return {name: np.asarray(sum(f * g[name] for f, g in pairs)) for name in groups[0]}


def _said(asked: Train, expected: Expectation, answer: list[StepTrace]) -> str:
    (suspect,) = diagnose(asked, answer, expected, seconds=60)
    assert suspect.complete, suspect.text
    return suspect.text


@pytest.mark.parametrize("choice", [c for c in CHOICES if not c.unknown], ids=lambda c: c.does)
def test_choice_of_an_optimizer_is_found(choice: Any) -> None:
    found = False
    for name in (*ABOUT, *MORE):
        asked, expected = _asked(name, resumed="resumed" in choice.does)
        if not choice.fits(asked.recipe):
            continue
        answer = _answer(asked, rule=choice.on(OWN))
        if not _same(answer, expected):
            assert choice.does in _said(asked, expected, answer)
            found = True
            break
    assert found, "no row shows it"


@pytest.mark.parametrize("other", [*LOSSES, *REPORTS], ids=lambda one: one.does)
def test_other_loss_is_found(other: Any) -> None:
    found = False
    for name in (*ABOUT, *MORE):
        asked, expected = _asked(name)
        if getattr(other, "kinds", ()) and asked.recipe.loss not in other.kinds:
            continue
        does = {"loss": other.loss} if hasattr(other, "loss") else {"reported": other.reported}
        answer = _answer(asked, **does)
        if not _same(answer, expected):
            assert other.does in _said(asked, expected, answer)
            found = True
            break
    assert found, "no row shows it"


@pytest.mark.parametrize("course", COURSES, ids=lambda one: one.does)
def test_other_course_of_the_rate_is_found(course: Any) -> None:
    asked, expected = _asked("learning-rate-drop")
    answer = _answer(asked, course=course.rate)
    assert f"learning rate: {course.does}" in _said(asked, expected, answer)


@pytest.mark.parametrize("other", GRADIENTS, ids=lambda one: one.does)
def test_other_gradient_is_found(other: Any) -> None:
    asked, expected = _asked("learning-rate-drop")
    summed = LOSSES[0].loss  # whose gradients are large enough to be clipped
    answer = _answer(
        asked, loss=summed, gradient=lambda g, w, earlier: other.gradient(g, w, earlier, 0.5)
    )
    if "multiplied" in other.does:  # which the loss may be as well
        assert "all gradients are multiplied by 0.5" in _said(asked, expected, answer)
    else:
        assert other.does.partition("{")[0] in _said(asked, expected, answer)


@pytest.mark.parametrize("change", [*NORMS, *STATISTICS, *DROPOUTS], ids=lambda one: one.does)
def test_other_op_in_training_is_found(change: InTraining) -> None:
    kind = ops.Dropout if change in DROPOUTS else ops.BatchNorm
    found = False
    for name in ("given-dropout-masks", "biased-running-variance"):
        asked, expected = _asked(name)
        answer = _answer(asked, change=change, kinds=(kind,))
        if not _same(answer, expected):
            assert change.does in _said(asked, expected, answer)
            found = True
            break
    assert found, "no row shows it"


@pytest.mark.parametrize(
    "choice", [one for one in AVERAGES if not one.unknown], ids=lambda c: c.does
)
def test_other_average_is_found(choice: Any) -> None:
    found = False
    for name in AVERAGED:
        asked, expected = _asked(name, resumed="resumed" in choice.does)
        answer = _answer(asked, average=choice.on(OWN_AVERAGE))
        if not _same(answer, expected):
            assert choice.does in _said(asked, expected, answer)
            found = True
            break
    assert found, "no row shows it"


@pytest.mark.parametrize("choice", PARTS, ids=lambda choice: choice.does)
def test_other_parts_are_found(choice: Any) -> None:
    asked, expected = _asked("accumulated")
    answer = _answer(asked, parts=choice.on(OWN_PARTS))
    assert f"parts: {choice.does}" in _said(asked, expected, answer)


def _same(answer: list[StepTrace], expected: Expectation) -> bool:
    known = expected.values
    assert isinstance(known, list)
    return all(
        np.allclose(one.loss, two.loss, rtol=1e-9)
        and all(np.allclose(one.weights[n], two.weights[n], 1e-9, 1e-12) for n in one.weights)
        and all(np.allclose(one.gradients[n], two.gradients[n], 1e-9, 1e-12) for n in one.gradients)
        and all(
            np.allclose(array, two.moments[AVERAGE][name], 1e-9, 1e-12)
            for name, array in one.moments.get(AVERAGE, {}).items()
        )
        for one, two in zip(answer, known, strict=True)
    )


def test_runs_of_these_tests_are_the_reference() -> None:
    for name in ("learning-rate-drop", "adamw", "clipped-norm", "accumulated", *AVERAGED):
        asked, expected = _asked(name)
        answer = _answer(asked)
        assert _same(answer, expected)
        assert diagnose(asked, answer, expected) == ()
