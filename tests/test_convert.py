"""Conversion between layouts: exact where it is possible, refused with the reason where it is not.

Files of torchvision's layout are safetensors here, so that reading them needs no PyTorch.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

import densespec
from densespec import DenseNetSpec, TrainingRecipe, get
from densespec.errors import SpecError, UnknownName, WeightsError
from densespec.network.differences import nearest_variant, spec_differences
from densespec.network.graph import lower
from densespec.network.initial import initial_weights
from densespec.weights import containers
from densespec.weights.checkpoint import TrainingState, read_checkpoint, write_checkpoint
from densespec.weights.comparing import compare, largest_difference, outputs
from densespec.weights.containers import open_file
from densespec.weights.convert import DifferentNetwork, convert
from densespec.weights.opening import open_weights
from tests.strategies import tiny

Arrays = dict[str, np.ndarray]

SPEC = get("densenet121").replace(blocks=(1, 2, 1), classes=5)
"""What every implementation has: 32 feature maps a layer, 64 in the stem."""


def random_weights(spec: DenseNetSpec, seed: int = 5, **options: Any) -> Arrays:
    graph, random = lower(spec, **options), np.random.default_rng(seed)
    weights = initial_weights(graph, seed)
    for name, array in weights.items():
        if name.endswith("variance"):
            weights[name] = random.uniform(0.5, 2, array.shape).astype("float32")
        elif array.ndim == 1:
            weights[name] = (array + random.standard_normal(array.shape) / 4).astype("float32")
    return weights


def checkpoint(path: Path, spec: DenseNetSpec = SPEC, **options: Any) -> Path:
    write_checkpoint(path, lower(spec, **options), random_weights(spec, **options))
    return path


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A canonical checkpoint of SPEC."""
    return checkpoint(tmp_path_factory.mktemp("source") / "net.safetensors")


@pytest.fixture
def theirs(source: Path, tmp_path: Path) -> Path:
    """The same in torchvision's layout."""
    path = tmp_path / "theirs.safetensors"
    convert(source, path, to_layout="torchvision")
    return path


def arrays_of(path: Path, **options: Any) -> Arrays:
    with open_weights(path, **options) as found:
        return found.arrays()


def assert_same(actual: Arrays, expected: Arrays) -> None:
    assert list(actual) == list(expected)
    for name, array in expected.items():
        assert actual[name].dtype == array.dtype, name
        np.testing.assert_array_equal(actual[name], array, err_msg=name)


def renamed(path: Path, change: Callable[[Arrays], Arrays]) -> Path:
    """Change what a safetensors file holds."""
    arrays = change(safetensors.numpy.load_file(path))
    safetensors.numpy.save_file(arrays, path)
    return path


def refusal_of(path: Path, **options: Any) -> str:
    """What is said of a file that can't be opened: the file first."""
    with pytest.raises(WeightsError) as refusal, open_weights(path, **options):
        pass
    message = str(refusal.value)
    assert message.startswith(f"{path}: ")
    return message.removeprefix(f"{path}: ")


# Every layout to every other

PLACES = {
    "torchvision.pth": "torchvision",
    "torchvision.safetensors": "torchvision",
    "timm.safetensors": "timm",
    "densespec-torch.pth": "densespec-torch",
    "monai.pth": "monai",
    "keras-applications.weights.h5": "keras-applications",
    "keras-applications.h5": "keras-applications",
    "keras-hub.weights.h5": "keras-hub",
    "densespec-keras.weights.h5": "densespec-keras",
    "densespec-keras.h5": "densespec-keras",
    "flax.msgpack": "flax",
    "flax.safetensors": "flax",
    "densespec.safetensors": "densespec",
}
"""File names, and the layout to write into them."""


def _need(name: str) -> None:
    if name.endswith(".h5"):
        pytest.importorskip("h5py", reason="h5py is not installed")
    if name.endswith(".pth"):
        pytest.importorskip("torch", reason="PyTorch is not installed")


def _place(folder: Path, name: str, source: Path, **options: Any) -> Path:
    convert(source, folder / name, to_layout=PLACES[name], allow_different=True, **options)
    return folder / name


def _spec_for(layout: str) -> dict[str, Any]:
    """What has to be said of files that say nothing of their spec."""
    return {"spec": SPEC} if layout in ("flax", "densespec-keras") else {}


@pytest.mark.parametrize("name", PLACES)
def test_arrays_come_back_from_every_layout_as_they_were(
    name: str, source: Path, tmp_path: Path
) -> None:
    _need(name)
    written = _place(tmp_path, name, source)
    options = _spec_for(PLACES[name])
    assert_same(arrays_of(written, **options), arrays_of(source))
    back = tmp_path / "back.safetensors"
    convert(written, back, to_layout="densespec", **options)
    assert_same(read_checkpoint(back).arrays, arrays_of(source))


