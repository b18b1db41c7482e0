"""Mistakes in training steps, forward, backward and in how weights move, are all found at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import pytest

from densespec.network import ops
from densespec.network.arrays import Arrays
from densespec.network.graph import Graph, Node, lower
from densespec.network.spec import DenseNetSpec
from densespec.recipes.recipe import TrainingRecipe
from densespec.reference.kernels import (
    KERNELS,
    BatchNormKernel,
    Context,
    DropoutKernel,
    Gradients,
)
from densespec.reference.losses import loss_and_slope
from densespec.reference.model import ReferenceModel
from densespec_conformance.asking.questions import batches, random_weights
from densespec_conformance.asking.requests import NetworkToBuild, StepTrace, Train
from densespec_conformance.explaining.diagnosis import Suspect, diagnose
from densespec_conformance.explaining.local.alternatives.devices import Apart
from densespec_conformance.judging.expected import expectation

SIZE = (12, 12)
STEPS = 3
DEVICES = 2

BatchNormScope = Literal["synchronised", "per-replica"]


@dataclass
class Wrong:
    """What a training run does otherwise.

    Attributes:
        kernels: The kernels of nodes.
        gradients: What becomes of the gradient that a weight has and shows.
        recipes: The recipe by which a weight moves.
        rates: The learning rate of each step, by the recipe's.
        slope: What becomes of the loss and its gradient.
    """

    kernels: dict[str, Any] = field(default_factory=dict)
    gradients: dict[str, Callable[[Any, Any], Any]] = field(default_factory=dict)
    recipes: dict[str, TrainingRecipe] = field(default_factory=dict)
    rates: Callable[[float, int], float] = lambda rate, index: rate
    slope: Callable[[float, Any], tuple[float, Any]] = lambda loss, slope: (loss, slope)


@dataclass(frozen=True)
class Mistake:
    """Something that a run does otherwise, and words of the place and the cause that are found."""

    place: str
    words: str
    make: Callable[[Wrong], None]


class _Momentum(BatchNormKernel):
    def __init__(self, momentum: float) -> None:
        self.momentum = momentum

    def forward(self, op: ops.BatchNorm, ctx: Context, x: np.ndarray) -> np.ndarray:
        return super().forward(replace(op, momentum=self.momentum), ctx, x)


class _Divisor(BatchNormKernel):
    def forward(self, op: ops.BatchNorm, ctx: Context, x: np.ndarray) -> np.ndarray:
        return super().forward(replace(op, unbiased=not op.unbiased), ctx, x)


class _Stale(BatchNormKernel):
    def _running(self, op: Any, ctx: Context, *moments: Any) -> Arrays:
        return {}


class _Twice(BatchNormKernel):
    def _running(self, op: Any, ctx: Context, *moments: Any) -> Arrays:
        once = super()._running(op, ctx, *moments)
        return super()._running(op, replace(ctx, weights={**ctx.weights, **once}), *moments)


class _Detached(BatchNormKernel):
    def backward(self, op: ops.BatchNorm, ctx: Context, dy: np.ndarray, x: np.ndarray) -> Gradients:
        _, variance = self._moments(ctx, x)
        _, own = super().backward(op, ctx, dy, x)
        shape = (1, -1, 1, 1)
        scale = ctx.weights["gamma"] / np.sqrt(variance + op.epsilon)
        return [dy * scale.reshape(shape)], own


class _NothingDropped(DropoutKernel):
    def _scale(self, op: ops.Dropout, ctx: Context, x: np.ndarray) -> np.ndarray:
        return np.ones_like(x)


class _Unscaled(DropoutKernel):
    def _scale(self, op: ops.Dropout, ctx: Context, x: np.ndarray) -> np.ndarray:
        assert ctx.mask is not None
        return ctx.mask


class _Back:
    """An op that gives back something else."""

    def __init__(self, kind: type, change: Callable[..., list[np.ndarray]]) -> None:
        self._own, self._change = KERNELS[kind], change

    def forward(self, *args: Any) -> np.ndarray:
        return self._own.forward(*args)

    def backward(self, op: Any, ctx: Context, dy: np.ndarray, *xs: np.ndarray) -> Gradients:
        dxs, own = self._own.backward(op, ctx, dy, *xs)
        return self._change(dxs, dy, *xs), own


def _kernel(node: Node, words: str, kernel: Any) -> Mistake:
    return Mistake(node.name, words, lambda wrong: wrong.kernels.update({node.name: kernel}))


Draw = np.random.Generator


def _of_norm(node: Node, draw: Draw) -> Mistake:
    momentum = float(f"{draw.uniform(0.2, 0.9):.2g}")
    divides = "n" if node.op.unbiased else "n - 1"  # type: ignore[union-attr]
    choices = (
        (f"running statistics is {momentum:g}, not", _Momentum(momentum)),
        (f"its running variance is divided by {divides}", _Divisor()),
        ("running statistics are not updated", _Stale()),
        ("running statistics are updated twice", _Twice()),
        ("no gradient flows through its mean and variance", _Detached()),
    )
    return _kernel(node, *choices[draw.integers(len(choices))])


def _of_relu(node: Node, draw: Draw) -> Mistake:
    slope = float(f"{draw.uniform(0.05, 0.9):.2g}")

    def change(dxs: Any, dy: np.ndarray, x: np.ndarray) -> list[np.ndarray]:
        return [np.where(x > 0, dy, slope * dy)]

    words = f"its gradient has a slope of {slope:g} below zero"
    return _kernel(node, words, _Back(ops.Relu, change))


def _of_concat(node: Node, draw: Draw) -> Mistake:
    def change(dxs: Any, *seen: Any) -> list[np.ndarray]:
        return [np.zeros_like(dxs[0]), dxs[1]]

    words = "no gradient flows to what was there before"
    return _kernel(node, words, _Back(ops.Concat, change))


def _of_pool(node: Node, draw: Draw) -> Mistake:
    factor = float(f"{draw.uniform(1.5, 4):.2g}")
    words = f"its inputs' gradient is multiplied by {factor:g}"
    return _kernel(
        node, words, _Back(type(node.op), lambda dxs, *seen: [factor * dx for dx in dxs])
    )


def _of_dropout(node: Node, draw: Draw) -> Mistake:
    if draw.integers(2):
        return _kernel(node, "it drops nothing", _NothingDropped())
    return _kernel(node, "what is kept is not scaled", _Unscaled())


NODES: Mapping[type, Callable[[Node, Draw], Mistake]] = {
    ops.BatchNorm: _of_norm,
    ops.Relu: _of_relu,
    ops.Concat: _of_concat,
    ops.AvgPool: _of_pool,
    ops.Dropout: _of_dropout,
}


def _of_weight(name: str, recipe: TrainingRecipe, draw: Draw) -> Mistake:
    factor = float(f"{draw.uniform(1.5, 4):.2g}")

    def gradient(words: str, change: Callable[[Any, Any], Any]) -> Mistake:
        return Mistake(name, words, lambda wrong: wrong.gradients.update({name: change}))

    def moves(words: str, **changes: Any) -> Mistake:
        other = recipe.replace(**changes)
        return Mistake(
            f"optimizer of {name}", words, lambda wrong: wrong.recipes.update({name: other})
        )

    choices = (
        lambda: gradient("it is not trained", lambda g, w: 0 * g),
        lambda: gradient(f"its gradient is multiplied by {factor:g}", lambda g, w: factor * g),
        lambda: gradient("contains weight decay of 0.25", lambda g, w: g + 0.25 * w),
        lambda: moves("there is no weight decay", weight_decay=0.0),
        lambda: moves("weight decay counts twice", weight_decay=2 * recipe.weight_decay),
        *(
            (
                lambda: moves("momentum does not look ahead", nesterov=False),
                lambda: moves("momentum is 0.75, not 0.9", momentum=0.75),
            )
            if recipe.optimizer == "sgd"
            else (
                lambda: moves("epsilon is 0.02, not 0.001", epsilon=0.02),
                lambda: moves("beta1 is 0.75, not 0.9", beta1=0.75),
                lambda: moves("beta2 is 0.85, not 0.95", beta2=0.85),
                lambda: moves("weight decay is part of the gradient", optimizer="adam"),
            )
        ),
    )
    return choices[draw.integers(len(choices))]()


def _of_run(draw: Draw) -> Mistake:
    factor = float(f"{draw.uniform(1.5, 4):.2g}")

    def constant(wrong: Wrong) -> None:
        wrong.rates = lambda rate, index: 0.05

    def scaled(wrong: Wrong) -> None:
        wrong.rates = lambda rate, index: factor * rate

    def summed(wrong: Wrong) -> None:
        wrong.slope = lambda loss, slope: (4 * loss, 4 * slope)

    def reported(wrong: Wrong) -> None:
        wrong.slope = lambda loss, slope: (4 * loss, slope)

    choices = (
        Mistake("learning rate", "the learning rate does not drop", constant),
        Mistake("learning rate", f"the learning rate is multiplied by {factor:g}", scaled),
        Mistake("loss", "the loss is summed over the batch, and so are gradients", summed),
        Mistake("loss", "the loss that is reported is summed over the batch", reported),
    )
    return choices[draw.integers(len(choices))]


def _question(draw: Draw, seed: int) -> tuple[Train, Graph]:
    spec = DenseNetSpec(
        blocks=tuple(int(n) for n in draw.integers(1, 4, draw.integers(1, 3))),
        growth_rate=int(draw.integers(3, 6)),
        stem_width=int(draw.integers(3, 7)),
        bottleneck_width=int(draw.integers(0, 3)) or None,
        compression=0.5,
        stem_pool=3 if draw.integers(2) else None,
        dropout_rate=0.2,
        classes=5,
    )
    graph = lower(spec, SIZE)
    recipe = TrainingRecipe(
        epochs=STEPS, milestones=(0.5,), learning_rate=0.05, weight_decay=0.1, label_smoothing=0.1
    )
    if seed % 3 == 2:
        recipe = recipe.replace(optimizer="adamw", epsilon=1e-3, beta2=0.95)
    network = NetworkToBuild(spec, input_size=SIZE, weights=random_weights(graph, str(seed)))
    given = batches(graph, recipe, steps=STEPS, batch=4, label=str(seed))
    return Train(network, recipe, given), graph


def _answer(asked: Train, graph: Graph, mistakes: list[Mistake]) -> list[StepTrace]:
    """Take the steps of a run that makes mistakes."""
    wrong = Wrong()
    for one in mistakes:
        one.make(wrong)
    recipe = asked.recipe
    devices = asked.replicas if recipe.batch_norm == "per-replica" else 1
    weights = {n: np.asarray(w, np.float64) for n, w in (asked.network.weights or {}).items()}
    moments: dict[str, Arrays] = {
        moment: {w.name: np.zeros(w.shape) for w in graph.weights if w.trainable}
        for moment in recipe.rule.moments
    }
    steps = []
    for index, batch in enumerate(asked.batches):
        loss, gradients, statistics = _passes(graph, weights, batch, recipe, wrong, devices)
        for name, change in wrong.gradients.items():
            gradients[name] = change(gradients[name], weights[name])
        rate = wrong.rates(batch.learning_rate, index)
        weights = {**weights, **statistics}
        for name, g in gradients.items():
            own = wrong.recipes.get(name, recipe)
            held = {moment: arrays[name] for moment, arrays in moments.items()}
            weights[name], moved = own.step(name, weights[name], g, held, rate, index + 1)
            for moment, array in moved.items():
                moments[moment][name] = array
        kept = {moment: dict(arrays) for moment, arrays in moments.items()}
        steps.append(StepTrace(loss, gradients, kept, dict(weights)))
    return steps


def _passes(
    graph: Graph, weights: Arrays, batch: Any, recipe: TrainingRecipe, wrong: Wrong, devices: int
) -> tuple[float, Arrays, Arrays]:
    def kernel(node: Node) -> Any:
        own = wrong.kernels.get(node.name) or KERNELS[type(node.op)]
        return Apart(devices, own) if isinstance(node.op, ops.BatchNorm) else own

    values, contexts = {graph.input.name: batch.x}, {}
    for node in graph.nodes[1:]:
        own = {w.short: weights[w.name] for w in node.weights}
        contexts[node.name] = ctx = Context(node.name, own, True, batch.masks.get(node.name))
        inputs = [values[source] for source in node.inputs]
        values[node.name] = kernel(node).forward(node.op, ctx, *inputs)
    loss, slope = loss_and_slope(recipe, values[graph.output.name], batch.labels)
    loss, slope = wrong.slope(loss, slope)
    gradients: Arrays = {}
    slopes = {graph.output.name: slope}
    for node in reversed(graph.nodes[1:]):
        inputs = [values[source] for source in node.inputs]
        ctx, dy = contexts[node.name], slopes.pop(node.name)
        dxs, found = kernel(node).backward(node.op, ctx, dy, *inputs)
        gradients |= {f"{node.name}.{short}": g for short, g in found.items()}
        for source, dx in zip(node.inputs, dxs, strict=True):
            slopes[source] = slopes[source] + dx if source in slopes else dx
    statistics = {f"{n}.{s}": a for n, ctx in contexts.items() for s, a in ctx.statistics.items()}
    return loss, {w.name: gradients[w.name] for w in graph.weights if w.trainable}, statistics


def _mistakes(asked: Train, graph: Graph, draw: Draw) -> list[Mistake]:
    count = int(draw.integers(1, 6))
    nodes = [node for node in graph.nodes[4:] if type(node.op) in NODES]
    names = [weight.name for weight in graph.weights if weight.trainable]
    found: dict[str, Mistake] = {}
    for _ in range(count):
        kind = draw.integers(5)
        if kind < 3:
            node = nodes[draw.integers(len(nodes))]
            one = NODES[type(node.op)](node, draw)
        elif kind == 3:
            one = _of_weight(names[draw.integers(len(names))], asked.recipe, draw)
        else:
            one = _of_run(draw)
        found.setdefault(one.place.removeprefix("optimizer of "), one)
    return list(found.values())


def _same(a: list[StepTrace], b: list[StepTrace]) -> bool:
    return all(
        one.loss == two.loss
        and all(np.array_equal(one.gradients[n], two.gradients[n]) for n in one.gradients)
        and all(np.array_equal(one.weights[n], two.weights[n]) for n in one.weights)
        for one, two in zip(a, b, strict=True)
    )


def _told(seed: int, batch_norm: BatchNormScope | None = None) -> tuple[list[Mistake], Any]:
    """Return the mistakes of a random run that show, and what is said of it.

    Args:
        batch_norm: The scope of the norms of a run on several devices; None for a run on one.
    """
    draw = np.random.default_rng(seed)
    asked, graph = _question(draw, seed)
    if batch_norm is not None:
        recipe = asked.recipe.replace(batch_norm=batch_norm)
        asked = replace(asked, recipe=recipe, replicas=DEVICES)
    mistakes = _mistakes(asked, graph, draw)
    answer = _answer(asked, graph, mistakes)
    mistakes = [
        one
        for one in mistakes
        if not _same(answer, _answer(asked, graph, [m for m in mistakes if m is not one]))
    ]
    return mistakes, diagnose(asked, answer, expectation(asked))


SEEDS = [
    *range(10),
    *(pytest.param(seed, marks=pytest.mark.full) for seed in range(10, 150)),
]


def _of(one: Mistake, suspect: Suspect) -> list[str]:
    """Give what is said of the place of a mistake."""
    name = one.place.removeprefix("optimizer of ")
    kind = "optimizer" if one.place != name else ""
    return [
        found.does
        for found in suspect.ops
        if name in (found.where, *found.among)
        and (found.where.startswith("optimizer") == bool(kind))
    ]


def _is_told(mistakes: list[Mistake], suspect: Suspect) -> bool:
    said = {one: _of(one, suspect) for one in mistakes}
    moves = [one for one in suspect.ops if one.where.startswith("optimizer")]
    places = len(suspect.ops) + sum(len(one.among) - 2 for one in moves)
    return places == len(mistakes) and all(
        any(one.words in does for does in said[one]) for one in mistakes
    )


@pytest.mark.parametrize("seed", SEEDS)
def test_all_places_are_found_with_their_causes(seed: int) -> None:
    mistakes, suspects = _told(seed)
    if not mistakes:
        assert suspects == ()
        return
    assert suspects[0].complete, suspects[0].text
    assert _is_told(mistakes, suspects[0]), suspects[0].text


@pytest.mark.parametrize("batch_norm", ["synchronised", "per-replica"])
@pytest.mark.parametrize(
    "seed", [*range(4), *(pytest.param(n, marks=pytest.mark.full) for n in range(4, 30))]
)
def test_they_are_found_in_runs_on_several_devices(seed: int, batch_norm: BatchNormScope) -> None:
    mistakes, suspects = _told(seed, batch_norm)
    assert bool(suspects) == bool(mistakes)
    if mistakes:
        assert suspects[0].complete, suspects[0].text
        assert _is_told(mistakes, suspects[0]), suspects[0].text


def test_reference_and_the_runs_of_these_tests_are_the_same() -> None:
    asked, graph = _question(np.random.default_rng(3), 3)
    model = ReferenceModel(graph, asked.network.weights or {})
    for batch, step in zip(asked.batches, _answer(asked, graph, []), strict=True):
        result = model.train_step(
            batch.x,
            batch.labels,
            asked.recipe,
            learning_rate=batch.learning_rate,
            masks=batch.masks,
        )
        assert result.loss == pytest.approx(step.loss, rel=1e-12)
