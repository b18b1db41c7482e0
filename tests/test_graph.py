"""Lowering: the nodes, their shapes, paddings, names and counts; and the options of the head."""

from __future__ import annotations

import copy
import pickle
import re
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from densespec.errors import SpecError, UnknownName
from densespec.network import ops
from densespec.network.catalogue import get, variants
from densespec.network.graph import Graph, freeze, head_of, in_head, lower, split, without
from densespec.network.ops import (
    AvgPool,
    BatchNorm,
    BlurPool,
    Concat,
    Conv,
    Dense,
    Dropout,
    GlobalPool,
    Input,
    MaxPool,
    Relu,
    Shape,
    Sigmoid,
    Softmax,
    Weight,
    multiply_adds,
    resolve_padding,
    weights_of,
)
from densespec.network.spec import DenseNetSpec
from tests.strategies import named, specs, tiny, unhurried


def _names(graph: Graph) -> list[str]:
    return [node.name for node in graph.nodes]


def _listing(graph: Graph) -> list[tuple[str, str, tuple[str, ...]]]:
    return [(node.name, type(node.op).__name__, node.inputs) for node in graph.nodes]


# Whole networks, node by node


def test_a_plain_network_node_by_node() -> None:
    assert _listing(lower(tiny())) == [
        ("input", "Input", ()),
        ("stem.conv", "Conv", ("input",)),
        ("block1.layer1.norm1", "BatchNorm", ("stem.conv",)),
        ("block1.layer1.relu1", "Relu", ("block1.layer1.norm1",)),
        ("block1.layer1.conv1", "Conv", ("block1.layer1.relu1",)),
        ("block1.concat1", "Concat", ("stem.conv", "block1.layer1.conv1")),
        ("block1.layer2.norm1", "BatchNorm", ("block1.concat1",)),
        ("block1.layer2.relu1", "Relu", ("block1.layer2.norm1",)),
        ("block1.layer2.conv1", "Conv", ("block1.layer2.relu1",)),
        ("block1.concat2", "Concat", ("block1.concat1", "block1.layer2.conv1")),
        ("transition1.norm", "BatchNorm", ("block1.concat2",)),
        ("transition1.relu", "Relu", ("transition1.norm",)),
        ("transition1.conv", "Conv", ("transition1.relu",)),
        ("transition1.pool", "AvgPool", ("transition1.conv",)),
        ("block2.layer1.norm1", "BatchNorm", ("transition1.pool",)),
        ("block2.layer1.relu1", "Relu", ("block2.layer1.norm1",)),
        ("block2.layer1.conv1", "Conv", ("block2.layer1.relu1",)),
        ("block2.concat1", "Concat", ("transition1.pool", "block2.layer1.conv1")),
        ("final.norm", "BatchNorm", ("block2.concat1",)),
        ("final.relu", "Relu", ("final.norm",)),
        ("global_pool", "GlobalPool", ("final.relu",)),
        ("classifier", "Dense", ("global_pool",)),
    ]


def test_every_option_of_the_body_node_by_node() -> None:
    spec = tiny(
        blocks=(1, 1),
        bottleneck_width=4,
        stem_kind="norm-relu-conv",
        stem_pool=3,
        transition_relu=False,
        final_norm=False,
        dropout_rate=0.2,
        dropout_place="every-conv",
    )
    assert _listing(lower(spec, classifier_activation="softmax")) == [
        ("input", "Input", ()),
        ("stem.norm", "BatchNorm", ("input",)),
        ("stem.relu", "Relu", ("stem.norm",)),
        ("stem.conv", "Conv", ("stem.relu",)),
        ("stem.dropout", "Dropout", ("stem.conv",)),
        ("stem_pool", "MaxPool", ("stem.dropout",)),
        ("block1.layer1.norm1", "BatchNorm", ("stem_pool",)),
        ("block1.layer1.relu1", "Relu", ("block1.layer1.norm1",)),
        ("block1.layer1.conv1", "Conv", ("block1.layer1.relu1",)),
        ("block1.layer1.dropout1", "Dropout", ("block1.layer1.conv1",)),
        ("block1.layer1.norm2", "BatchNorm", ("block1.layer1.dropout1",)),
        ("block1.layer1.relu2", "Relu", ("block1.layer1.norm2",)),
        ("block1.layer1.conv2", "Conv", ("block1.layer1.relu2",)),
        ("block1.layer1.dropout2", "Dropout", ("block1.layer1.conv2",)),
        ("block1.concat1", "Concat", ("stem_pool", "block1.layer1.dropout2")),
        ("transition1.norm", "BatchNorm", ("block1.concat1",)),
        ("transition1.conv", "Conv", ("transition1.norm",)),
        ("transition1.dropout", "Dropout", ("transition1.conv",)),
        ("transition1.pool", "AvgPool", ("transition1.dropout",)),
        ("block2.layer1.norm1", "BatchNorm", ("transition1.pool",)),
        ("block2.layer1.relu1", "Relu", ("block2.layer1.norm1",)),
        ("block2.layer1.conv1", "Conv", ("block2.layer1.relu1",)),
        ("block2.layer1.dropout1", "Dropout", ("block2.layer1.conv1",)),
        ("block2.layer1.norm2", "BatchNorm", ("block2.layer1.dropout1",)),
        ("block2.layer1.relu2", "Relu", ("block2.layer1.norm2",)),
        ("block2.layer1.conv2", "Conv", ("block2.layer1.relu2",)),
        ("block2.layer1.dropout2", "Dropout", ("block2.layer1.conv2",)),
        ("block2.concat1", "Concat", ("transition1.pool", "block2.layer1.dropout2")),
        ("global_pool", "GlobalPool", ("block2.concat1",)),
        ("classifier", "Dense", ("global_pool",)),
        ("softmax", "Softmax", ("classifier",)),
    ]


