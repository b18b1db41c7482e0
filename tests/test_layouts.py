"""Layouts: what each calls the arrays, and what shapes alone say of a network."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
from importlib import metadata
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from densespec import DenseNetSpec, get
from densespec.errors import DensespecError, UnknownName, WeightsError
from densespec.network.graph import lower
from densespec.network.ops import BatchNorm, GroupNorm
from densespec.weights.evidence import common_compression, inferred_fields, spec_from
from densespec.weights.finding import claims_on
from densespec.weights.layouts import (
    Layout,
    from_canonical,
    get_layout,
    layouts,
    to_canonical,
)
from densespec.weights.tensors import Tensor
from tests.strategies import specs, tiny, unhurried

PLAIN = DenseNetSpec(
    blocks=(2, 1),
    growth_rate=2,
    bottleneck_width=2,
    compression=0.5,
    stem_kind="conv-norm-relu",
    stem_width=4,
    classes=3,
)

CANONICAL = (
    "stem.conv.kernel",
    "stem.norm.running_variance",
    "block1.layer2.norm1.gamma",
    "block1.layer2.conv2.kernel",
    "transition1.norm.beta",
    "transition1.conv.kernel",
    "block2.layer1.norm2.running_mean",
    "final.norm.gamma",
    "classifier.kernel",
    "classifier.bias",
)

TORCH = (
    "features.conv0.weight",
    "features.norm0.running_var",
    "features.denseblock1.denselayer2.norm1.weight",
    "features.denseblock1.denselayer2.conv2.weight",
    "features.transition1.norm.bias",
    "features.transition1.conv.weight",
    "features.denseblock2.denselayer1.norm2.running_mean",
    "features.norm5.weight",
    "classifier.weight",
    "classifier.bias",
)
KERAS_3 = (
    "layers/conv2d/vars/0",
    "layers/batch_normalization/vars/3",
    "layers/batch_normalization_3/vars/0",
    "layers/conv2d_4/vars/0",
    "layers/batch_normalization_5/vars/1",
    "layers/conv2d_5/vars/0",
    "layers/batch_normalization_7/vars/2",
    "layers/batch_normalization_8/vars/0",
    "layers/dense/vars/0",
    "layers/dense/vars/1",
)

PYTORCHCV = (
    "features.init_block.conv.weight",
    "features.init_block.bn.running_var",
    "features.stage1.unit2.conv1.bn.weight",
    "features.stage1.unit2.conv2.conv.weight",
    "features.stage2.trans2.conv.bn.bias",
    "features.stage2.trans2.conv.conv.weight",
    "features.stage2.unit1.conv2.bn.running_mean",
    "features.post_activ.bn.weight",
    "output.weight",
    "output.bias",
)


def _original(root: str) -> tuple[str | None, ...]:
    return (
        f"{root}/bn_relu_conv/conv/vars/0",
        f"{root}/bn_relu_conv/bn/vars/3",
        f"{root}/dense_block/dense_layers/dense_layer_1/conv1/bn/vars/0",
        f"{root}/dense_block/dense_layers/dense_layer_1/conv2/conv/vars/0",
        f"{root}/transition_layer/conv/bn/vars/1",
        f"{root}/transition_layer/conv/conv/vars/0",
        f"{root}/dense_block_1/dense_layers/dense_layer/conv2/bn/vars/2",
        None,
        f"{root}/dense/vars/0",
        f"{root}/dense/vars/1",
    )


NAMES: dict[tuple[str, str], tuple[str | None, ...]] = {
    ("densespec", "safetensors"): CANONICAL,
    ("torchvision", "torch"): TORCH,
    ("timm", "torch"): TORCH,
    ("densespec-torch", "torch"): TORCH,
    ("monai", "torch"): (
        *TORCH[:2],
        "features.denseblock1.denselayer2.layers.norm1.weight",
        "features.denseblock1.denselayer2.layers.conv2.weight",
        *TORCH[4:6],
        "features.denseblock2.denselayer1.layers.norm2.running_mean",
        "features.norm5.weight",
        "class_layers.out.weight",
        "class_layers.out.bias",
    ),
    ("monai-0.3", "torch"): (
        *TORCH[:-2],
        "class_layers.class.weight",
        "class_layers.class.bias",
    ),
    ("gpleiss", "torch"): (*TORCH[:-3], "features.norm_final.weight", *TORCH[-2:]),
    ("gpleiss-cifar", "torch"): (
        TORCH[0],
        None,
        *TORCH[2:-3],
        "features.norm_final.weight",
        *TORCH[-2:],
    ),
    ("pytorchcv", "torch"): PYTORCHCV,
    ("pytorchcv-cifar", "torch"): ("features.init_block.weight", None, *PYTORCHCV[2:]),
    ("original-torch", "torch"): (
        "first_layer.0.conv.weight",
        "first_layer.0.bn.running_var",
        "layer_dense.0.dense_layers.1.conv1.bn.weight",
        "layer_dense.0.dense_layers.1.conv2.conv.weight",
        "layer_dense.1.conv.bn.bias",
        "layer_dense.1.conv.conv.weight",
        "layer_dense.2.dense_layers.0.conv2.bn.running_mean",
        None,
        "classifier.weight",
        "classifier.bias",
    ),
    ("original-keras", "keras-weights"): _original("layer_dense"),
    ("original-keras-functional", "keras-weights"): _original("layers"),
    ("original-keras", "keras-legacy"): (
        "conv1/conv2d/kernel",
        "conv1/batch_normalization/moving_variance",
        "block_0/layer_1/layer_1conv1/batch_normalization/gamma",
        "block_0/layer_1/layer_1conv2/conv2d/kernel",
        "trans_0/trans_0conv1/batch_normalization/beta",
        "trans_0/trans_0conv1/conv2d/kernel",
        "block_1/layer_0/layer_0conv2/batch_normalization/moving_mean",
        None,
        "dense/kernel",
        "dense/bias",
    ),
    ("keras-applications", "keras-weights"): KERAS_3,
    ("keras-applications", "keras-legacy"): (
        "conv1_conv/kernel",
        "conv1_bn/moving_variance",
        "conv2_block2_0_bn/gamma",
        "conv2_block2_2_conv/kernel",
        "pool2_bn/beta",
        "pool2_conv/kernel",
        "conv3_block1_1_bn/moving_mean",
        "bn/gamma",
        "predictions/kernel",
        "predictions/bias",
    ),
    ("densespec-keras", "keras-weights"): KERAS_3,
    ("densespec-keras", "keras"): KERAS_3,
    ("densespec-keras", "keras-legacy"): (
        "stem_conv/kernel",
        "stem_norm/moving_variance",
        "block1_layer2_norm1/gamma",
        "block1_layer2_conv2/kernel",
        "transition1_norm/beta",
        "transition1_conv/kernel",
        "block2_layer1_norm2/moving_mean",
        "final_norm/gamma",
        "classifier/kernel",
        "classifier/bias",
    ),
    ("keras-hub", "keras-weights"): (
        *(f"layers/dense_net_backbone/{name}" for name in KERAS_3[:-2]),
        *KERAS_3[-2:],
    ),
    ("flax", "msgpack"): (
        "params/stem/conv/kernel",
        "batch_stats/stem/norm/var",
        "params/block1/layer2/norm1/scale",
        "params/block1/layer2/conv2/kernel",
        "params/transition1/norm/bias",
        "params/transition1/conv/kernel",
        "batch_stats/block2/layer1/norm2/mean",
        "params/final/norm/scale",
        "params/classifier/kernel",
        "params/classifier/bias",
    ),
    ("flax-nnx", "msgpack"): (
        "stem/conv/kernel",
        "stem/norm/var",
        "block1/layer2/norm1/scale",
        "block1/layer2/conv2/kernel",
        "transition1/norm/bias",
        "transition1/conv/kernel",
        "block2/layer1/norm2/mean",
        "final/norm/scale",
        "classifier/kernel",
        "classifier/bias",
    ),
    ("flax-torchvision", "msgpack"): (
        "params/features/conv0/kernel",
        "batch_stats/features/norm0/var",
        "params/features/denseblock1/denselayer2/norm1/scale",
        "params/features/denseblock1/denselayer2/conv2/kernel",
        "params/features/transition1/norm/bias",
        "params/features/transition1/conv/kernel",
        "batch_stats/features/denseblock2/denselayer1/norm2/mean",
        "params/features/norm5/scale",
        "params/classifier/kernel",
        "params/classifier/bias",
    ),
}
"""What each layout calls the arrays; none for what its program never has."""

every_kind_of_file = pytest.mark.parametrize(
    ("name", "container"), NAMES, ids=[f"{name} in {container} files" for name, container in NAMES]
)

FREE = [
    (name, container)
    for name, container in NAMES
    if not (get_layout(name).implements) and name != "timm"
]
TOLD = {
    *("blocks", "growth_rate", "bottleneck_width", "compression", "spatial_dims"),
    *("in_channels", "classes", "stem_width", "head_units"),
    *("dropout_rate", "dropout_place"),
}
"""Fields that the shapes of arrays tell, or whoever trains."""
FIXED = sorted(name for name, layout in layouts().items() if layout.implements)


def tensors_of(layout: Layout, spec: DenseNetSpec, container: str, **options: Any) -> Any:
    """What a file of a network holds, without the arrays: only shapes may be asked for."""

    def unread() -> np.ndarray:
        raise AssertionError("an array was read")

    graph = lower(spec, **options)
    shapes = {weight.name: weight.shape for weight in graph.weights}
    return {
        key: from_canonical(name, Tensor(shapes[name], "float32", unread), layout.axes)
        for name, key in layout.keys(graph, container).items()
    }


def fixed(name: str) -> DenseNetSpec:
    """A small network, with what the program of a layout can't do otherwise."""
    return PLAIN.replace(**get_layout(name).implements)


