"""What of a network can be computed together, found on the graph."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from densespec.network.graph import Graph, Node, lower, without
from densespec.network.passes import prepare
from densespec.network.spec import DenseNetSpec
from densespec.network.steps import (
    Block,
    Convolution,
    NormRelu,
    Single,
    Step,
    linear_behind,
    steps,
)
from tests.strategies import specs, tiny, unhurried


def always(_norm: Node) -> bool:
    return True


def never(_norm: Node) -> bool:
    return False


def _told(step: Step) -> str:
    """A step in a line: its kind, and its nodes by what is last in their names."""
    if isinstance(step, Block):
        return f"Block of {len(step.layers)}"
    return f"{type(step).__name__}: {' '.join(node.name for node in step.nodes)}"


SPEC = tiny(stem_kind="conv-norm-relu", stem_pool=3, bottleneck_width=2)

TRAINING = [
    "Convolution: stem.conv",
    "NormRelu: stem.norm stem.relu",
    "Single: stem_pool",
    "Block of 2",
    "NormRelu: transition1.norm transition1.relu",
    "Convolution: transition1.conv transition1.pool",
    "Block of 1",
    "NormRelu: final.norm final.relu",
    "Single: global_pool",
    "Single: classifier",
]


def test_a_network_in_training() -> None:
    assert [_told(step) for step in steps(lower(SPEC), always)] == TRAINING


def test_a_network_in_inference() -> None:
    stem = ["Convolution: stem.conv stem.norm stem.relu"]
    assert [_told(step) for step in steps(lower(SPEC), never)] == stem + TRAINING[2:]


def test_a_norm_of_the_batch_stays_out_of_the_convolution_before_it() -> None:
    graph = lower(SPEC)
    layer = "block1.layer1"
    (block,) = (s for s in steps(graph, never) if isinstance(s, Block) and len(s.layers) == 2)
    assert [_told(step) for step in block.layers[0].steps] == [
        f"NormRelu: {layer}.norm1 {layer}.relu1",
        f"Convolution: {layer}.conv1 {layer}.norm2 {layer}.relu2",
        f"Convolution: {layer}.conv2",
    ]
    one = steps(graph, lambda norm: norm.name == f"{layer}.norm2")
    (block,) = (s for s in one if isinstance(s, Block) and len(s.layers) == 2)
    first, second = (layer.steps for layer in block.layers)
    assert [type(step) for step in first] == [NormRelu, Convolution] * 2
    assert [type(step) for step in second] == [NormRelu, Convolution, Convolution]


def test_dropout_stands_between_a_convolution_and_its_pool_or_norm() -> None:
    graph = lower(SPEC.replace(dropout_rate=0.5, dropout_place="every-conv"))
    told = [_told(step) for step in steps(graph, never)]
    assert "Single: stem.dropout" in told
    assert "Convolution: transition1.conv" in told
    idle = {node.name for node in graph.dropouts}
    assert steps(without(graph, idle), never) == steps(lower(SPEC), never)


def test_the_units_of_a_layer() -> None:
    graph = lower(SPEC.replace(dropout_rate=0.5, dropout_place="layer"))
    block = next(step for step in steps(graph, always) if isinstance(step, Block))
    first, second = block.layers[0].units
    names = [first.norm, first.relu, first.conv, second.norm, second.relu, second.conv]
    assert [node and node.name.rpartition(".")[2] for node in names] == [
        "norm1",
        "relu1",
        "conv1",
        "norm2",
        "relu2",
        "conv2",
    ]
    assert (first.dropout, second.dropout) == (None, graph["block1.layer1.dropout2"])
    assert (first.before, second.before) == (None, first.conv)


def test_no_norm_goes_through_a_dropout() -> None:
    graph = lower(SPEC.replace(dropout_rate=0.5))
    block = next(step for step in steps(graph, never) if isinstance(step, Block))
    assert [unit.before for unit in block.layers[0].units] == [None, None]


def test_layers_of_a_prepared_network_are_no_units() -> None:
    graph = prepare(lower(SPEC)).graph
    block = next(step for step in steps(graph, never) if isinstance(step, Block))
    assert [type(step) for step in block.layers[0].steps] == [Single, Convolution, Convolution]
    with pytest.raises(ValueError, match=r"block1\.layer1\.clip1 begins no unit"):
        _ = block.layers[0].units


@pytest.mark.parametrize("batch", [always, never])
def test_another_activation_is_no_relu(batch: Callable[[Node], bool]) -> None:
    graph = lower(SPEC.replace(activation="elu"))
    found = steps(graph, batch)
    assert [_told(step) for step in found][-4:-2] == ["NormRelu: final.norm", "Single: final.relu"]
    blocks = [step for step in found if isinstance(step, Block)]
    assert not any(block.is_of_units for block in blocks)
    plain = next(step for step in steps(lower(SPEC), batch) if isinstance(step, Block))
    assert plain.is_of_units


@unhurried
@given(specs(), st.booleans())
def test_steps_are_the_whole_network_in_order(spec: DenseNetSpec, batch: bool) -> None:
    for graph in (lower(spec), prepare(lower(spec)).graph):
        found = steps(graph, lambda _norm: batch)
        assert tuple(node for step in found for node in step.nodes) == graph.nodes[1:]
        assert found[0].reads == graph.input.name
        assert all(b.reads == a.output.name for a, b in itertools.pairwise(found))
        blocks = [step for step in found if isinstance(step, Block)]
        assert tuple(len(block.layers) for block in blocks) == spec.blocks
        assert [block.output.name for block in blocks] == [
            f"block{i}.concat{layers}" for i, layers in enumerate(spec.blocks, start=1)
        ]


@pytest.mark.parametrize(
    ("norm", "relu", "pools", "target"),
    [
        ("final.norm", "final.relu", ["global_pool"], "classifier"),
        ("transition1.norm", "transition1.relu", [], "transition1.conv"),
        ("block1.layer1.norm1", "block1.layer1.relu1", [], "block1.layer1.conv1"),
        ("block1.layer1.norm2", None, [], None),  # its convolution pads
        ("stem.norm", None, [], None),  # a maximum is not linear
    ],
    ids=str,
)
def test_the_linear_op_behind_a_norm(
    norm: str, relu: str | None, pools: list[str], target: str | None
) -> None:
    graph = lower(SPEC)
    behind = linear_behind(graph, graph[norm])
    if behind is None:
        assert target is None
    else:
        assert behind.relu == (relu and graph[relu])
        assert behind.pools == tuple(graph[pool] for pool in pools)
        assert behind.node.name == target


def test_features_before_those_that_a_layer_reads_are_no_dense_layer() -> None:
    graph = lower(tiny())
    concat = graph["block1.concat1"]
    twice = Node(concat.name, concat.op, concat.inputs[::-1], concat.shape)
    nodes = tuple(twice if node is concat else node for node in graph.nodes)
    with pytest.raises(ValueError, match=r"stem\.conv is read in several places"):
        steps(Graph(graph.spec, nodes), always)