def test_the_ops_carry_what_the_spec_says() -> None:
    spec = DenseNetSpec(
        blocks=(1, 1),
        growth_rate=5,
        bottleneck_width=3,
        compression=0.5,
        in_channels=4,
        classes=6,
        stem_kind="conv-norm-relu",
        stem_width=7,
        stem_kernel=5,
        stem_stride=2,
        stem_pool=3,
        conv_bias=True,
        batch_norm_epsilon=0.25,
        batch_norm_momentum=0.125,
        running_variance="biased",
        dropout_rate=0.5,
    )
    graph = lower(spec, (32, 32))

    def conv(fan_in: int, filters: int, window: int, stride: int, pad: int) -> Conv:
        pads = ((pad, pad),) * 2
        return Conv(fan_in, filters, (window,) * 2, stride, pads, bias=True)

    assert graph["input"].op == Input((4, 32, 32))
    assert graph["stem.conv"].op == conv(4, 7, 5, 2, 2)
    assert graph["stem.norm"].op == BatchNorm(7, 0.25, 0.125, unbiased=False)
    assert graph["stem_pool"].op == MaxPool((3, 3), 2, ((1, 1), (1, 1)))
    assert graph["block1.layer1.conv1"].op == conv(7, 15, 1, 1, 0)
    assert graph["block1.layer1.dropout1"].op == Dropout(0.5)
    assert graph["block1.layer1.norm2"].op == BatchNorm(15, 0.25, 0.125, unbiased=False)
    assert graph["block1.layer1.conv2"].op == conv(15, 5, 3, 1, 1)
    assert graph["transition1.conv"].op == conv(12, 6, 1, 1, 0)
    assert graph["transition1.pool"].op == AvgPool((2, 2), 2)
    assert graph["global_pool"].op == GlobalPool("avg")
    assert graph["classifier"].op == Dense(11, 6)


def test_unbiased_running_variance_reaches_the_norms() -> None:
    norm = lower(tiny(running_variance="unbiased"))["final.norm"].op
    assert isinstance(norm, BatchNorm)
    assert norm.unbiased


# densenet169-bc, stage by stage

DENSENET169_BC = [
    ("stem", (64, 112, 112), 9_484),
    ("stem_pool", (64, 56, 56), 0),
    ("block1", (256, 56, 56), 339_264),
    ("transition1", (128, 28, 28), 33_920),
    ("block2", (512, 28, 28), 931_968),
    ("transition2", (256, 14, 14), 133_376),
    ("block3", (1280, 14, 14), 4_377_600),
    ("transition3", (640, 7, 7), 824_960),
    ("block4", (1664, 7, 7), 5_999_616),
    ("global_pool", (1664,), 0),
    ("classifier", (1000,), 1_665_000),
]


@pytest.mark.parametrize("name", [name for name in variants() if "169-bc" in name])
def test_the_stages_of_densenet169_bc_at_224(name: str) -> None:
    stages = lower(get(name), (224, 224)).stages()
    assert [(s.name, s.shape, s.parameters.total) for s in stages] == DENSENET169_BC
    assert sum(s.parameters.total for s in stages) == 14_315_188


def test_the_stages_add_up_to_the_network() -> None:
    graph = lower(get("densenet121"), (224, 224))
    stages = graph.stages()
    assert sum(stage.parameters.trainable for stage in stages) == graph.parameters.trainable
    assert sum(stage.parameters.non_trainable for stage in stages) == graph.parameters.non_trainable
    assert sum(stage.multiply_adds or 0 for stage in stages) == graph.multiply_adds


@pytest.mark.parametrize(
    ("name", "count", "published"),
    named(
        "{0} takes {2} billion",
        ("densenet121", 2_834_161_664, "2.83"),
        ("densenet161", 7_727_907_072, "7.73"),
        ("densenet169", 3_359_843_328, "3.36"),
        ("densenet201", 4_291_365_888, "4.29"),
    ),
)
def test_multiply_adds_at_224_are_those_torchvision_publishes(
    name: str, count: int, published: str
) -> None:
    assert lower(get(name), (224, 224)).multiply_adds == count
    assert f"{count / 1e9:.2f}" == published


def test_multiply_adds_by_hand() -> None:
    graph = lower(tiny(blocks=(1,), in_channels=2), (4, 6))
    # stem 2 -> 3 and a layer 3 -> 2, both 3x3 at 24 positions; a classifier 5 -> 3
    assert graph["stem.conv"].multiply_adds == 24 * 9 * 2 * 3
    assert graph["block1.layer1.conv1"].multiply_adds == 24 * 9 * 3 * 2
    assert graph["classifier"].multiply_adds == 15
    assert graph.multiply_adds == 24 * 9 * 12 + 15


def _counted(spec: DenseNetSpec) -> tuple[int, int]:
    """Trainable parameters and running statistics, from the description of a DenseNet alone."""
    trainable, statistics = 0, 0

    def conv(fan_in: int, filters: int, window: int) -> None:
        nonlocal trainable
        trainable += filters * (fan_in * window**spec.spatial_dims + spec.conv_bias)

    def norm(channels: int) -> None:
        nonlocal trainable, statistics
        trainable += 2 * channels
        statistics += 2 * channels

    k = spec.growth_rate
    channels = 2 * k if spec.stem_width == "2k" else spec.stem_width
    if spec.stem_kind == "norm-relu-conv":
        norm(spec.in_channels)
    halves = [channels // 2] * 2 if spec.stem_kind == "deep" else []
    given = spec.in_channels
    for width in (*halves, channels):
        conv(given, width, spec.stem_kernel)
        if spec.stem_kind in ("conv-norm-relu", "deep"):
            norm(width)
        given = width
    for block, layers in enumerate(spec.blocks):
        if block > 0:
            norm(channels)
            kept = int(channels * spec.compression)
            conv(channels, kept, 1)
            channels = kept
        for _ in range(layers):
            norm(channels)
            if spec.bottleneck_width is None:
                conv(channels, k, 3)
            else:
                conv(channels, spec.bottleneck_width * k, 1)
                norm(spec.bottleneck_width * k)
                conv(spec.bottleneck_width * k, k, 3)
            channels += k
    if spec.final_norm:
        norm(channels)
    channels *= 2 if spec.global_pool == "catavgmax" else 1
    for units in (*spec.head_units, spec.classes):
        trainable += (channels + 1) * units
        channels = units
    if not spec.classifier_bias:
        trainable -= spec.classes
    return trainable, statistics


@unhurried
@given(specs())
def test_parameters_are_those_counted_by_hand(spec: DenseNetSpec) -> None:
    count = lower(spec).parameters
    assert (count.trainable, count.non_trainable) == _counted(spec)


# What holds of every graph

graphs = specs().map(lower)


def _prefixes(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:end]) for end in range(1, len(parts))]