# Names


@every_kind_of_file
def test_arrays_have_the_names_that_its_implementation_gives_them(
    name: str, container: str
) -> None:
    keys = get_layout(name).keys(lower(fixed(name)), container)
    assert [keys.get(weight) for weight in CANONICAL] == list(NAMES[name, container])


@every_kind_of_file
def test_every_weight_has_a_name_of_its_own(name: str, container: str) -> None:
    graph = lower(fixed(name))
    keys = get_layout(name).keys(graph, container)
    assert list(keys) == [weight.name for weight in graph.weights]
    assert len(set(keys.values())) == len(keys)


def test_every_layout_that_is_published_is_pinned_above() -> None:
    assert {name for name, _ in NAMES} == set(layouts())


def test_a_backbone_of_keras_hub_is_not_nested() -> None:
    graph = lower(PLAIN, include_top=False)
    keys = get_layout("keras-hub").keys(graph, "keras-weights")
    assert keys["stem.conv.kernel"] == "layers/conv2d/vars/0"


@pytest.mark.parametrize(
    ("name", "noted"),
    [
        (
            "keras-applications",
            {"layers/conv2d": "conv1_conv", "layers/conv2d_4": "conv2_block2_2_conv"},
        ),
        ("densespec-keras", {"layers/conv2d": "stem_conv", "layers/dense": "classifier"}),
        (
            "keras-hub",
            {
                "layers/dense_net_backbone/layers/conv2d_4": "stack1_block2_2_conv",
                "layers/dense_net_backbone/layers/batch_normalization_3": "stack1_block2_1_bn",
                "layers/dense_net_backbone/layers/batch_normalization_5": "transition1_bn",
                "layers/dense": "predictions",
            },
        ),
    ],
    ids=["keras-applications", "densespec-keras", "keras-hub"],
)
def test_keras_3_files_note_the_names_of_layers(name: str, noted: dict[str, str]) -> None:
    graph = lower(PLAIN)
    names = json.loads(get_layout(name).metadata(graph, "keras-weights")["layer_names"])
    assert noted.items() <= names.items()
    assert get_layout(name).metadata(graph, "keras-legacy") == {}


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_keras_3_numbers_layers_by_a_class_of_their_dimensions(dims: int) -> None:
    keys = get_layout("densespec-keras").keys(lower(tiny(spatial_dims=dims)), "keras-weights")
    assert keys["block1.layer1.conv1.kernel"] == f"layers/conv{dims}d_1/vars/0"


