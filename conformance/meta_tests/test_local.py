"""Mistakes at random places of random networks are all found, and none is given a wrong cause."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from densespec.network import ops
from densespec.network.graph import Graph, Node, lower
from densespec.network.spec import DenseNetSpec
from densespec.reference.kernels import KERNELS, Context
from densespec_conformance.asking.questions import images, random_weights
from densespec_conformance.asking.requests import Forward, NetworkToBuild
from densespec_conformance.explaining.diagnosis import Suspect, diagnose
from densespec_conformance.judging.expected import Expectation, expectation, given_in

Compute = Callable[..., np.ndarray]
SIZE = (33, 35)


@dataclass(frozen=True)
class Mistake:
    """One op that computes something else, and words of the cause that is to be found."""

    node: str
    words: str
    compute: Compute


def _own(op: Any, ctx: Context, *xs: np.ndarray) -> np.ndarray:
    return KERNELS[type(op)].forward(op, ctx, *xs)


def _epsilon(node: Node, draw: np.random.Generator) -> Mistake:
    value = float(f"{10 ** draw.uniform(-3, -1):.2g}")

    def compute(op: ops.BatchNorm, ctx: Context, x: np.ndarray) -> np.ndarray:
        w = {name: a.reshape(1, -1, *[1] * (x.ndim - 2)) for name, a in ctx.weights.items()}
        root = np.sqrt(w["running_variance"] + value)
        return w["gamma"] * (x - w["running_mean"]) / root + w["beta"]

    return Mistake(node.name, f"epsilon is {value:.4g}", compute)


def _no_beta(node: Node, draw: np.random.Generator) -> Mistake:
    def compute(op: Any, ctx: Context, x: np.ndarray) -> np.ndarray:
        return _own(op, ctx, x) - ctx.weights["beta"].reshape(1, -1, *[1] * (x.ndim - 2))

    return Mistake(node.name, "beta is left out", compute)


def _batch_statistics(node: Node, draw: np.random.Generator) -> Mistake:
    def compute(op: Any, ctx: Context, x: np.ndarray) -> np.ndarray:
        axes = (0, *range(2, x.ndim))
        moments = {"running_mean": x.mean(axes), "running_variance": x.var(axes)}
        return _own(op, replace(ctx, weights={**ctx.weights, **moments}), x)

    return Mistake(node.name, "the batch's statistics", compute)


def _leak(node: Node, draw: np.random.Generator) -> Mistake:
    slope = float(f"{draw.uniform(0.005, 0.4):.2g}")
    words = f"the slope below zero is {slope:.4g}"
    return Mistake(node.name, words, lambda op, ctx, x: np.where(x < 0, slope * x, x))


def _missing(node: Node, draw: np.random.Generator) -> Mistake:
    return Mistake(node.name, "it is left out", lambda op, ctx, x: x)


def _gelu(node: Node, draw: np.random.Generator) -> Mistake:
    erf = np.vectorize(math.erf)
    return Mistake(node.name, "it is GELU", lambda op, ctx, x: x * (1 + erf(x / 2**0.5)) / 2)


def _flipped(node: Node, draw: np.random.Generator) -> Mistake:
    def compute(op: ops.Conv, ctx: Context, x: np.ndarray) -> np.ndarray:
        kernel = ctx.weights["kernel"][..., ::-1, ::-1]
        return _own(op, replace(ctx, weights={**ctx.weights, "kernel": kernel}), x)

    return Mistake(node.name, "the kernel is flipped", compute)


def _biased(node: Node, draw: np.random.Generator) -> Mistake:
    bias = draw.normal(size=node.op.filters)  # type: ignore[union-attr]
    shape = (1, -1, 1, 1)
    words = "bias"
    return Mistake(node.name, words, lambda op, ctx, x: _own(op, ctx, x) + bias.reshape(shape))


def _maximum(node: Node, draw: np.random.Generator) -> Mistake:
    def compute(op: Any, ctx: Context, x: np.ndarray) -> np.ndarray:
        if isinstance(op, ops.GlobalPool):
            return x.max((2, 3))
        return _own(ops.MaxPool(op.window, op.stride, ((0, 0),) * len(op.window)), ctx, x)

    return Mistake(node.name, "it takes the maximum", compute)


def _zero_padding(node: Node, draw: np.random.Generator) -> Mistake:
    def compute(op: ops.MaxPool, ctx: Context, x: np.ndarray) -> np.ndarray:
        pads = ops.resolve_padding(op.padding, x.shape[2:], op.window, op.stride)
        assert pads != "same"
        bare = replace(op, padding=((0, 0),) * len(op.window))
        return _own(bare, ctx, np.pad(x - 1, ((0, 0), (0, 0), *pads), constant_values=-1) + 1)

    return Mistake(node.name, "its padding is zero", compute)


def _unmirrored(node: Node, draw: np.random.Generator) -> Mistake:
    def compute(op: ops.BlurPool, ctx: Context, x: np.ndarray) -> np.ndarray:
        around = ((0, 0), (0, 0), (2, 2), (2, 2))  # a mirror reaches one of the two
        return _own(op, ctx, np.pad(x, around))[:, :, 1:-1, 1:-1]

    return Mistake(node.name, "it pads with zeros", compute)


def _evenly(node: Node, draw: np.random.Generator) -> Mistake:
    def compute(op: ops.BlurPool, ctx: Context, x: np.ndarray) -> np.ndarray:
        padded = np.pad(x, ((0, 0), (0, 0), *op.pads), mode="reflect")
        return _own(ops.AvgPool(op.window, op.stride), ctx, padded)

    return Mistake(node.name, "it averages its windows evenly", compute)


def _new_first(node: Node, draw: np.random.Generator) -> Mistake:
    words = "new feature maps come first"
    return Mistake(node.name, words, lambda op, ctx, x, new: np.concatenate([new, x], 1))


def _scaled(node: Node, draw: np.random.Generator) -> Mistake:
    factor = float(f"{draw.uniform(1.02, 2):.3g}")
    words = f"multiplied by {factor:.6g}"
    return Mistake(node.name, words, lambda op, ctx, *xs: factor * _own(op, ctx, *xs))


def _groups(node: Node, draw: np.random.Generator) -> Mistake:
    assert isinstance(node.op, ops.GroupNorm)
    other = 1 if node.op.groups > 1 else node.op.channels
    words = f"it normalises {other} groups of channels"
    return Mistake(node.name, words, lambda op, ctx, x: _own(replace(op, groups=other), ctx, x))


KINDS: dict[type, tuple[Callable[[Node, np.random.Generator], Mistake], ...]] = {
    ops.BatchNorm: (_epsilon, _no_beta, _batch_statistics),
    ops.Relu: (_leak, _missing, _gelu),
    ops.GroupNorm: (_groups, _scaled),
    ops.Activation: (_leak, _missing, _scaled),
    ops.PRelu: (_leak, _missing, _gelu),
    ops.Conv: (_flipped, _biased, _scaled),
    ops.MaxPool: (_zero_padding,),
    ops.AvgPool: (_maximum, _scaled),
    ops.BlurPool: (_unmirrored, _evenly),
    ops.GlobalPool: (_maximum,),
    ops.Concat: (_new_first,),
    ops.Dense: (_scaled,),
}


def _spec(draw: np.random.Generator) -> DenseNetSpec:
    return DenseNetSpec(
        blocks=tuple(int(n) for n in draw.integers(1, 4, draw.integers(1, 4))),
        growth_rate=int(draw.integers(2, 7)),
        stem_width=int(draw.integers(3, 9)),
        bottleneck_width=int(draw.integers(0, 4)) or None,
        compression=float(draw.choice([0.5, 1.0])),
        padding=str(draw.choice(["symmetric", "same"])),  # type: ignore[arg-type]
        conv_bias=bool(draw.integers(2)),
        classes=5,
        transition_pool_kind=str(draw.choice(["avg", "blur"])),  # type: ignore[arg-type]
    )


def _answer(graph: Graph, asked: Forward, mistakes: list[Mistake]) -> dict[str, np.ndarray]:
    """Compute what a network with mistakes shows, in the dtype that it was asked for."""
    instead = {mistake.node: mistake.compute for mistake in mistakes}
    weights = asked.network.weights or {}
    values = {graph.input.name: np.asarray(asked.x, np.float64)}
    for node in graph.nodes[1:]:
        own = {w.short: np.asarray(weights[w.name], np.float64) for w in node.weights}
        inputs = [values[source] for source in node.inputs]
        compute = instead.get(node.name, _own)
        values[node.name] = compute(node.op, Context(node.name, own), *inputs)
        values[node.name] = values[node.name].astype(asked.network.dtype).astype(np.float64)
    return {tap: values[tap] for tap in asked.taps}


def _asked(spec: DenseNetSpec, graph: Graph, dtype: str, seed: int) -> Forward:
    network = NetworkToBuild(spec, input_size=SIZE, weights=random_weights(graph, str(seed)))
    taps = tuple(node.name for node in graph.nodes[1:])
    return given_in(dtype, Forward(network, images(spec, SIZE, 2, str(seed)), taps))


def _mistakes(graph: Graph, draw: np.random.Generator) -> list[Mistake]:
    places = [node for node in graph.nodes if type(node.op) in KINDS]
    count = int(draw.integers(1, 6))
    chosen = draw.choice(len(places), min(count, len(places)), replace=False)
    nodes = [places[index] for index in sorted(chosen)]
    return [KINDS[type(n.op)][draw.integers(len(KINDS[type(n.op)]))](n, draw) for n in nodes]


def _differs(graph: Graph, asked: Forward, mistakes: list[Mistake], one: Mistake) -> bool:
    """Whether a mistake changes anything, given the others."""
    without = [each for each in mistakes if each is not one]
    here, there = _answer(graph, asked, mistakes), _answer(graph, asked, without)
    return not np.array_equal(here[one.node], there[one.node])


SEEDS = [
    *range(12),
    *(pytest.param(seed, marks=pytest.mark.full) for seed in range(12, 200)),
]


OTHERS: list[dict[str, Any]] = [
    {"norm": "instance", "activation": "elu"},
    {"norm": "group", "norm_groups": 1, "activation": "prelu"},
    {"activation": "gelu"},
]


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("seed", SEEDS)
def test_all_places_are_found_with_their_causes(seed: int, dtype: str) -> None:
    draw = np.random.default_rng(seed)
    _check_found(_spec(draw), seed, dtype, draw)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("changes", OTHERS, ids=str)
@pytest.mark.parametrize("seed", range(300, 303))
def test_so_they_are_with_other_norms_and_activations(
    seed: int, changes: dict[str, Any], dtype: str
) -> None:
    draw = np.random.default_rng(seed)
    _check_found(_spec(draw).replace(**changes), seed, dtype, draw)


def _check_found(spec: DenseNetSpec, seed: int, dtype: str, draw: np.random.Generator) -> None:
    graph = lower(spec, SIZE)
    asked = _asked(spec, graph, dtype, seed)
    mistakes = _mistakes(graph, draw)
    mistakes = [one for one in mistakes if _differs(graph, asked, mistakes, one)]
    answer = _answer(graph, asked, mistakes)
    suspects = diagnose(asked, answer, _expected(asked))
    if not mistakes:
        assert suspects == ()
        return
    assert {one.where for one in suspects[0].ops} == {one.node for one in mistakes}
    found = {one.where: one.does for one in suspects[0].ops}
    assert all(one.words in found[one.node] for one in mistakes), found
    assert suspects[0].complete


def _expected(asked: Forward) -> Expectation:
    return expectation(asked)


def test_op_that_does_what_nothing_explains_is_named_without_a_cause() -> None:
    spec = _spec(np.random.default_rng(1))
    graph = lower(spec, SIZE)
    asked = _asked(spec, graph, "float32", 1)
    noise = np.random.default_rng(2)

    def compute(op: Any, ctx: Context, x: np.ndarray) -> np.ndarray:
        y = _own(op, ctx, x)
        return y + 1e-3 * np.abs(y).max() * noise.standard_normal(y.shape)

    node = graph.nodes_of(ops.Conv)[1].name
    suspects = diagnose(
        asked, _answer(graph, asked, [Mistake(node, "", compute)]), _expected(asked)
    )
    (only,) = suspects[0].ops
    assert only.where == node
    assert only.does == ""
    assert not suspects[0].complete
    assert "tf32" not in suspects[0].text.lower()


def _of_output_alone(suspects: tuple[Suspect, ...]) -> bool:
    return any(suspect.ops for suspect in suspects)


def test_output_alone_is_not_judged_op_by_op() -> None:
    spec = _spec(np.random.default_rng(3))
    graph = lower(spec, SIZE)
    asked = _asked(spec, graph, "float64", 3)
    (norm, *_) = graph.nodes_of(ops.BatchNorm)
    mistake = _epsilon(norm, np.random.default_rng(3))
    answer = _answer(graph, asked, [mistake])
    last = graph.output.name
    assert not _of_output_alone(diagnose(asked, {last: answer[last]}, _expected(asked)))