def _check_parts(graph: Graph) -> None:
    """Every dotted prefix of a name is a part of the network with one input and one output."""
    parts: dict[str, set[str]] = {}
    for name in _names(graph):
        for prefix in _prefixes(name):
            parts.setdefault(prefix, set()).add(name)
    for prefix, members in parts.items():
        assert prefix not in _names(graph), f"{prefix} is both a node and a part"
        sources = {s for name in members for s in graph[name].inputs if s not in members}
        read_outside = {
            source
            for node in graph.nodes
            if node.name not in members
            for source in node.inputs
            if source in members
        }
        results = read_outside | ({graph.output.name} & members)
        assert len(sources) == 1, f"{prefix} reads {sources}"
        assert len(results) == 1, f"{prefix} gives {results}"


@unhurried
@given(graphs)
def test_every_part_of_a_graph_has_one_input_and_one_output(graph: Graph) -> None:
    _check_parts(graph)


@pytest.mark.parametrize("name", variants())
def test_every_part_of_a_variant_has_one_input_and_one_output(name: str) -> None:
    _check_parts(lower(get(name)))


@unhurried
@given(specs(), st.sampled_from([None, "avg", "max"]))
def test_every_part_of_a_headless_graph_has_one_input_and_one_output(
    spec: DenseNetSpec, pooling: Any
) -> None:
    _check_parts(lower(spec, include_top=False, pooling=pooling))


@unhurried
@given(graphs)
def test_names_are_unique_and_inputs_come_earlier(graph: Graph) -> None:
    seen: set[str] = set()
    for node in graph.nodes:
        assert node.name not in seen
        assert set(node.inputs) <= seen
        seen.add(node.name)
    assert isinstance(graph.nodes[0].op, Input)
    assert graph.input is graph.nodes[0]
    assert graph.output is graph.nodes[-1]


@unhurried
@given(graphs)
def test_every_node_but_the_output_is_read(graph: Graph) -> None:
    read = {source for node in graph.nodes for source in node.inputs}
    assert read == set(_names(graph)) - {graph.output.name}


@unhurried
@given(graphs)
def test_weight_names_are_unique_and_start_with_their_node(graph: Graph) -> None:
    names = [weight.name for weight in graph.weights]
    assert len(set(names)) == len(names)
    for node in graph.nodes:
        assert [w.name for w in node.weights] == [
            f"{node.name}.{w.name}" for w in weights_of(node.op)
        ]


@unhurried
@given(specs())
def test_nothing_but_shapes_depends_on_the_input_size(spec: DenseNetSpec) -> None:
    unknown, known = lower(spec), lower(spec, (256,) * spec.spatial_dims)
    assert unknown.weights == known.weights
    assert _listing(unknown) == _listing(known)
    for one, other in zip(unknown.nodes, known.nodes, strict=True):
        assert one.shape == (other.shape[0], *[None] * (len(other.shape) - 1))


def test_nodes_are_found_by_name() -> None:
    graph = lower(tiny())
    assert graph["final.norm"].name == "final.norm"
    assert graph["block1.layer1.conv1"].stage == "block1"
    with pytest.raises(KeyError):
        graph["block9.concat1"]


def test_nodes_know_who_reads_them_and_whom_they_read() -> None:
    graph = lower(tiny(blocks=(1,)))
    stem, concat = graph["stem.conv"], graph["block1.concat1"]
    norm = graph["block1.layer1.norm1"]
    assert graph.readers(stem) == (norm, concat)
    assert graph.reader(stem) is None
    assert graph.reader(norm) is graph["block1.layer1.relu1"]
    assert graph.source(norm) is stem
    assert graph.reader(graph.output) is None
    with pytest.raises(ValueError, match="unpack"):
        graph.source(concat)


ENDINGS: list[tuple[dict[str, Any], bool, bool, str | None, str | None]] = [
    ({}, True, True, None, None),
    ({"classifier_activation": "softmax"}, True, False, None, "softmax"),
    ({"classifier_activation": "sigmoid"}, True, False, None, "sigmoid"),
    ({"include_top": False}, False, False, None, None),
    ({"include_top": False, "pooling": "max"}, False, False, "max", None),
]


@pytest.mark.parametrize("head_units", [(), (4,)], ids=["plain", "a head"])
@pytest.mark.parametrize(
    ("options", "classifier", "logits", "pooling", "activation"),
    ENDINGS,
    ids=[str(row[0]) for row in ENDINGS],
)
def test_a_graph_tells_how_it_ends(
    options: dict[str, Any],
    classifier: bool,
    logits: bool,
    pooling: str | None,
    activation: str | None,
    head_units: tuple[int, ...],
) -> None:
    graph = lower(tiny(head_units=head_units), **options)
    assert graph.has_classifier is classifier
    assert graph.gives_logits is logits
    assert graph.pooling == pooling
    assert graph.classifier_activation == activation


def test_a_graph_tells_its_input() -> None:
    graph = lower(tiny(spatial_dims=3), (8, None, 9))
    assert graph.input_size == (8, None, 9)
    assert graph.spatial_dims == 3
    assert split(lower(tiny()), "classifier")[1].spatial_dims == 0


def test_frozen_dropouts_never_drop() -> None:
    graph = lower(tiny(dropout_rate=0.25))
    dropouts = graph.nodes_of(Dropout)
    assert [node.name for node in dropouts] == [
        "block1.layer1.dropout1",
        "block1.layer2.dropout1",
        "transition1.dropout",
        "block2.layer1.dropout1",
    ]
    assert graph.dropouts == dropouts
    assert {node.drop_rate for node in dropouts} == {0.25}
    partly = freeze(graph, "transition1")
    assert [node.name for node in partly.dropouts] == [node.name for node in dropouts[2:]]
    assert graph["classifier"].drop_rate == 0