@pytest.mark.parametrize("name", ["torchvision", "timm", "monai", "densespec-torch"])
def test_pytorch_has_a_counter_beside_every_norm(name: str) -> None:
    layout, graph = get_layout(name), lower(PLAIN)
    norms = {
        key.removesuffix("running_mean")
        for key in layout.keys(graph, "torch").values()
        if key.endswith("running_mean")
    }
    counters = layout.constants(graph)
    assert set(counters) == {f"{norm}num_batches_tracked" for norm in norms}
    assert all(c.shape == () and c.dtype == "int64" and c.read() == 0 for c in counters.values())
    assert all(layout.ignored(counter) for counter in counters)


def test_an_unknown_layout_is_refused_with_near_names() -> None:
    with pytest.raises(
        UnknownName, match=r"unknown layout 'torchvison'\. Did you mean torchvision"
    ):
        get_layout("torchvison")


def test_other_packages_publish_layouts_as_entry_points(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = metadata.EntryPoint("theirs", "tests.test_layouts:THEIRS", "densespec.layouts")
    monkeypatch.setattr(metadata, "entry_points", lambda group: [entry])
    assert [layout.name for layout in layouts().values()] == ["theirs"]


THEIRS = Layout(
    name="theirs",
    about="a layout of another package",
    containers=("safetensors",),
    keys=lambda graph, container: {weight.name: weight.name.upper() for weight in graph.weights},
    axes="out_in_window",
    claims=lambda tensors, metadata: False,
    evidence=get_layout("densespec").evidence,
)


# Axes


@pytest.mark.parametrize(
    ("canonical", "theirs"),
    [((5, 2), (2, 5)), ((5, 2, 3), (3, 2, 5)), ((5, 2, 3, 4), (3, 4, 2, 5))],
    ids=["the classifier", "in one dimension", "in two dimensions"],
)
def test_kernels_of_keras_have_channels_last(
    canonical: tuple[int, ...], theirs: tuple[int, ...]
) -> None:
    array = np.arange(math.prod(canonical), dtype="float32").reshape(canonical)
    moved = from_canonical("classifier.kernel", Tensor.of(array), "window_in_out")
    assert moved.shape == theirs == moved.read().shape
    for out in range(canonical[0]):
        for into in range(canonical[1]):
            np.testing.assert_array_equal(moved.read()[..., into, out], array[out, into])
    back = to_canonical("classifier.kernel", moved, "window_in_out")
    assert back.shape == canonical
    np.testing.assert_array_equal(back.read(), array)


@pytest.mark.parametrize("shape", [(), (3,)], ids=["a number", "a vector"])
def test_a_kernel_that_is_none_keeps_its_shape_for_the_error_to_name(
    shape: tuple[int, ...],
) -> None:
    tensor = Tensor.of(np.zeros(shape, "float32"))
    assert to_canonical("stem.conv.kernel", tensor, "window_in_out").shape == shape


def test_vectors_and_pytorchs_kernels_stay_as_they_are() -> None:
    kernel, vector = (Tensor.of(np.zeros(shape)) for shape in ((2, 3, 1, 1), (2,)))
    assert to_canonical("stem.conv.kernel", kernel, "out_in_window") is kernel
    assert to_canonical("stem.norm.gamma", vector, "window_in_out") is vector


# Recognition


@every_kind_of_file
def test_a_file_is_claimed_by_its_layout_or_by_those_of_the_same_names(
    name: str, container: str
) -> None:
    layout, spec = get_layout(name), fixed(name)
    graph = lower(spec)
    tensors = tensors_of(layout, spec, container)
    noted = layout.metadata(graph, container)
    claiming = [claim.layout.name for claim in claims_on(tensors, noted)]
    shared = ["torchvision", "densespec-torch"]
    assert claiming == (shared if name in ("timm", *shared) else [name])


@pytest.mark.parametrize("text", ["", "null", "[]", '{"layers', "[" * 100_000], ids=lambda t: t[:9])
def test_metadata_that_are_not_keras_s_own_are_passed_over(text: str) -> None:
    tensors = tensors_of(get_layout("torchvision"), PLAIN, "safetensors")
    assert claims_on(tensors, {"layer_names": text})[0].layout.name == "torchvision"


# Evidence


def _expected_fields(spec: DenseNetSpec, named: bool) -> dict[str, Any]:
    names = ("blocks", "growth_rate", "bottleneck_width", "in_channels", "spatial_dims")
    names += ("stem_kernel", "conv_bias", "classes", "head_units")
    names += ("norm", "norm_affine") if named and spec.norm == "batch" else ()
    names += ("activation",) if named and spec.activation == "prelu" else ()
    names += ("global_pool",) if spec.global_pool == "catavgmax" else ()
    names += ("stem_kind",) if spec.stem_kind == "deep" else ()
    fields = {name: getattr(spec, name) for name in names} | {"stem_width": spec.stem_channels}
    if not any(isinstance(n.op, BatchNorm | GroupNorm) and n.weights for n in lower(spec).nodes):
        return fields
    fields["final_norm"] = spec.final_norm
    if spec.stem_kind == "conv" or spec.stem_channels != spec.in_channels:
        fields["stem_kind"] = spec.stem_kind
    return fields


def _assert_inferred(fields: dict[str, Any], spec: DenseNetSpec, named: bool) -> None:
    fields = dict(fields)
    assert ("compression" in fields) == (len(spec.blocks) > 1)
    same_widths = spec.replace(compression=fields.pop("compression", 1.0))
    assert fields == _expected_fields(spec, named)
    assert lower(same_widths).weights == lower(spec).weights


@pytest.mark.parametrize(
    ("name", "container"), FREE, ids=[f"{name} in {container} files" for name, container in FREE]
)
@unhurried
@given(spec=specs())
def test_shapes_tell_the_fields_of_any_spec(name: str, container: str, spec: DenseNetSpec) -> None:
    layout = get_layout(name)
    evidence = layout.evidence(tensors_of(layout, spec, container))
    named = container not in ("keras-weights", "keras")  # where layers have numbers
    _assert_inferred(inferred_fields(evidence), spec, named)


@pytest.mark.parametrize("name", FIXED)
@unhurried
@given(spec=specs(), in_container=st.randoms())
def test_shapes_and_the_implementation_tell_the_whole_spec(
    name: str, spec: DenseNetSpec, in_container: Any
) -> None:
    layout = get_layout(name)
    usual = {"activation": "relu", "norm": "batch", "norm_affine": True}
    usual |= {"activation_slope": 0.01, "norm_groups": 32}
    implemented = {**layout.usual, **layout.implements, **usual}
    spec = spec.replace(stem_kernel=7, compression=0.5, dropout_rate=0.0, padding="symmetric")
    spec = spec.replace(**({"bottleneck_width": 4} if "torch" not in name else {}) | implemented)
    container = in_container.choice(layout.containers)
    evidence = layout.evidence(tensors_of(layout, spec, container))
    found = spec_from(inferred_fields(evidence), implemented)
    same = spec.replace(stem_width=spec.stem_channels)
    for field in ("dropout_place", "compression"):  # what is of no consequence
        if field not in implemented:
            same = same.replace(**{field: getattr(found, field)})
    assert found == same
    assert lower(found).weights == lower(spec).weights


def test_without_a_classifier_shapes_say_nothing_of_classes() -> None:
    for name, container in FREE:
        layout = get_layout(name)
        evidence = layout.evidence(tensors_of(layout, tiny(), container, include_top=False))
        assert "classes" not in inferred_fields(evidence)


@pytest.mark.parametrize(
    "stem_kind", ["conv-norm-relu", "norm-relu-conv"], ids=lambda kind: f"for a stem {kind}"
)
def test_a_stem_of_as_many_channels_as_the_input_leaves_its_kind_open(stem_kind: Any) -> None:
    spec = tiny(stem_kind=stem_kind, stem_width=3, in_channels=3)
    layout = get_layout("densespec-torch")
    fields = inferred_fields(layout.evidence(tensors_of(layout, spec, "torch")))
    assert "stem_kind" not in fields


@pytest.mark.parametrize("final_norm", [True, False], ids=["before the pool", "in the stem"])
def test_the_one_norm_beside_those_of_layers_is_placed_by_its_channels(final_norm: bool) -> None:
    """In Keras 3's files, where a norm is known by its number alone."""
    kind: Any = "conv" if final_norm else "conv-norm-relu"
    spec = DenseNetSpec(  # 8 channels in the end, as many as the last norm of the last layer has
        blocks=(2,),
        growth_rate=2,
        bottleneck_width=4,
        stem_width=4,
        stem_kind=kind,
        final_norm=final_norm,
    )
    layout = get_layout("densespec-keras")
    fields = inferred_fields(layout.evidence(tensors_of(layout, spec, "keras-weights")))
    assert (fields["stem_kind"], fields["final_norm"]) == (kind, final_norm)


@pytest.mark.parametrize(
    ("transitions", "theta"),
    [
        ([(64, 64), (96, 96)], 1.0),
        ([(256, 128), (512, 256)], 0.5),
        ([(72, 28), (44, 17)], 0.4),
        ([(100, 35)], 0.35),
        ([(100, 37)], 0.37),
        ([(1000, 337), (500, 168)], 0.337),
    ],
    ids=lambda value: f"{value:g}" if isinstance(value, float) else None,
)
def test_the_compression_is_the_roundest_that_fits(
    transitions: list[tuple[int, int]], theta: float
) -> None:
    assert common_compression(transitions) == pytest.approx(theta, abs=1e-15)


@unhurried
@given(theta=st.floats(0.001, 1), channels=st.lists(st.integers(1, 5000), min_size=1, max_size=6))
def test_any_compression_is_found_again_up_to_what_it_keeps(
    theta: float, channels: list[int]
) -> None:
    transitions = [(count, math.floor(theta * count)) for count in channels]
    assume(all(kept for _, kept in transitions))
    found = common_compression(transitions)
    assert [math.floor(found * count) for count in channels] == [kept for _, kept in transitions]


# Shapes of no DenseNet


def _changed(**shapes: tuple[int, ...] | None) -> dict[str, Tensor]:
    """torchvision's arrays of a small network, some of another shape or away (None).

    Underscores stand for dots.
    """
    layout = get_layout("densespec-torch")
    tensors = tensors_of(layout, PLAIN, "torch")
    for name, shape in shapes.items():
        key = next(key for key in tensors if key.replace(".", "_") == name)
        if shape is None:
            del tensors[key]
        else:
            tensors[key] = Tensor(shape, "float32", lambda: np.zeros(0))
    return tensors


LAYER = "features_denseblock1_denselayer"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param(
            {"features_conv0_weight": None}, "no stem convolution", id="no stem convolution"
        ),
        pytest.param(
            {"features_conv0_weight": (4,)},
            r"features\.conv0\.weight has shape \(4,\), but should be the kernel of a convolution",
            id="a stem's kernel that is a vector",
        ),
        pytest.param(
            {f"{LAYER}1_conv1_weight": (4, 4, 1)},
            r"features\.denseblock1\.denselayer1\.conv1\.weight has shape \(4, 4, 1\), but should",
            id="a kernel of other dimensions than the stem's",
        ),
        pytest.param(
            {"features_denseblock2_denselayer1_conv2_weight": (0, 4, 3, 3)},
            r"features\.denseblock2\.denselayer1\.conv2\.weight has shape \(0, 4, 3, 3\)",
            id="a kernel of no channels",
        ),
        pytest.param(
            {f"{LAYER}2_conv1_weight": (4, 7, 1, 1)},
            r"features\.denseblock1\.denselayer2\.conv1\.weight has shape \(4, 7, 1, 1\), but "
            r"should have \(4, 6, 1, 1\) where a dense layer starts, or \(n, 6, 1, 1\) in a trans",
            id="a layer that reads too many channels",
        ),
        pytest.param(
            {f"{LAYER}1_conv1_weight": None},
            r"no dense layer after the stem convolution features\.conv0\.weight",
            id="no first layer",
        ),
        pytest.param(
            {"features_denseblock2_denselayer1_conv1_weight": None},
            "no dense layers before or after a transition: 6 convolutions make blocks of 2, 0",
            id="a transition that nothing follows",
        ),
        pytest.param(
            {"classifier_weight": (3, 9)},
            r"classifier\.weight reads 9 features, but what comes before it gives 6",
            id="a classifier of other features",
        ),
        pytest.param(
            {"classifier_weight": (3,)},
            r"classifier\.weight has shape \(3,\), but should have one of units and features",
            id="a classifier that is a vector",
        ),
    ],
)
def test_shapes_of_no_densenet_are_refused_by_name(
    changes: dict[str, tuple[int, ...] | None], message: str
) -> None:
    with pytest.raises(WeightsError, match=message):
        inferred_fields(get_layout("densespec-torch").evidence(_changed(**changes)))