@pytest.mark.parametrize(("first", "second"), list(itertools.pairwise([*PLACES, *PLACES][:-3])))
def test_a_file_of_one_layout_survives_another_array_by_array(
    first: str, second: str, source: Path, tmp_path: Path
) -> None:
    """By its own names and axes: first to second, and back to first."""
    for name in (first, second):
        _need(name)
    (tmp_path / "back").mkdir()
    original = _place(tmp_path, first, source)
    between = tmp_path / f"between-{second}"
    options = _spec_for(PLACES[first])
    convert(original, between, to_layout=PLACES[second], allow_different=True, **options)
    back = _place(tmp_path / "back", first, between, **_spec_for(PLACES[second]))
    with open_file(original) as before, open_file(back) as after:
        assert list(after.tensors) == list(before.tensors)
        for name, tensor in before.tensors.items():
            np.testing.assert_array_equal(after.tensors[name].read(), tensor.read(), err_msg=name)


@pytest.mark.parametrize("name", ["torchvision.safetensors", "keras-hub.weights.h5"])
def test_a_file_without_a_classifier_stays_without(name: str, tmp_path: Path) -> None:
    _need(name)
    headless = checkpoint(tmp_path / "headless.safetensors", include_top=False)
    written = _place(tmp_path, name, headless)
    with open_weights(written) as found:
        assert not found.has_classifier
        assert_same(found.arrays(), arrays_of(headless))


def test_the_layout_follows_the_suffix(source: Path, tmp_path: Path) -> None:
    expected = {"a.pth": "torchvision", "a.msgpack": "flax", "a.safetensors": "densespec"}
    for name, layout in expected.items():
        assert convert(source, tmp_path / name).layout.name == layout