@pytest.mark.parametrize("head_units", [(), (4, 5)], ids=["plain", "a head"])
def test_the_head_is_what_follows_the_global_pool(head_units: tuple[int, ...]) -> None:
    spec = tiny(head_units=head_units)
    graph = lower(spec)
    names = _names(graph)
    after = names[names.index("global_pool") + 1 :]
    assert [name for name in names if in_head(name)] == after
    assert head_of(spec) == graph[after[0]].stage
    assert all(in_head(weight.name) for name in after for weight in graph[name].weights)
    assert not in_head("header.kernel")
    assert not in_head("classifier2")


@unhurried
@given(specs())
def test_without_some_nodes_their_readers_read_what_they_read(spec: DenseNetSpec) -> None:
    dropping = spec.replace(dropout_rate=0.5)
    graph = lower(dropping)
    names = {node.name for node in graph.dropouts}
    assert without(graph, names).nodes == lower(spec.replace(dropout_rate=0.0)).nodes


@pytest.mark.parametrize(
    ("changes", "early"),
    [({}, False), ({"stem_stride": 2}, True), ({"stem_pool": 2}, True)],
    ids=str,
)
def test_a_stem_that_strides_or_pools_shrinks_early(changes: dict[str, Any], early: bool) -> None:
    assert tiny(**changes).shrinks_early is early


def test_weights_carry_canonical_names_in_order() -> None:
    graph = lower(tiny(blocks=(1,), conv_bias=True))
    assert graph.weights == (
        Weight("stem.conv.kernel", (3, 3, 3, 3), initial="he-normal"),
        Weight("stem.conv.bias", (3,)),
        Weight("block1.layer1.norm1.gamma", (3,), initial="ones"),
        Weight("block1.layer1.norm1.beta", (3,)),
        Weight("block1.layer1.norm1.running_mean", (3,), trainable=False),
        Weight("block1.layer1.norm1.running_variance", (3,), trainable=False, initial="ones"),
        Weight("block1.layer1.conv1.kernel", (2, 3, 3, 3), initial="he-normal"),
        Weight("block1.layer1.conv1.bias", (2,)),
        Weight("final.norm.gamma", (5,), initial="ones"),
        Weight("final.norm.beta", (5,)),
        Weight("final.norm.running_mean", (5,), trainable=False),
        Weight("final.norm.running_variance", (5,), trainable=False, initial="ones"),
        Weight("classifier.kernel", (3, 5), initial="uniform"),
        Weight("classifier.bias", (3,)),
    )


def test_a_weights_short_name_leaves_out_its_nodes() -> None:
    weights = lower(tiny())["block1.layer1.norm1"].weights
    assert [weight.short for weight in weights] == [
        "gamma",
        "beta",
        "running_mean",
        "running_variance",
    ]
    assert Weight("kernel", ()).short == "kernel"


def test_equal_lowerings_are_equal_values() -> None:
    one, other = lower(tiny(), (8, 8)), lower(tiny(), (8, 8))
    assert one == other
    assert hash(one) == hash(other)
    assert one != lower(tiny(), (8, 9))
    assert pickle.loads(pickle.dumps(one)) == one
    assert copy.deepcopy(one) == one


def test_a_network_of_1001_layers() -> None:
    spec = DenseNetSpec(blocks=(249,) * 4, growth_rate=12)
    assert spec.depth == 1001
    graph = lower(spec)
    layers, transitions = 996, 3  # four nodes each: norm, relu, conv, and concat or pool
    others = 6  # input, stem, final norm and relu, global pool, classifier
    assert len(graph.nodes) == 4 * (layers + transitions) + others


# Sizes of the input


def _spatial(graph: Graph, *names: str) -> list[Shape]:
    return [graph[name].shape[1:] for name in names]


PYRAMID = (
    "stem.conv",
    "stem_pool",
    "transition1.pool",
    "transition2.pool",
    "transition3.pool",
    "final.relu",
)


@pytest.mark.parametrize("padding", ["symmetric", "same"])
@pytest.mark.parametrize(
    ("size", "sizes"),
    named(
        "{0}",
        (224, [112, 56, 28, 14, 7, 7]),
        (225, [113, 57, 28, 14, 7, 7]),
        (299, [150, 75, 37, 18, 9, 9]),
        (331, [166, 83, 41, 20, 10, 10]),
        (29, [15, 8, 4, 2, 1, 1]),
    ),
)
def test_odd_and_even_sizes_shrink_alike_under_both_paddings(
    size: int, sizes: list[int], padding: str
) -> None:
    graph = lower(get("densenet121").replace(padding=padding), (size, size))
    assert _spatial(graph, *PYRAMID) == [(n, n) for n in sizes]


def test_the_sides_of_a_rectangle_shrink_separately() -> None:
    graph = lower(get("densenet121"), (299, 32))
    expected = [(150, 16), (75, 8), (37, 4), (18, 2), (9, 1), (9, 1)]
    assert _spatial(graph, *PYRAMID) == expected
    assert graph["final.relu"].shape[0] == 1024


def test_a_size_may_be_unknown_in_one_dimension() -> None:
    graph = lower(get("densenet121"), (224, None))
    assert _spatial(graph, *PYRAMID) == [(n, None) for n in (112, 56, 28, 14, 7, 7)]
    assert graph.multiply_adds is None
    assert graph["classifier"].multiply_adds == 1_024_000
    assert {stage.name: stage.multiply_adds for stage in graph.stages()}["block1"] is None


def test_without_a_size_every_dimension_is_unknown() -> None:
    graph = lower(get("densenet121"))
    assert graph.input.shape == (3, None, None)
    assert graph == lower(get("densenet121"), (None, None))
    assert graph.multiply_adds is None