def test_transitions_that_share_no_compression_are_refused() -> None:
    with pytest.raises(WeightsError, match=r"transitions \[\(64, 32\), \(64, 40\)\] .* share no"):
        common_compression([(64, 32), (64, 40)])


def test_shapes_that_contradict_the_implementation_are_refused() -> None:
    layout = get_layout("torchvision")
    fields = inferred_fields(layout.evidence(tensors_of(layout, PLAIN, "torch")))
    with pytest.raises(WeightsError, match="stem_kernel is 3 by the arrays' shapes, but 7 in this"):
        spec_from(fields, layout.implements)


def test_norms_that_are_too_many_are_refused() -> None:
    layout = get_layout("densespec-keras")
    tensors = tensors_of(layout, PLAIN, "keras-weights")
    for number in (9, 10):
        name = f"layers/batch_normalization_{number}/vars/0"
        tensors[name] = Tensor((4,), "float32", lambda: np.zeros(4))
    with pytest.raises(WeightsError, match="11 norms beside 8 convolutions, but should be 7 to 9"):
        layout.evidence(tensors)


shapes = st.lists(st.integers(0, 5), max_size=5).map(tuple)


@pytest.mark.parametrize(
    ("name", "container"), FREE, ids=[f"{name} in {container} files" for name, container in FREE]
)
@unhurried
@given(data=st.data())
def test_any_shapes_give_fields_or_an_error_of_ours(
    name: str, container: str, data: st.DataObject
) -> None:
    layout = get_layout(name)
    tensors = tensors_of(layout, PLAIN, container)
    for key in data.draw(st.lists(st.sampled_from(sorted(tensors)), max_size=4)):
        tensors[key] = Tensor(data.draw(shapes), "float32", lambda: np.zeros(0))
    with contextlib.suppress(DensespecError):
        inferred_fields(layout.evidence(tensors))


