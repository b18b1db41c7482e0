"""A network rewritten for inference computes what it did, node by node."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

from densespec.errors import SpecError
from densespec.network import ops
from densespec.network.arrays import Arrays
from densespec.network.catalogue import get
from densespec.network.graph import Graph, lower
from densespec.network.initial import initial_weights
from densespec.network.passes import prepare
from densespec.network.spec import DenseNetSpec
from densespec.reference.model import ReferenceModel
from tests.strategies import specs, unhurried

SMALL = get("densenet121").replace(blocks=(2, 2), growth_rate=3, bottleneck_width=2, classes=4)
SIZE = (40, 36)


def _arrays(graph: Graph, seed: int = 0) -> Arrays:
    """Weights with scales of both signs."""
    draw = np.random.default_rng(seed)
    arrays: Arrays = dict(initial_weights(graph, seed))
    for name, array in arrays.items():
        match name.rpartition(".")[2]:
            case "gamma":
                arrays[name] = draw.uniform(0.5, 1.5, array.shape) * draw.choice([-1, 1])
            case "running_variance":
                arrays[name] = draw.uniform(0.5, 1.5, array.shape)
            case "beta" | "bias" | "running_mean":
                arrays[name] = draw.standard_normal(array.shape)
    return arrays


def _assert_same(graph: Graph, arrays: Arrays, size: tuple[int, ...], *, clip: bool = True) -> None:
    prepared = prepare(graph, clip=clip)
    x = np.random.default_rng(1).standard_normal((2, graph.spec.in_channels, *size))
    kept = {node.name for node in prepared.graph.nodes[1:]} & {node.name for node in graph.nodes}
    assert graph.output.name in kept
    before = ReferenceModel(graph, arrays).run(x, taps=kept)
    after = ReferenceModel(prepared.graph, prepared.fold(arrays)).run(x, taps=kept)
    for name, array in before.items():
        scale = np.abs(array).max() or 1
        np.testing.assert_allclose(after[name] / scale, array / scale, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("clip", [True, False])
@settings(unhurried, max_examples=20)
@given(spec=specs())
def test_every_value_that_is_left_is_the_same(clip: bool, spec: DenseNetSpec) -> None:
    try:
        graph = lower(spec, (33,) * spec.spatial_dims)
    except SpecError:
        return
    _assert_same(graph, _arrays(graph), (33,) * spec.spatial_dims, clip=clip)


@pytest.mark.parametrize("scale", [0.0, -0.0, 1e-30, -1e-12, 1e12])
@pytest.mark.parametrize("shift", [-2.0, 0.0, 2.0])
def test_channels_that_norms_flatten_stay_exact(scale: float, shift: float) -> None:
    graph = lower(SMALL, SIZE)
    arrays = _arrays(graph)
    for name, array in arrays.items():
        if name.endswith("norm1.gamma"):
            array[::2] = scale
        elif name.endswith("norm1.beta"):
            array[::2] = shift
    _assert_same(graph, arrays, SIZE)


@pytest.mark.parametrize(
    "options",
    [
        {"classifier_activation": "softmax"},
        {"include_top": False},
        {"include_top": False, "pooling": "avg"},
        {"include_top": False, "pooling": "max"},
    ],
)
def test_every_ending_keeps_its_output(options: dict[str, Any]) -> None:
    graph = lower(SMALL, SIZE, **options)
    _assert_same(graph, _arrays(graph), SIZE)


def test_norms_of_an_image_network_cost_one_pass_or_none() -> None:
    graph = prepare(lower(get("densenet121"), (224, 224))).graph
    kinds = [type(node.op) for node in graph.nodes]
    assert not {ops.BatchNorm, ops.Affine, ops.Dropout} & set(kinds)
    layers = sum(get("densenet121").blocks)
    assert kinds.count(ops.Clip) == layers + 4  # transitions and the last norm
    assert kinds.count(ops.Relu) == layers + 1  # the stem


def test_transitions_pool_before_their_convolution() -> None:
    before = lower(get("densenet121"), (224, 224))
    after = prepare(before).graph
    convs = [before[f"transition{n}.conv"].multiply_adds or 0 for n in (1, 2, 3)]
    assert before.multiply_adds is not None
    assert after.multiply_adds == before.multiply_adds - sum(convs) * 3 // 4


def test_nothing_trains_in_a_prepared_network() -> None:
    assert prepare(lower(SMALL, SIZE)).graph.parameters.trainable == 0


def test_a_rounded_bound_leaves_no_trace_where_nothing_is_positive() -> None:
    graph, name = lower(SMALL, SIZE), "block1.layer1.norm2"
    arrays = _arrays(graph)
    arrays["block1.layer1.norm1.beta"] = np.full_like(arrays["block1.layer1.norm1.beta"], -1e3)

    def rounded(array: np.ndarray) -> np.ndarray:
        return array.astype(np.float16).astype(np.float64)

    prepared = prepare(graph)
    x = np.random.default_rng(1).standard_normal((2, 3, *SIZE))
    before = ReferenceModel(graph, arrays).run(x, taps=[name])[name]
    after = ReferenceModel(prepared.graph, prepared.fold(arrays, rounded)).run(x, taps=[name])
    np.testing.assert_allclose(after[name], before, atol=1e-9)