@pytest.mark.parametrize(
    ("dims", "size"), named("{0}-D, {1}", (1, (20,)), (2, (20, 12)), (3, (20, 12, 8)))
)
def test_shapes_in_one_two_and_three_dimensions(dims: int, size: tuple[int, ...]) -> None:
    spec = tiny(spatial_dims=dims, stem_kernel=5, stem_stride=2, stem_pool=3)
    graph = lower(spec, size)
    quarter, eighth = tuple(-(-n // 4) for n in size), tuple(-(-n // 4) // 2 for n in size)
    assert graph["stem.conv"].shape == (3, *(n // 2 for n in size))
    assert graph["stem_pool"].shape == (3, *quarter)
    assert graph["block1.concat2"].shape == (7, *quarter)
    assert graph["transition1.pool"].shape == (7, *eighth)
    assert graph["global_pool"].shape == (9,)
    assert graph["stem.conv"].weights[0].shape == (3, 3, *(5,) * dims)
    assert graph["block1.layer1.conv1"].weights[0].shape == (2, 3, *(3,) * dims)
    assert graph["transition1.conv"].weights[0].shape == (7, 7, *(1,) * dims)


@pytest.mark.parametrize("size", [(28, 28), (28, 224), (224, 28), (28, None), (None, 1)], ids=str)
def test_s24_names_the_place_where_nothing_is_left(size: tuple[int | None, ...]) -> None:
    with pytest.raises(SpecError) as caught:
        lower(get("densenet121"), size)
    place = "transition1.pool" if 1 in size else "transition3.pool"
    assert str(caught.value) == (
        f"input size = {size}, but should be larger: nothing is left of it at {place} [S24]"
    )


def test_s24_holds_for_windows_larger_than_the_input() -> None:
    with pytest.raises(SpecError, match=r"nothing is left of it at stem_pool \[S24\]"):
        lower(tiny(stem_pool=2), (1, 1))


# Padding

SAME_AT_224 = {"stem.conv": (2, 3), "stem_pool": (0, 1)}
SYMMETRIC = {"stem.conv": (3, 3), "stem_pool": (1, 1)}


def _paddings(graph: Graph) -> dict[str, Any]:
    return {n.name: n.op.padding for n in graph.nodes if isinstance(n.op, Conv | MaxPool)}


@pytest.mark.parametrize(
    ("padding", "size", "pads"),
    [
        pytest.param("symmetric", 224, SYMMETRIC, id="symmetric at 224"),
        pytest.param("symmetric", 225, SYMMETRIC, id="symmetric at 225"),
        pytest.param("symmetric", None, SYMMETRIC, id="symmetric at an unknown size"),
        pytest.param("same", 224, SAME_AT_224, id="'same' at 224 puts less at the start"),
        pytest.param("same", 225, SYMMETRIC, id="'same' at 225 is symmetric"),
        pytest.param("same", 226, SAME_AT_224 | {"stem_pool": (1, 1)}, id="'same' at 226"),
    ],
)
def test_paddings_of_the_stem(
    padding: str, size: int | None, pads: dict[str, tuple[int, int]]
) -> None:
    graph = lower(get("densenet121").replace(padding=padding), (size, size))
    found = _paddings(graph)
    assert {name: found[name] for name in pads} == {name: (p, p) for name, p in pads.items()}


@pytest.mark.parametrize("size", [None, (224, None), (None, None)], ids=str)
def test_same_stays_unresolved_while_a_size_is_unknown(
    size: tuple[int | None, ...] | None,
) -> None:
    paddings = _paddings(lower(get("densenet169-bc-keras"), size))
    assert {name for name, pads in paddings.items() if pads == "same"} == {"stem.conv", "stem_pool"}


def test_same_is_resolved_dimension_by_dimension() -> None:
    paddings = _paddings(lower(get("densenet169-bc-keras"), (224, 225)))
    assert paddings["stem.conv"] == ((2, 3), (3, 3))
    assert paddings["stem_pool"] == ((0, 1), (1, 1))


@pytest.mark.parametrize("padding", ["symmetric", "same"])
def test_convolutions_inside_blocks_pad_alike_under_both_conventions(padding: str) -> None:
    graph = lower(tiny(padding=padding, bottleneck_width=4))
    paddings = _paddings(graph)
    assert paddings["stem.conv"] == ((1, 1), (1, 1))  # 3x3, stride 1
    assert paddings["block1.layer1.conv1"] == ((0, 0), (0, 0))
    assert paddings["block1.layer1.conv2"] == ((1, 1), (1, 1))
    assert paddings["transition1.conv"] == ((0, 0), (0, 0))


def test_an_even_pool_under_symmetric_padding_rounds_down() -> None:
    assert _paddings(lower(tiny(stem_pool=2)))["stem_pool"] == ((0, 0), (0, 0))
    assert _paddings(lower(tiny(stem_pool=4)))["stem_pool"] == ((1, 1), (1, 1))


def test_an_even_kernel_under_same_puts_more_at_the_end() -> None:
    graph = lower(tiny(stem_kernel=4, padding="same"), (9, 9))
    assert _paddings(graph)["stem.conv"] == ((1, 2), (1, 2))
    assert graph["stem.conv"].shape == (3, 9, 9)


@settings(unhurried, max_examples=300)
@given(st.integers(1, 40), st.integers(1, 9), st.integers(1, 5))
def test_same_is_the_least_padding_that_keeps_ceil_of_size_over_stride(
    size: int, window: int, stride: int
) -> None:
    pads = resolve_padding("same", (size,), (window,), stride)
    assert pads != "same"
    ((before, after),) = pads
    starts = range(0, size + before + after - window + 1, stride)
    assert len(starts) == -(-size // stride)
    assert after - before in (0, 1)
    assert before + after == 0 or starts[-1] + window == size + before + after


# Ops: shapes, weights, multiply-adds

UNPADDED = ((0, 0), (0, 0))


@pytest.mark.parametrize(
    ("op", "pads_nothing", "pointwise"),
    [
        pytest.param(Conv(3, 8, (1, 1), 1, UNPADDED, bias=False), True, True, id="1x1"),
        pytest.param(Conv(3, 8, (1, 1), 2, UNPADDED, bias=False), True, False, id="strided"),
        pytest.param(Conv(3, 8, (1, 3), 1, UNPADDED, bias=False), True, False, id="1x3"),
        pytest.param(Conv(3, 8, (1, 1), 1, ((0, 0), (0, 1)), bias=True), False, False, id="pad"),
        pytest.param(Conv(3, 8, (3, 3), 1, "same", bias=False), False, False, id="same"),
    ],
)
def test_what_a_convolution_reads(op: Conv, pads_nothing: bool, pointwise: bool) -> None:
    assert op.pads_nothing is pads_nothing
    assert op.is_pointwise is pointwise


@pytest.mark.parametrize(
    ("op", "inputs", "shape"),
    [
        pytest.param(Input((3, 5, None)), [], (3, 5, None), id="an input is as it is"),
        pytest.param(
            Conv(3, 8, (3, 3), 1, ((1, 1), (1, 1)), bias=False),
            [(3, 7, 9)],
            (8, 7, 9),
            id="a padded convolution keeps the size",
        ),
        pytest.param(
            Conv(3, 8, (3, 3), 2, ((0, 0), (0, 1)), bias=False),
            [(3, 7, 8)],
            (8, 3, 4),
            id="a convolution leaves out what its stride does not reach",
        ),
        pytest.param(
            Conv(3, 8, (5,), 3, ((2, 1),), bias=False),
            [(3, 10)],
            (8, 3),
            id="a convolution in one dimension",
        ),
        pytest.param(
            Conv(2, 4, (1, 2, 3), 1, ((0, 0), (0, 0), (1, 1)), bias=False),
            [(2, 4, 4, 4)],
            (4, 4, 3, 4),
            id="a convolution in three dimensions",
        ),
        pytest.param(
            Conv(3, 8, (7, 7), 2, "same", bias=False),
            [(3, None, 225)],
            (8, None, 113),
            id="a 'same' convolution of a partly unknown size",
        ),
        pytest.param(
            Conv(3, 8, (3, 3), 1, ((0, 0), (0, 0)), bias=False),
            [(3, None, 5)],
            (8, None, 3),
            id="a convolution of a partly unknown size",
        ),
        pytest.param(
            BatchNorm(3, 1e-5, 0.1, unbiased=True), [(3, 4, 5)], (3, 4, 5), id="a norm keeps it all"
        ),
        pytest.param(ops.Affine(3), [(3, 4, None)], (3, 4, None), id="a scale keeps it all"),
        pytest.param(ops.Clip(3), [(3, 4, None)], (3, 4, None), id="a clip keeps it all"),
        pytest.param(Relu(), [(3, None, 5)], (3, None, 5), id="a relu keeps it all"),
        pytest.param(
            ops.Activation("elu"), [(3, None, 5)], (3, None, 5), id="an activation keeps it all"
        ),
        pytest.param(ops.PRelu(), [(3, None, 5)], (3, None, 5), id="a prelu keeps it all"),
        pytest.param(
            ops.GroupNorm(4, 2, 1e-5, affine=True), [(4, 5)], (4, 5), id="a group norm keeps it all"
        ),
        pytest.param(Dropout(0.5), [(3, 4)], (3, 4), id="a dropout keeps it all"),
        pytest.param(
            Concat(), [(3, 4, None), (5, 4, None), (1, 4, None)], (9, 4, None), id="a concat adds"
        ),
        pytest.param(
            MaxPool((3, 3), 2, ((1, 1), (0, 1))),
            [(6, 8, 8)],
            (6, 4, 4),
            id="a max pool counts its padding",
        ),
        pytest.param(MaxPool((3,), 2, "same"), [(6, 9)], (6, 5), id="a 'same' max pool rounds up"),
        pytest.param(
            AvgPool((2, 2), 2), [(6, 7, 8)], (6, 3, 4), id="an average pool leaves out the rest"
        ),
        pytest.param(
            AvgPool((2, 2), 2), [(6, None, 8)], (6, None, 4), id="an average pool, partly unknown"
        ),
        pytest.param(
            GlobalPool("avg"), [(6, None, 8)], (6,), id="a global pool keeps the channels"
        ),
        pytest.param(
            GlobalPool("catavgmax"), [(6, None, 8)], (12,), id="means and maxima are twice as many"
        ),
        pytest.param(BlurPool((3, 3), 2), [(6, 7, 8)], (6, 4, 4), id="a blurring pool rounds up"),
        pytest.param(
            BlurPool((3, 3), 2), [(6, None, 8)], (6, None, 4), id="a blurring pool, partly unknown"
        ),
        pytest.param(
            BlurPool((3, 3), 2), [(6, 1, 2)], (6, 0, 1), id="one position can't be mirrored"
        ),
        pytest.param(Dense(6, 10), [(6,)], (10,), id="a linear layer gives its units"),
        pytest.param(Softmax(), [(10,)], (10,), id="a softmax keeps it all"),
        pytest.param(Sigmoid(), [(10,)], (10,), id="a sigmoid keeps it all"),
    ],
)
def test_shape_rules(op: ops.Op, inputs: list[Shape], shape: Shape) -> None:
    assert op.output(*inputs) == shape


def test_every_op_kind_has_a_shape_rule_above() -> None:
    marks = [m for m in test_shape_rules.pytestmark if m.name == "parametrize"]  # type: ignore[attr-defined]
    tested = {type(param.values[0]) for param in marks[0].args[1]}
    assert tested == set(ops.Op.__args__)


@pytest.mark.parametrize(
    ("op", "weights"),
    [
        pytest.param(
            Conv(3, 8, (5, 2), 1, "same", bias=True),
            (Weight("kernel", (8, 3, 5, 2), initial="he-normal"), Weight("bias", (8,))),
            id="a convolution with bias",
        ),
        pytest.param(
            Conv(3, 8, (5,), 1, "same", bias=False),
            (Weight("kernel", (8, 3, 5), initial="he-normal"),),
            id="a convolution without bias",
        ),
        pytest.param(
            BatchNorm(3, 1e-5, 0.1, unbiased=True),
            (
                Weight("gamma", (3,), initial="ones"),
                Weight("beta", (3,)),
                Weight("running_mean", (3,), trainable=False),
                Weight("running_variance", (3,), trainable=False, initial="ones"),
            ),
            id="a norm",
        ),
        pytest.param(
            BatchNorm(3, 1e-5, 0.1, unbiased=True, affine=False),
            (
                Weight("running_mean", (3,), trainable=False),
                Weight("running_variance", (3,), trainable=False, initial="ones"),
            ),
            id="a norm without scale and shift",
        ),
        pytest.param(
            ops.GroupNorm(4, 2, 1e-5, affine=True),
            (Weight("gamma", (4,), initial="ones"), Weight("beta", (4,))),
            id="a group norm",
        ),
        pytest.param(
            ops.GroupNorm(4, 2, 1e-5, affine=False), (), id="a group norm without scale and shift"
        ),
        pytest.param(ops.PRelu(), (Weight("slope", (1,), initial="quarter"),), id="a prelu"),
        pytest.param(
            Dense(6, 10),
            (Weight("kernel", (10, 6), initial="uniform"), Weight("bias", (10,))),
            id="a linear layer",
        ),
        pytest.param(
            Dense(6, 10, bias=False),
            (Weight("kernel", (10, 6), initial="uniform"),),
            id="a linear layer without bias",
        ),
        pytest.param(
            ops.Affine(3),
            tuple(Weight(name, (3,), trainable=False) for name in ("scale", "shift")),
            id="a scale and shift",
        ),
        pytest.param(
            ops.Clip(3),
            tuple(Weight(name, (3,), trainable=False) for name in ("low", "high")),
            id="a clip",
        ),
        pytest.param(Relu(), (), id="a relu"),
        pytest.param(MaxPool((3,), 2, "same"), (), id="a pool"),
    ],
)
def test_weights_of_an_op(op: ops.Op, weights: tuple[Weight, ...]) -> None:
    assert weights_of(op) == weights


def test_the_size_of_a_weight_is_the_product_of_its_shape() -> None:
    assert Weight("kernel", (8, 3, 5, 2)).size == 240


@pytest.mark.parametrize(
    ("op", "output", "count"),
    [
        (Conv(3, 8, (5, 2), 1, "same", bias=True), (8, 6, 7), 6 * 7 * 8 * 3 * 5 * 2),
        (Conv(3, 8, (5, 2), 1, "same", bias=True), (8, 6, None), None),
        (Dense(6, 10), (10,), 60),
        (BatchNorm(3, 1e-5, 0.1, unbiased=True), (3, 6, 7), 0),
        (AvgPool((2, 2), 2), (3, 6, 7), 0),
        (AvgPool((2, 2), 2), (3, None, 7), 0),
    ],
    ids=[
        "a convolution",
        "a convolution of unknown size",
        "a linear layer",
        "a norm",
        "a pool",
        "a pool of unknown size",
    ],
)
def test_multiply_adds_of_an_op(op: ops.Op, output: Shape, count: int | None) -> None:
    assert multiply_adds(op, output) == count


# Dropout

BOTTLENECKED = {"blocks": (1, 1), "bottleneck_width": 2, "dropout_rate": 0.25}


@pytest.mark.parametrize(
    ("place", "bottleneck", "names"),
    [
        pytest.param(
            "conv",
            2,
            [
                "block1.layer1.dropout1",
                "block1.layer1.dropout2",
                "transition1.dropout",
                "block2.layer1.dropout1",
                "block2.layer1.dropout2",
            ],
            id="after each convolution but the stem's",
        ),
        pytest.param(
            "every-conv",
            2,
            [
                "stem.dropout",
                "block1.layer1.dropout1",
                "block1.layer1.dropout2",
                "transition1.dropout",
                "block2.layer1.dropout1",
                "block2.layer1.dropout2",
            ],
            id="after every convolution",
        ),
        pytest.param(
            "layer",
            2,
            ["block1.layer1.dropout2", "block2.layer1.dropout2"],
            id="at the end of each dense layer",
        ),
        pytest.param(
            "conv",
            None,
            ["block1.layer1.dropout1", "transition1.dropout", "block2.layer1.dropout1"],
            id="after each convolution but the stem's, without bottlenecks",
        ),
        pytest.param(
            "layer",
            None,
            ["block1.layer1.dropout1", "block2.layer1.dropout1"],
            id="at the end of each dense layer, without bottlenecks",
        ),
    ],
)
def test_dropout_stands(place: str, bottleneck: int | None, names: list[str]) -> None:
    spec = tiny(blocks=(1, 1), dropout_rate=0.25, dropout_place=place, bottleneck_width=bottleneck)
    graph = lower(spec)
    dropouts = [node for node in graph.nodes if isinstance(node.op, Dropout)]
    assert [node.name for node in dropouts] == names
    for node in dropouts:
        assert node.op == Dropout(0.25)
        assert node.inputs == (node.name.replace("dropout", "conv"),)


def _without_dropout(graph: Graph) -> list[tuple[str, ops.Op, tuple[str, ...], Shape]]:
    before = {n.name: n.inputs[0] for n in graph.nodes if isinstance(n.op, Dropout)}
    return [
        (n.name, n.op, tuple(before.get(source, source) for source in n.inputs), n.shape)
        for n in graph.nodes
        if n.name not in before
    ]


@unhurried
@given(specs())
def test_dropout_changes_nothing_else(spec: DenseNetSpec) -> None:
    spec = spec.replace(head_dropout_rate=0)
    without, with_some = lower(spec.replace(dropout_rate=0)), lower(spec.replace(dropout_rate=0.5))
    assert not any(isinstance(node.op, Dropout) for node in without.nodes)
    assert any(isinstance(node.op, Dropout) for node in with_some.nodes)
    assert _without_dropout(with_some) == _without_dropout(without)


# The head


def test_without_the_top_a_network_ends_in_features() -> None:
    full, headless = lower(tiny(), (8, 8)), lower(tiny(), (8, 8), include_top=False)
    assert headless.nodes == full.nodes[:-2]
    assert headless.output.name == "final.relu"
    assert headless.output.shape == (9, 4, 4)


def test_without_the_top_and_a_final_norm_a_network_ends_in_its_last_block() -> None:
    graph = lower(tiny(final_norm=False), include_top=False)
    assert graph.output.name == "block2.concat1"


@pytest.mark.parametrize("pooling", ["avg", "max", "avgmax", "catavgmax"])
def test_pooling_without_the_top(pooling: Any) -> None:
    headless = lower(tiny(), (8, 8), include_top=False)
    pooled = lower(tiny(), (8, 8), include_top=False, pooling=pooling)
    assert pooled.nodes[:-1] == headless.nodes
    assert pooled.output.name == "global_pool"
    assert pooled.output.op == GlobalPool(pooling)
    assert pooled.output.inputs == (headless.output.name,)
    assert pooled.output.shape == (18 if pooling == "catavgmax" else 9,)


def test_a_head_with_all_there_is_node_by_node() -> None:
    spec = tiny(
        head_units=(4,), head_dropout_rate=0.5, classifier_bias=False, global_pool="catavgmax"
    )
    graph = lower(spec)
    assert _listing(graph)[-5:] == [
        ("global_pool", "GlobalPool", ("final.relu",)),
        ("head1.dense", "Dense", ("global_pool",)),
        ("head1.relu", "Relu", ("head1.dense",)),
        ("head_dropout", "Dropout", ("head1.relu",)),
        ("classifier", "Dense", ("head_dropout",)),
    ]
    assert graph["global_pool"].op == GlobalPool("catavgmax")
    assert graph["head1.dense"].op == Dense(18, 4)
    assert graph["head_dropout"].op == Dropout(0.5)
    assert graph["classifier"].op == Dense(4, 3, bias=False)
    assert in_head("head_dropout")
    with pytest.raises(UnknownName):
        lower(spec, outputs=("head_dropout",))


def test_a_deep_stem_and_blurred_pools_node_by_node() -> None:
    spec = tiny(
        blocks=(1, 1),
        stem_kind="deep",
        stem_width=5,
        stem_stride=2,
        stem_pool=3,
        stem_pool_kind="max-blur",
        transition_pool_kind="blur",
    )
    graph = lower(spec, (33, 32))
    assert _listing(graph)[:12] == [
        ("input", "Input", ()),
        ("stem.conv", "Conv", ("input",)),
        ("stem.norm", "BatchNorm", ("stem.conv",)),
        ("stem.relu", "Relu", ("stem.norm",)),
        ("stem.conv2", "Conv", ("stem.relu",)),
        ("stem.norm2", "BatchNorm", ("stem.conv2",)),
        ("stem.relu2", "Relu", ("stem.norm2",)),
        ("stem.conv3", "Conv", ("stem.relu2",)),
        ("stem.norm3", "BatchNorm", ("stem.conv3",)),
        ("stem.relu3", "Relu", ("stem.norm3",)),
        ("stem_pool.max", "MaxPool", ("stem.relu3",)),
        ("stem_pool.blur", "BlurPool", ("stem_pool.max",)),
    ]
    shapes = [graph[name].shape for name in ("stem.conv", "stem.conv2", "stem.conv3")]
    assert shapes == [(2, 17, 16), (2, 17, 16), (5, 17, 16)]
    assert graph["stem_pool.max"].op == MaxPool((3, 3), 1, ((1, 1), (1, 1)))
    assert graph["stem_pool.blur"].shape == (5, 9, 8)
    assert graph["transition1.pool"].op == BlurPool((3, 3), 2)
    assert graph["transition1.pool"].shape[1:] == (5, 4)
    assert [each.stride for each in graph.feature_maps] == [None]
    assert lower(spec, outputs=("block2",)).feature_maps[0].stride == 8
    assert spec.depth == tiny(blocks=(1, 1)).depth + 2


def test_a_map_of_one_position_is_too_small_for_a_blur() -> None:
    spec = tiny(stem_pool=3, stem_pool_kind="max-blur")
    with pytest.raises(SpecError, match=r"nothing is left of it at stem_pool\.blur \[S24\]"):
        lower(spec, (1, 8))


def test_softmax_follows_the_classifier() -> None:
    logits, probabilities = lower(tiny()), lower(tiny(), classifier_activation="softmax")
    assert probabilities.nodes[:-1] == logits.nodes
    assert probabilities.output.op == Softmax()
    assert probabilities.output.inputs == ("classifier",)
    assert probabilities.output.shape == (3,)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param(
            {"pooling": "avg"},
            "pooling is for include_top=False: the classifier has its own global pool",
            id="pooling beside the classifier",
        ),
        pytest.param(
            {"include_top": False, "pooling": "mean"},
            "pooling = 'mean', but should be 'avg', 'max', 'avgmax', 'catavgmax' or None",
            id="another pooling",
        ),
        pytest.param(
            {"include_top": False, "pooling": ""},
            "pooling = '', but should be 'avg', 'max', 'avgmax', 'catavgmax' or None",
            id="an empty pooling",
        ),
        pytest.param(
            {"classifier_activation": "relu"},
            "classifier_activation = 'relu', but should be 'softmax', 'sigmoid' or None (logits)",
            id="another activation",
        ),
        pytest.param(
            {"classifier_activation": ""},
            "classifier_activation = '', but should be 'softmax', 'sigmoid' or None (logits)",
            id="an empty activation",
        ),
        pytest.param(
            {"include_top": False, "classifier_activation": "softmax"},
            "classifier_activation needs include_top=True",
            id="an activation without the classifier",
        ),
    ],
)
def test_options_that_do_not_go_together(options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        lower(tiny(), **options)


# Imports

HEAVY = (
    "click",
    "jax",
    "keras",
    "matplotlib",
    "rich",
    "safetensors",
    "tensorflow",
    "tomli_w",
    "torch",
)


def test_densespec_imports_no_framework_and_nothing_it_may_not_need() -> None:
    program = (
        "import sys, densespec\n"
        "densespec.lower(densespec.get('densenet121'), (224, 224))\n"
        "print(*{name.partition('.')[0] for name in sys.modules})\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    imported = set(result.stdout.split())
    assert "densespec" in imported
    assert "numpy" in imported
    assert imported.isdisjoint(HEAVY)