# What implementations fix


@pytest.mark.parametrize("name", FIXED)
def test_a_program_decides_every_field_that_shapes_do_not_tell(name: str) -> None:
    """Where it says nothing of a field, networks that it can't compute are written for it."""
    fields = {field.name for field in dataclasses.fields(DenseNetSpec)}
    layout = get_layout(name)
    assert fields - layout.implements.keys() - layout.usual.keys() - TOLD == set()


def test_torchvision_implements_the_networks_of_its_name() -> None:
    layout = get_layout("torchvision")
    for name in ("densenet121", "densenet161", "densenet169", "densenet201", "densenet264"):
        assert layout.differences(get(name)) == {}


def test_keras_implementations_differ_from_torchvisions_in_these_fields() -> None:
    training = {"batch_norm_momentum": (0.1, 0.01), "running_variance": ("unbiased", "biased")}
    epsilon = {"batch_norm_epsilon": (1e-5, 1.001e-5)}
    same = {"padding": ("symmetric", "same")}
    spec = get("densenet121")
    assert get_layout("keras-applications").differences(spec) == training | epsilon
    assert get_layout("keras-hub").differences(spec) == training | epsilon | same


def test_the_place_of_a_dropout_that_there_is_not_is_no_difference() -> None:
    spec = get("densenet121").replace(dropout_place="conv")
    layout = get_layout("torchvision")
    assert layout.differences(spec) == {}
    assert layout.differences(spec.replace(dropout_rate=0.2)) == {
        "dropout_place": ("conv", "layer")
    }