def test_a_layout_that_does_not_live_in_such_files_is_refused(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "net.pth"
    with pytest.raises(WeightsError) as refusal:
        convert(source, target, to_layout="keras-hub")
    assert str(refusal.value) == (
        f"{target}: layout 'keras-hub' lives in keras-weights files, not in torch ones"
    )


@pytest.mark.parametrize("side", ["layout", "to_layout"])
def test_an_unknown_layout_is_refused(side: str, source: Path, tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match=r"unknown layout 'torchvison'\. Did you mean torchvis"):
        convert(source, tmp_path / "net.safetensors", **{side: "torchvison"})


# Old and wrapped names


@pytest.mark.parametrize("prefix", ["module.", "model.", "densenet121.", "module.densenet121."])
def test_prefixes_are_stripped(prefix: str, theirs: Path, source: Path) -> None:
    """``module.`` is DataParallel's; ``densenet121.`` is what CheXNet's checkpoints have."""
    renamed(theirs, lambda arrays: {prefix + name: array for name, array in arrays.items()})
    assert_same(arrays_of(theirs), arrays_of(source))


def test_norm_dot_1_is_norm1(theirs: Path, source: Path) -> None:
    def old(arrays: Arrays) -> Arrays:
        dots = re.compile(r"(denselayer\d+\.(?:norm|conv))([12])\.")
        return {dots.sub(r"\1.\2.", name): array for name, array in arrays.items()}

    with safetensors.safe_open(renamed(theirs, old), framework="np") as file:
        assert "features.denseblock1.denselayer1.norm.1.weight" in file.keys()  # noqa: SIM118
    assert_same(arrays_of(theirs), arrays_of(source))


def test_a_classifier_in_a_sequential_is_the_classifier(theirs: Path, source: Path) -> None:
    def wrapped(arrays: Arrays) -> Arrays:
        return {name.replace("classifier.", "classifier.0."): a for name, a in arrays.items()}

    renamed(theirs, wrapped)
    assert_same(arrays_of(theirs), arrays_of(source))


def test_files_without_counters_are_complete(theirs: Path, source: Path) -> None:
    """PyTorch before 0.4.1 had none."""

    def without(arrays: Arrays) -> Arrays:
        return {n: a for n, a in arrays.items() if not n.endswith("num_batches_tracked")}

    renamed(theirs, without)
    assert_same(arrays_of(theirs), arrays_of(source))


@pytest.mark.parametrize("wrapper", ["state_dict", "model_state_dict", "model"])
def test_weights_inside_a_training_checkpoint_of_pytorch_are_found(
    wrapper: str, theirs: Path, source: Path, tmp_path: Path
) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    arrays = safetensors.numpy.load_file(theirs)
    state = {f"module.{name}": torch.from_numpy(array) for name, array in arrays.items()}
    path = tmp_path / "chexnet.pth.tar"
    torch.save({"epoch": 3, wrapper: state, "best_acc1": 0.5}, path)
    assert_same(arrays_of(path), arrays_of(source))
    with open_weights(path) as found:
        assert found.notes == (f"read from under {wrapper!r}",)


def test_old_names_of_keras_applications_are_read(source: Path, tmp_path: Path) -> None:
    """Keras 2 called the stem's layers ``conv1/conv`` and ``conv1/bn``, and variables ``:0``."""
    pytest.importorskip("h5py", reason="h5py is not installed")
    path = _place(tmp_path, "keras-applications.h5", source)
    with open_file(path) as file:
        tensors = {
            name.replace("conv1_conv/", "conv1/conv/").replace("conv1_bn/", "conv1/bn/")
            + ":0": tensor
            for name, tensor in file.tensors.items()
        }
        assert "conv1/bn/gamma:0" in tensors
        old = tmp_path / "old.h5"
        containers.write_file(old, tensors, container="keras-legacy")
    assert_same(arrays_of(old), arrays_of(source))


# What is found


def test_a_canonical_checkpoint_states_its_spec(source: Path) -> None:
    with open_weights(source) as found:
        assert (found.layout.name, found.spec, found.variant) == ("densespec", SPEC, None)
        assert found.dtypes == ("float32",)


def test_a_variant_is_recognised_whatever_its_classes_and_channels(tmp_path: Path) -> None:
    spec = get("densenet121").replace(classes=14, in_channels=1)
    path = tmp_path / "net.safetensors"
    convert(checkpoint(tmp_path / "c.safetensors", spec), path, to_layout="torchvision")
    with open_weights(path) as found:
        assert (found.variant, found.spec) == ("densenet121", spec)


def test_layouts_that_fix_nothing_take_the_catalogues_one_variant_that_fits(
    tmp_path: Path,
) -> None:
    spec = get("densenet-bc-100-12").replace(classes=7)
    path = tmp_path / "net.msgpack"
    convert(checkpoint(tmp_path / "c.safetensors", spec), path)
    with open_weights(path) as found:
        assert (found.variant, found.spec) == ("densenet-bc-100-12", spec)
        assert found.notes == ("the spec is the catalogue's",)


def test_several_variants_of_the_same_shapes_are_ambiguous(tmp_path: Path) -> None:
    path = tmp_path / "net.msgpack"
    convert(checkpoint(tmp_path / "c.safetensors", get("densenet169-bc")), path)
    message = refusal_of(path)
    assert "densenet169-bc and densenet169-bc-keras and densenet169-bc-pytorch" in message
    assert message.endswith("give the spec (--spec NAME or FILE)")
    with open_weights(path, spec="densenet169-bc-keras") as found:
        assert found.variant == "densenet169-bc-keras"


def test_shapes_of_no_variant_with_a_stem_of_none_need_the_spec(tmp_path: Path) -> None:
    spec = SPEC.replace(stem_kernel=5)
    source = checkpoint(tmp_path / "c.safetensors", spec)
    path = _place(tmp_path, "flax.safetensors", source)
    assert "its shapes fit no named variant" in refusal_of(path)
    assert_same(arrays_of(path, spec=spec), arrays_of(source))
    assert_same(arrays_of(path, otherwise=spec), arrays_of(source))


def test_shapes_of_no_variant_with_the_stem_of_some_have_the_rest_of_it(
    source: Path, tmp_path: Path
) -> None:
    path = _place(tmp_path, "flax.safetensors", source)
    with open_weights(path) as found:
        assert found.spec == SPEC.replace(stem_width=64)
        (note,) = found.notes
    assert note.startswith("as named variants with such a stem have it")
    assert "stem_stride 2, stem_pool 3, padding 'symmetric', batch_norm_epsilon 1e-05" in note


@pytest.mark.parametrize(
    ("implements", "fits"),
    [
        ({"batch_norm_epsilon": 1e-3, "batch_norm_momentum": 0.5}, "densenet169-bc-keras"),
        ({"batch_norm_epsilon": 0.5}, None),
    ],
    ids=["as one variant has it", "as none has it"],
)
def test_a_layout_that_fixes_some_fields_alone_leaves_the_others_to_the_catalogue(
    implements: dict[str, Any], fits: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not to the defaults of a spec, which are another network."""
    known = densespec.weights.layouts.layouts()
    known["theirs"] = replace(known["flax"], name="theirs", implements=implements)
    del known["flax"]
    monkeypatch.setattr(densespec.weights.finding, "layouts", lambda: known)
    for module in (densespec.weights.opening, densespec.weights.convert):
        monkeypatch.setattr(module, "get_layout", known.get)
    source = checkpoint(tmp_path / "c.safetensors", get("densenet169-bc-keras"))
    path = tmp_path / "net.msgpack"
    convert(source, path, to_layout="theirs", allow_different=True)
    if fits is None:
        assert "fit no named variant" in refusal_of(path)
    else:
        with open_weights(path) as found:
            assert found.variant == fits


def test_a_given_spec_takes_classes_and_channels_from_the_file(
    source: Path, tmp_path: Path
) -> None:
    path = _place(tmp_path, "flax.safetensors", source)
    with open_weights(path, spec=SPEC.replace(classes=1000)) as found:
        assert found.spec == SPEC


def test_the_nearest_variant_is_named_with_what_differs() -> None:
    name, differences = nearest_variant(get("densenet121").replace(batch_norm_epsilon=1e-3))
    assert name == "densenet121"
    assert differences == {"batch_norm_epsilon": (1e-3, 1e-5)}
    assert nearest_variant(tiny()) == (None, {})


def test_the_place_of_a_dropout_that_there_is_not_is_no_difference() -> None:
    assert spec_differences(tiny(), tiny(dropout_place="layer")) == {}
    apart = spec_differences(tiny(dropout_rate=0.1), tiny(dropout_place="layer"))
    assert set(apart) == {"dropout_rate", "dropout_place"}


# What is refused

FIRST = "features.denseblock1.denselayer1.conv2.weight"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        pytest.param(
            lambda arrays: arrays.pop("features.denseblock2.denselayer1.norm2.bias"),
            "its arrays do not fit the network (torchvision): "
            "features.denseblock2.denselayer1.norm2.bias is missing",
            id="a missing array",
        ),
        pytest.param(
            lambda arrays: arrays.update({"features.denseblock1.denselayer9.x": np.zeros(3)}),
            "its arrays do not fit the network (torchvision): "
            "features.denseblock1.denselayer9.x is unexpected",
            id="an unexpected array",
        ),
        pytest.param(
            lambda arrays: arrays.update({"features.norm0.weight": np.zeros(9)}),
            "its arrays do not fit the network (torchvision): features.norm0.weight has shape "
            "(9,) (stem.norm.gamma), but should have (64,)",
            id="an array of another shape",
        ),
        pytest.param(
            lambda arrays: arrays.update({FIRST: np.zeros((32, 128, 5, 5))}),
            "features.denseblock1.denselayer1.conv2.weight has shape (32, 128, 5, 5), but should "
            "have (128, 128, 1, 1) where a dense layer starts, or (n, 128, 1, 1) in a transition",
            id="a kernel of another window",
        ),
        pytest.param(
            lambda arrays: arrays.update({"features.conv0.weight": np.zeros((64, 3, 3, 3))}),
            "its shapes fit no named variant, and this layout says nothing of padding, epsilon and "
            "the like: give the spec (--spec NAME or FILE); it is not torchvision's, as "
            "stem_kernel is 3 by the arrays' shapes, but 7 in this layout",
            id="a spec that the implementation contradicts",
        ),
        pytest.param(
            lambda arrays: arrays.update(
                {"features.transition1.conv.weight": np.zeros((40, 96, 1, 1))}
            ),
            "features.denseblock2.denselayer1.conv1.weight has shape (128, 48, 1, 1), but should "
            "have (128, 40, 1, 1) where a dense layer starts, or (n, 40, 1, 1) in a transition",
            id="a transition that the next layer contradicts",
        ),
    ],
)
def test_a_file_that_does_not_fit_is_refused_by_its_first_offending_array(
    change: Callable[[Arrays], Any], expected: str, theirs: Path
) -> None:
    def changed(arrays: Arrays) -> Arrays:
        change(arrays)
        return arrays

    assert refusal_of(renamed(theirs, changed)) == expected


def test_many_problems_are_counted_and_the_first_five_named(theirs: Path) -> None:
    def without_variances(arrays: Arrays) -> Arrays:
        return {name: array for name, array in arrays.items() if "running_var" not in name}

    message = refusal_of(renamed(theirs, without_variances))
    assert message.count(" is missing") == 5
    assert "features.norm0.running_var is missing" in message
    count = sum(name.endswith("running_variance") for name in random_weights(SPEC))
    assert message.endswith(f"; and {count - 5} more")


def test_another_spec_than_the_arrays_is_refused(theirs: Path) -> None:
    message = refusal_of(theirs, spec="densenet121")
    assert "features.denseblock1.denselayer2.norm1.weight is missing" in message


def test_a_file_of_no_layout_is_refused_with_its_first_arrays(tmp_path: Path) -> None:
    path = tmp_path / "resnet.safetensors"
    safetensors.numpy.save_file({"layer1.0.conv1.weight": np.zeros((2, 2, 3, 3))}, path)
    message = refusal_of(path)
    assert message.startswith("no known layout has its names (densespec layouts lists those that")
    assert "--prefix" in message
    assert message.endswith("Its first arrays: layer1.0.conv1.weight")


def test_a_file_that_several_layouts_claim_is_refused(source: Path, tmp_path: Path) -> None:
    both = safetensors.numpy.load_file(_place(tmp_path, "flax.safetensors", source))
    path = tmp_path / "both.safetensors"
    safetensors.numpy.save_file(both | safetensors.numpy.load_file(source), path)
    assert refusal_of(path) == (
        "the layout could be any of densespec, flax: say which (--from LAYOUT)"
    )


def test_a_file_without_arrays_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "empty.safetensors"
    safetensors.numpy.save_file({}, path)
    assert refusal_of(path).endswith("Its first arrays: none")


# Implementations that are another network


@pytest.mark.parametrize(
    ("spec", "layout", "fields"),
    [
        pytest.param(
            SPEC, "keras-hub", {"padding", "batch_norm_epsilon"}, id="torchvision's in keras-hub"
        ),
        pytest.param(
            SPEC.replace(batch_norm_epsilon=1e-3),
            "keras-applications",
            {"batch_norm_epsilon"},
            id="another epsilon in keras",
        ),
        pytest.param(
            SPEC.replace(padding="same"), "torchvision", {"padding"}, id="same in torchvision"
        ),
    ],
)
def test_another_network_is_refused_with_what_it_changes(
    spec: DenseNetSpec, layout: str, fields: set[str], tmp_path: Path
) -> None:
    source = checkpoint(tmp_path / "source.safetensors", spec)
    target = tmp_path / ("net.safetensors" if layout == "torchvision" else "net.weights.h5")
    with pytest.raises(DifferentNetwork) as refusal:
        convert(source, target, to_layout=layout)
    message = str(refusal.value)
    other = densespec.weights.layouts.get_layout(layout).implements
    for field in fields:
        there, here = other[field], getattr(spec, field)
        assert f"{field} is {there!r} there, but {here!r} here" in message
    changed = spec.replace(**{field: other[field] for field in fields})
    arrays = {name: array.astype("float64") for name, array in arrays_of(source).items()}
    effect = largest_difference(
        *(outputs(lower(s, include_top=False), arrays) for s in (changed, spec))
    )
    assert effect > 0
    assert f"its feature map differs by {effect:.1e} of the largest value" in message
    assert message.endswith("(--allow-different)")
    assert list(tmp_path.iterdir()) == [source]


def test_what_is_allowed_to_differ_is_written_and_recorded(source: Path, tmp_path: Path) -> None:
    pytest.importorskip("h5py", reason="h5py is not installed")
    target = tmp_path / "net.weights.h5"
    done = convert(source, target, to_layout="keras-hub", allow_different=True)
    assert done.differences == {
        "padding": ("symmetric", "same"),
        "batch_norm_epsilon": (1e-5, 1.001e-5),
    }
    assert done.effect is not None
    assert 0.001 < done.effect.difference < 1
    assert set(done.training_differences) == {"batch_norm_momentum", "running_variance"}
    with open_weights(target) as found:
        assert set(found.metadata["densespec.differences"].split("; ")) == {
            "padding is 'same' there, but 'symmetric' here",
            "batch_norm_epsilon is 1.001e-05 there, but 1e-05 here",
        }


def test_what_float32_cannot_tell_is_written_with_a_note(source: Path, tmp_path: Path) -> None:
    pytest.importorskip("h5py", reason="h5py is not installed")
    done = convert(source, tmp_path / "net.weights.h5", to_layout="keras-applications")
    assert done.differences == {"batch_norm_epsilon": (1e-5, 1.001e-5)}
    assert done.effect is not None
    assert 0 < done.effect.difference < done.effect.rounding < 1e-5
    (note,) = done.notes
    assert note == (
        "batch_norm_epsilon is 1e-05 in the source, but 1.001e-05 in the target: the feature map "
        f"differs by {done.effect.difference:.1e} of its largest value, which is below float32's "
        f"own rounding of this network, {done.effect.rounding:.1e}"
    )
    assert not done.is_another


def test_a_head_that_the_implementation_lacks_is_never_below_rounding(tmp_path: Path) -> None:
    """Its features are the same, and its outputs are not."""
    source = checkpoint(tmp_path / "source.safetensors", SPEC.replace(head_units=(3,)))
    with pytest.raises(DifferentNetwork, match=r"head_units is \(\) there, but \(3,\) here"):
        convert(source, tmp_path / "net.safetensors", to_layout="torchvision")


def test_what_does_not_differ_needs_no_permission_and_leaves_no_record(
    source: Path, theirs: Path, tmp_path: Path
) -> None:
    done = convert(source, tmp_path / "net.safetensors", to_layout="torchvision")
    assert (done.differences, done.effect) == ({}, None)
    with open_weights(theirs) as found:
        assert "densespec.differences" not in found.metadata


def test_a_network_that_the_implementation_cannot_hold_is_refused_without_a_measure(
    tmp_path: Path,
) -> None:
    source = checkpoint(tmp_path / "source.safetensors", tiny(spatial_dims=1))
    with pytest.raises(DifferentNetwork, match=r"It cannot hold these weights\. To write"):
        convert(source, tmp_path / "net.safetensors", to_layout="torchvision")


def test_differences_that_only_training_sees_are_reported_alone(tmp_path: Path) -> None:
    spec = SPEC.replace(running_variance="biased", batch_norm_momentum=0.01, dropout_rate=0.2)
    source = checkpoint(tmp_path / "source.safetensors", spec.replace(dropout_place="conv"))
    done = convert(source, tmp_path / "net.safetensors", to_layout="torchvision")
    assert done.differences == {}
    assert set(done.training_differences) == {
        "running_variance",
        "batch_norm_momentum",
        "dropout_place",
    }


# Numbers


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf], ids=str)
def test_arrays_that_are_not_finite_are_named(value: float, tmp_path: Path) -> None:
    weights = random_weights(tiny())
    weights["block1.layer2.conv1.kernel"][0, 1, 2, 0] = value
    source = tmp_path / "source.safetensors"
    write_checkpoint(source, lower(tiny()), weights)
    done = convert(source, tmp_path / "net.msgpack")
    assert done.not_finite == ("block1.layer2.conv1.kernel",)
    assert_same(arrays_of(tmp_path / "net.msgpack", spec=tiny()), weights)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_arrays_are_cast_where_it_is_asked_for(dtype: str, source: Path, tmp_path: Path) -> None:
    if dtype == "bfloat16":
        pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed")
    target = tmp_path / "net.safetensors"
    convert(source, target, to_layout="torchvision", dtype=dtype)
    with open_weights(target) as found:
        assert found.dtypes == (dtype,)
        written = found.arrays()
    for name, array in arrays_of(source).items():
        np.testing.assert_array_equal(written[name], array.astype(written[name].dtype))
    with open_file(target) as file:
        counters = {t.dtype for name, t in file.tensors.items() if "num_batches" in name}
        assert counters == {"int64"}


# Writing


def _boom(done: int, total: int) -> None:
    if done > total / 2:
        raise KeyboardInterrupt


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".msgpack", ".weights.h5", ".h5"])
@pytest.mark.parametrize("there_before", [False, True], ids=["anew", "over a file"])
def test_an_interrupted_conversion_leaves_the_folder_as_it_was(
    suffix: str, there_before: bool, source: Path, tmp_path: Path
) -> None:
    if suffix.endswith("h5"):
        pytest.importorskip("h5py", reason="h5py is not installed")
    target = tmp_path / f"net{suffix}"
    if there_before:
        target.write_text("as it was")
    with pytest.raises(KeyboardInterrupt):
        convert(source, target, allow_different=True, progress=_boom)
    assert [path.name for path in tmp_path.iterdir()] == [target.name] * there_before
    assert not there_before or target.read_text() == "as it was"


def test_a_source_that_fails_while_it_is_read_leaves_the_target_as_it_was(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "net.msgpack"
    target.write_text("as it was")
    original = densespec.weights.naming.from_canonical

    def failing(name: str, tensor: Any, axes: Any) -> Any:
        if name.startswith("classifier"):

            def read() -> np.ndarray:
                raise WeightsError("the disk is gone")

            return densespec.weights.tensors.Tensor(tensor.shape, tensor.dtype, read)
        return original(name, tensor, axes)

    monkeypatch.setattr(densespec.weights.naming, "from_canonical", failing)
    with pytest.raises(WeightsError, match="the disk is gone"):
        convert(source, target)
    assert target.read_text() == "as it was"
    assert list(tmp_path.iterdir()) == [target]


def test_progress_counts_every_byte_once(source: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    convert(
        source,
        tmp_path / "net.safetensors",
        to_layout="torchvision",
        progress=lambda done, total: seen.append((done, total)),
    )
    total = seen[0][1]
    with open_file(tmp_path / "net.safetensors") as file:
        assert total == sum(tensor.read().nbytes for tensor in file.tensors.values())
    assert {of for _, of in seen} == {total}
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})
    assert seen[-1][0] == total


def test_a_file_can_be_converted_in_place(source: Path, tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    path.write_bytes(source.read_bytes())
    convert(path, path, to_layout="torchvision")
    with open_weights(path) as found:
        assert found.layout.name == "torchvision"
        assert_same(found.arrays(), arrays_of(source))


def test_a_target_in_no_folder_is_refused(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "nowhere" / "net.safetensors"
    with pytest.raises(WeightsError, match="nowhere"):
        convert(source, target)
    assert not target.parent.exists()


# Training state


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """A checkpoint of a training run."""
    graph, random = lower(SPEC), np.random.default_rng(7)
    velocity = {
        weight.name: random.standard_normal(weight.shape).astype("float32")
        for weight in graph.weights
        if weight.trainable
    }
    path = tmp_path / "trained.safetensors"
    recipe = TrainingRecipe(epochs=40, batch_size=32)
    write_checkpoint(
        path, graph, random_weights(SPEC), TrainingState(170, recipe, {"velocity": velocity})
    )
    return path


def test_training_state_comes_back(trained: Path) -> None:
    training = read_checkpoint(trained).training
    assert training is not None
    assert (training.step, training.recipe) == (170, TrainingRecipe(epochs=40, batch_size=32))
    random = np.random.default_rng(7)
    for weight in lower(SPEC).weights:
        if weight.trainable:
            expected = random.standard_normal(weight.shape).astype("float32")
            np.testing.assert_array_equal(training.moments["velocity"][weight.name], expected)
    assert training.moments["velocity"].keys() == {
        w.name for w in lower(SPEC).weights if w.trainable
    }


def test_momentum_is_no_weight_of_the_network(trained: Path, source: Path) -> None:
    with open_weights(trained) as found:
        assert_same(found.arrays(), arrays_of(source))
        assert all(name.startswith("velocity/") for name in found.extra)
        assert len(found.extra) == sum(weight.trainable for weight in found.graph.weights)


def test_other_layouts_take_the_weights_of_a_training_run_alone(
    trained: Path, source: Path, tmp_path: Path
) -> None:
    target = tmp_path / "net.safetensors"
    convert(trained, target, to_layout="torchvision")
    assert_same(arrays_of(target), arrays_of(source))


def test_arrays_of_keras_optimizers_are_no_weights(source: Path, tmp_path: Path) -> None:
    pytest.importorskip("h5py", reason="h5py is not installed")
    path = _place(tmp_path, "keras-applications.weights.h5", source)
    with open_file(path) as file:
        tensors = dict(file.tensors)
        for name in ("optimizer/vars/0", "optimizer/vars/1"):
            tensors[name] = densespec.weights.tensors.Tensor.of(np.zeros(3, "float32"))
        more = tmp_path / "compiled.weights.h5"
        containers.write_file(more, tensors, file.metadata, container="keras-weights")
    with open_weights(more) as found:
        assert set(found.extra) == {"optimizer/vars/0", "optimizer/vars/1"}
        assert_same(found.arrays(), arrays_of(source))


# Comparing


def test_the_same_network_in_two_layouts_compares_equal(source: Path, theirs: Path) -> None:
    done = compare(source, theirs)
    assert done.same_tensors
    assert (done.spec_differences, done.output_difference) == ({}, 0.0)


def test_one_changed_number_is_found_and_measured(source: Path, theirs: Path) -> None:
    def changed(arrays: Arrays) -> Arrays:
        arrays["features.norm0.bias"][3] += 0.25
        return arrays

    done = compare(source, renamed(theirs, changed))
    apart = {name: value for name, value in done.tensor_differences.items() if value}
    assert apart == {"stem.norm.beta": pytest.approx(0.25, abs=1e-6)}
    assert done.output_difference is not None
    assert done.output_difference > 1e-6
    assert not done.same_tensors


def test_the_same_arrays_in_another_implementation_compute_something_else(
    source: Path, tmp_path: Path
) -> None:
    pytest.importorskip("h5py", reason="h5py is not installed")
    done = compare(source, _place(tmp_path, "keras-hub.weights.h5", source))
    assert done.same_tensors
    assert done.spec_differences["padding"] == ("symmetric", "same")
    assert done.output_difference is not None
    assert done.output_difference > 0.001


def test_networks_of_other_shapes_are_not_run_on_each_others_arrays(
    source: Path, tmp_path: Path
) -> None:
    other = checkpoint(tmp_path / "other.safetensors", SPEC.replace(classes=4))
    done = compare(source, other)
    assert done.tensor_differences["classifier.kernel"] == float("inf")
    bigger = checkpoint(tmp_path / "bigger.safetensors", SPEC.replace(blocks=(1, 3, 1)))
    done = compare(source, bigger)
    assert done.output_difference is None
    assert "block2.layer3.conv1.kernel" in done.only_second


def test_nans_that_both_have_are_no_difference(tmp_path: Path) -> None:
    weights = random_weights(tiny())
    weights["stem.conv.kernel"][0, 0, 0, 0] = np.nan
    path = tmp_path / "net.safetensors"
    write_checkpoint(path, lower(tiny()), weights)
    assert compare(path, path).same_tensors


# .keras, which Keras writes

KERAS_ARCHIVES = """
import os, sys, tempfile
from pathlib import Path
import keras
import numpy as np
from hypothesis import given, settings, strategies as st
import densespec_keras
from densespec.network.graph import lower
from densespec.weights.checkpoint import write_checkpoint
from densespec.network.differences import spec_differences
from densespec.weights.convert import convert
from densespec.weights.opening import open_weights
from tests.strategies import specs
from tests.test_convert import assert_same, random_weights

densespec_keras.BatchNormalization  # makes Keras know it

@settings(deadline=None, max_examples=15, database=None, derandomize=True)
@given(specs(), st.sampled_from(["channels_last", "channels_first"]), st.booleans())
def check(spec, data_format, include_top):
    if spec.padding == "same" and spec.stem_pool is None and spec.stem_stride == 1:
        spec = spec.replace(padding="symmetric" if spec.stem_kernel % 2 else "same")
    momentum = max(round(spec.batch_norm_momentum, 9), 1e-9)  # Keras keeps 1 - it
    spec = spec.replace(batch_norm_momentum=momentum)
    keras.config.set_image_data_format(data_format)
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "net.safetensors", Path(folder) / "net.keras"
        graph, weights = lower(spec, include_top=include_top), random_weights(
            spec, include_top=include_top
        )
        write_checkpoint(source, graph, weights)
        convert(source, target)
        assert sorted(os.listdir(folder)) == ["net.keras", "net.safetensors"]
        with open_weights(target) as found:
            again = lower(found.spec, include_top=include_top)
            assert again.nodes == graph.nodes, spec_differences(found.spec, spec)
            assert found.notes == ()
            assert_same(found.arrays(), weights)
        model = keras.saving.load_model(target)
        for weight in graph.weights:
            node, _, leaf = weight.name.rpartition(".")
            leaf = leaf.replace("running_", "moving_")
            variable = getattr(model.get_layer(node.replace(".", "_")), leaf)
            array = keras.ops.convert_to_numpy(variable)
            if leaf == "kernel":
                array = np.moveaxis(array, (-1, -2), (0, 1))
            np.testing.assert_array_equal(array, weights[weight.name], err_msg=weight.name)

check()
print("checked")
"""


def test_keras_archives_load_in_keras_and_state_their_spec(tmp_path: Path) -> None:
    """Random specs, dropout places included, in both data formats."""
    for package in ("torch", "keras", "h5py"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    script = tmp_path / "check.py"
    script.write_text(KERAS_ARCHIVES)
    root = Path(__file__).parents[1]
    places = [str(root), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(script)],
        env={**os.environ, "KERAS_BACKEND": "torch", "PYTHONPATH": os.pathsep.join(places)},
        capture_output=True,
        text=True,
        cwd=root,
        timeout=300,
        check=False,
    )
    assert done.stdout == "checked\n", done.stderr[-6000:]
    assert done.returncode == 0


def test_a_keras_archive_of_another_model_is_refused(tmp_path: Path) -> None:
    """Its layers are named as densespec's, but it is none of them."""
    import zipfile

    pytest.importorskip("h5py", reason="h5py is not installed")
    source = checkpoint(tmp_path / "c.safetensors", tiny())
    convert(source, tmp_path / "net.weights.h5")
    path = tmp_path / "net.keras"
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(tmp_path / "net.weights.h5", "model.weights.h5")
        archive.writestr("metadata.json", "{}")
        archive.writestr("config.json", json.dumps({"config": {"layers": []}}))
    assert refusal_of(path) == "its config states no model that is known: KeyError('class_name')"


def test_errors_of_specs_that_are_given_say_so(source: Path, tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="unknown variant 'densenet12'"):
        convert(source, tmp_path / "net.msgpack", spec="densenet12")
    with pytest.raises(SpecError):
        convert(source, tmp_path / "net.msgpack", spec=SPEC.replace(blocks=()))


def test_a_keras_archive_of_another_makers_model_is_refused(tmp_path: Path) -> None:
    source, target = tmp_path / "net.safetensors", tmp_path / "net.keras"
    densespec.save(densespec.build(tiny(), backend="numpy"), source)
    with pytest.raises(WeightsError, match=r"net\.keras: a \.keras file holds a whole model"):
        convert(source, target, to_layout="keras-applications", allow_different=True)
    assert not target.exists()
