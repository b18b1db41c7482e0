"""``build``, and weights into and out of models; on numpy, and on a backend that takes notes."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

import densespec
from densespec.backends import GROUP, Backend, backends, get_backend
from densespec.building import Origin, build, load_weights, origin_of, read_weights, save
from densespec.errors import (
    BackendUnavailable,
    DensespecError,
    PackageMissing,
    SpecError,
    UnknownName,
    WeightsError,
    WeightsWarning,
)
from densespec.installed import is_installed, require
from densespec.network.graph import Graph, lower
from densespec.network.initial import initial_weights
from densespec.reference.backend import BACKEND as NUMPY
from densespec.reference.model import ReferenceModel
from densespec.weights.checkpoint import read_checkpoint
from densespec.weights.containers import write_file
from densespec.weights.layouts import canonical
from densespec.weights.tensors import Tensor
from tests.dtypes import DTYPES, dtype_of
from tests.strategies import named, tiny

Arrays = dict[str, np.ndarray]


@dataclass
class NotingBackend:
    """Builds nothing, and keeps what it was asked to build; channels last unless told otherwise."""

    def data_format(self, requested: str | None) -> str:
        return requested or "channels_last"

    def build(self, graph: Graph, weights: Arrays, **options: Any) -> SimpleNamespace:
        return SimpleNamespace(graph=graph, weights=weights, **options)


@pytest.fixture
def noting(monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a backend that takes notes."""
    module = ModuleType("noting")
    module.BACKEND = NotingBackend()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "noting", module)
    return "noting:BACKEND"


def _numpy(spec: Any = None, **options: Any) -> ReferenceModel:
    model = build(spec or tiny(), backend="numpy", **options)
    assert isinstance(model, ReferenceModel)
    return model


@pytest.mark.parametrize("dtype", [*DTYPES[:4], "float8_e4m3fn", "float8_e5m2"])
@pytest.mark.parametrize("from_file", [True, False])
def test_weights_of_any_type_reach_a_backend_in_one_of_numpys(
    tmp_path: Path, noting: str, dtype: str, from_file: bool
) -> None:
    model = _numpy()
    arrays = {name: array.astype(dtype_of(dtype)) for name, array in read_weights(model).items()}
    path = tmp_path / "net.safetensors"
    tensors = {name: Tensor.of(array) for name, array in arrays.items()}
    write_file(path, tensors, canonical.metadata(origin_of(model).graph))
    for backend in (noting, *(["torch.nn"] if is_installed("torch") else [])):
        built = build(tiny(), backend=backend, weights=path if from_file else arrays)
        found = built.weights if backend == noting else read_weights(built)
        for name, array in arrays.items():
            assert found[name].dtype in (np.float16, np.float32, np.float64)
            np.testing.assert_array_equal(found[name], array.astype(found[name].dtype))


def _random_weights(graph: Graph, dtype: Any = np.float64) -> Arrays:
    rng = np.random.default_rng(1)
    return {w.name: rng.standard_normal(w.shape).astype(dtype) for w in graph.weights}


def _same_bits(one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> bool:
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype and one[name].tobytes() == other[name].tobytes()
        for name in one
    )


# What build hands to a backend


def test_build_lowers_the_spec_and_draws_initial_weights(noting: str) -> None:
    model = build(tiny(), backend=noting)
    assert model.graph == lower(tiny())
    assert _same_bits(model.weights, initial_weights(lower(tiny()), 0))
    assert model.dtype is None
    assert model.data_format == "channels_last"
    origin = origin_of(model)
    assert (origin.backend, origin.graph) == (noting, lower(tiny()))
    assert (origin.dtype, origin.data_format, origin.name) == (None, "channels_last", "densenet")


def test_build_passes_the_options_of_the_head_on(noting: str) -> None:
    headless = build(tiny(), backend=noting, include_top=False, pooling="max")
    assert headless.graph == lower(tiny(), include_top=False, pooling="max")
    softmax = build(tiny(), backend=noting, classifier_activation="softmax")
    assert softmax.graph == lower(tiny(), classifier_activation="softmax")


def test_build_passes_dtype_and_data_format_on(noting: str) -> None:
    model = build(tiny(), backend=noting, dtype="float32", data_format="channels_first")
    assert model.dtype == "float32"
    assert model.data_format == "channels_first"


def test_build_draws_from_the_seed(noting: str) -> None:
    model = build(tiny(), backend=noting, seed=5)
    assert _same_bits(model.weights, initial_weights(lower(tiny()), 5))


def test_classes_replaces_the_classes_of_the_spec(noting: str) -> None:
    assert build(tiny(), backend=noting, classes=7).graph == lower(tiny(classes=7))


@pytest.mark.parametrize(
    ("data_format", "shape", "channels", "size"),
    [
        pytest.param("channels_first", (4, 8, 6), 4, (8, 6), id="channels first"),
        pytest.param("channels_last", (8, 6, 4), 4, (8, 6), id="channels last"),
        pytest.param(None, [8, 6, 4], 4, (8, 6), id="the backend's own layout, as a list"),
        pytest.param("channels_first", (4, None, 6), 4, (None, 6), id="one size unknown"),
        pytest.param("channels_last", (8, 6, None), 3, (8, 6), id="channels left to the spec"),
        pytest.param("channels_first", None, 3, None, id="no shape"),
    ],
)
def test_input_shape_gives_channels_and_size(
    noting: str, data_format: Any, shape: Any, channels: int, size: Any
) -> None:
    model = build(tiny(), backend=noting, input_shape=shape, data_format=data_format)
    assert model.graph == lower(tiny(in_channels=channels), size)


@pytest.mark.parametrize("shape", [(), (3,)], ids=repr)
def test_an_input_shape_without_sizes_is_refused(noting: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(SpecError) as caught:
        build(tiny(), backend=noting, input_shape=shape)
    assert str(caught.value) == (
        f"input_shape = {shape!r}, but should be one sample's channels and sizes [S24]"
    )


@pytest.mark.parametrize(
    ("changes", "constraint"),
    [
        pytest.param({"input_shape": (8, 8, 8, 3)}, "S24", id="a dimension too many"),
        pytest.param({"input_shape": (8, 8, 0)}, "S5", id="no channels"),
        pytest.param({"classes": 0}, "S6", id="no classes"),
        pytest.param({"input_shape": (0, 8, 3)}, "S24", id="an empty size"),
    ],
)
def test_what_replaces_a_field_obeys_its_constraint(
    noting: str, changes: Any, constraint: str
) -> None:
    with pytest.raises(SpecError, match=rf"\[{constraint}\]$"):
        build(tiny(), backend=noting, **changes)


def test_a_model_is_named_for_its_spec_unless_named(noting: str, tmp_path: Path) -> None:
    path = tmp_path / "my-net.toml"
    densespec.write_spec(tiny(), path)
    assert build("densenet-40-12", backend=noting).name == "densenet-40-12"
    assert build(path, backend=noting).name == "my-net"
    assert build(str(path), backend=noting).name == "my-net"
    assert build(tiny(), backend=noting).name == "densenet"
    assert build("densenet-40-12", backend=noting, name="mine").name == "mine"


def test_a_spec_file_is_as_good_as_its_spec(noting: str, tmp_path: Path) -> None:
    densespec.write_spec(tiny(), tmp_path / "net.json")
    assert build(tmp_path / "net.json", backend=noting).graph == lower(tiny())


def test_an_unknown_variant_suggests_near_names(noting: str) -> None:
    with pytest.raises(UnknownName, match=r"unknown variant 'densenet-40'\. Did you mean dense"):
        build("densenet-40", backend=noting)


# On numpy


def test_numpy_gives_the_reference_in_float64() -> None:
    model, x = _numpy(), np.random.default_rng(0).standard_normal((2, 3, 8, 8))
    assert model.dtype == np.float64
    reference = ReferenceModel(lower(tiny()), initial_weights(lower(tiny())))
    np.testing.assert_array_equal(model(x), reference(x))
    assert model(x).shape == (2, 3)


def test_numpy_in_another_dtype() -> None:
    model = _numpy(dtype="float32")
    assert model(np.zeros((1, 3, 8, 8))).dtype == np.float32


@pytest.mark.parametrize("data_format", ["channels_last", "NCHW"])
def test_numpy_refuses_other_layouts(data_format: Any) -> None:
    with pytest.raises(ValueError, match=f"data_format = '{data_format}', but the numpy reference"):
        _numpy(data_format=data_format)


def test_numpy_accepts_its_own_layout_by_name() -> None:
    assert _numpy(data_format="channels_first", input_shape=(3, 8, 8)).graph == lower(
        tiny(), (8, 8)
    )


def test_numpy_fulfils_the_protocol() -> None:
    assert isinstance(NUMPY, Backend)
    assert get_backend("numpy") is NUMPY


# Weights given to build


def test_weights_from_a_mapping() -> None:
    arrays = _random_weights(lower(tiny()))
    model = _numpy(weights=arrays)
    assert _same_bits(read_weights(model), arrays)


def test_weights_from_a_mapping_of_lists() -> None:
    arrays = _random_weights(lower(tiny()))
    lists: Any = {name: array.tolist() for name, array in arrays.items()}
    assert _same_bits(read_weights(_numpy(weights=lists)), arrays)


@pytest.mark.parametrize("kind", [str, Path])
def test_weights_from_a_checkpoint(tmp_path: Path, kind: Any) -> None:
    arrays = _random_weights(lower(tiny()))
    save(_numpy(weights=arrays), tmp_path / "net.safetensors")
    model = _numpy(weights=kind(tmp_path / "net.safetensors"))
    assert _same_bits(read_weights(model), arrays)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A checkpoint of ``tiny()`` with its classifier."""
    path = tmp_path / "net.safetensors"
    save(_numpy(weights=_random_weights(lower(tiny()))), path)
    return path


def test_a_network_without_a_head_takes_the_body_of_a_checkpoint(saved: Path) -> None:
    body = _numpy(include_top=False, weights=saved)
    everything = read_checkpoint(saved).arrays
    expected = {n: a for n, a in everything.items() if not n.startswith("classifier.")}
    assert len(expected) == len(everything) - 2
    assert _same_bits(read_weights(body), expected)


def test_a_network_without_a_head_takes_the_body_of_a_mapping() -> None:
    arrays = _random_weights(lower(tiny()))
    body = _numpy(include_top=False, pooling="avg", weights=arrays)
    assert set(arrays) - set(read_weights(body)) == {"classifier.kernel", "classifier.bias"}


def test_a_network_without_a_head_has_no_classes_to_differ_in(saved: Path) -> None:
    _numpy(tiny(classes=99), include_top=False, weights=saved)


def test_a_network_with_a_head_wants_one_in_the_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "body.safetensors"
    save(_numpy(include_top=False), path)
    message = r"has no classifier: build .* \(include_top=False, --no-top\), or with a new one"
    with pytest.raises(WeightsError, match=message):
        _numpy(weights=path)


@pytest.mark.parametrize(
    "changes",
    [
        {"dropout_rate": 0.2},
        {"dropout_place": "layer"},
        {"batch_norm_momentum": 0.01},
        {"running_variance": "biased"},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_checkpoint_fits_where_only_training_differs(saved: Path, changes: Any) -> None:
    model = _numpy(tiny(**changes), weights=saved)
    assert _same_bits(read_weights(model), read_checkpoint(saved).arrays)


@pytest.mark.parametrize(
    ("changes", "difference"),
    named(
        "{1}",
        ({"batch_norm_epsilon": 1e-3}, "batch_norm_epsilon is 1e-05 there, but 0.001 here"),
        ({"padding": "same"}, "padding is 'symmetric' there, but 'same' here"),
        ({"transition_relu": False}, "transition_relu is True there, but False here"),
        ({"bottleneck_width": 4}, "bottleneck_width is None there, but 4 here"),
        ({"stem_pool": 3}, "stem_pool is None there, but 3 here"),
        (
            {"growth_rate": 4, "stem_stride": 2},
            "growth_rate is 2 there, but 4 here; stem_stride is 1 there, but 2 here",
        ),
    ),
)
def test_a_checkpoint_of_another_network_says_in_what_it_differs(
    saved: Path, changes: Any, difference: str
) -> None:
    with pytest.raises(WeightsError) as caught:
        _numpy(tiny(**changes), weights=saved)
    assert str(caught.value) == f"{saved} holds weights of another network: {difference}"


def test_other_input_channels_are_another_network_unless_they_are_asked_for(saved: Path) -> None:
    message = "in_channels is 3 there, but 1 here; in_channels=1 fits them$"
    with pytest.raises(WeightsError, match=message):
        _numpy(tiny(in_channels=1), weights=saved)
    for asked in ({"in_channels": 1}, {"input_shape": (1, 8, 8)}):
        with pytest.warns(WeightsWarning, match="for 3 channels, is summed for 1"):
            model = _numpy(weights=saved, **asked)
        kernel = read_weights(_numpy(weights=saved))["stem.conv.kernel"]
        fitted = read_weights(model)["stem.conv.kernel"]
        np.testing.assert_allclose(fitted, kernel.sum(1, keepdims=True), rtol=1e-6)


def test_channels_that_are_said_twice_have_to_be_the_same(saved: Path) -> None:
    with pytest.raises(SpecError, match=r"in_channels = 2, but should be 1, as in input_shape"):
        _numpy(weights=saved, in_channels=2, input_shape=(1, 8, 8))


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        pytest.param(
            lambda a: a.pop("final.norm.beta"), "final.norm.beta is missing", id="an array less"
        ),
        pytest.param(
            lambda a: a.update(extra=np.zeros(1)), "extra is unexpected", id="an array more"
        ),
        pytest.param(
            lambda a: a.update({"classifier.bias": np.zeros((3, 1))}),
            "classifier.bias has shape (3, 1), but should have (3,)",
            id="an array of another shape",
        ),
        pytest.param(
            lambda a: a.update({"classifier.kernel": a["classifier.kernel"].T}),
            "classifier.kernel has shape (9, 3), but should have (3, 9)",
            id="an array the wrong way round",
        ),
    ],
)
def test_arrays_that_do_not_fit_are_named(spoil: Any, problem: str) -> None:
    arrays = _random_weights(lower(tiny()))
    spoil(arrays)
    with pytest.raises(WeightsError) as caught:
        _numpy(weights=arrays)
    assert str(caught.value) == f"weights do not fit the network: {problem}"


def test_of_many_problems_five_are_named() -> None:
    with pytest.raises(WeightsError) as caught:
        _numpy(weights={})
    message = str(caught.value)
    assert message.count(" is missing") == 5
    assert message.endswith(f"; and {len(lower(tiny()).weights) - 5} more")


def test_trained_weights_of_another_network_are_refused_before_they_are_fetched() -> None:
    with pytest.raises(WeightsError) as caught:
        _numpy(weights="imagenet")
    assert str(caught.value).startswith(
        "there are no weights called 'imagenet' of this network: `densespec weights` lists what is "
        "known, such as torchvision:DenseNet121_Weights.IMAGENET1K_V1, "
    )


def test_an_absent_checkpoint_is_named(tmp_path: Path) -> None:
    path = tmp_path / "absent.safetensors"
    with pytest.raises(WeightsError) as caught:
        _numpy(weights=path)
    assert str(caught.value) == f"{path}: no such file"


def test_a_file_of_no_known_kind_is_named(tmp_path: Path) -> None:
    path = tmp_path / "net.xyz"
    path.write_bytes(b"weights")
    with pytest.raises(WeightsError, match=rf"^{re.escape(str(path))}: "):
        _numpy(weights=path)


# Weights of built models


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
def test_saving_and_loading_keeps_every_bit(tmp_path: Path, dtype: str) -> None:
    graph, path = lower(tiny()), tmp_path / "net.safetensors"
    arrays = _random_weights(graph, dtype)
    tiniest = np.finfo(dtype).smallest_subnormal
    arrays["classifier.bias"] = np.array([-0.0, tiniest, np.inf], dtype)
    arrays["final.norm.beta"][0] = np.nan
    save(_numpy(weights=arrays, dtype=dtype), path)
    assert _same_bits(read_checkpoint(path).arrays, arrays)
    model = _numpy(dtype=dtype)
    load_weights(model, path)
    assert _same_bits(read_weights(model), arrays)


def test_weights_read_from_a_model_are_copies() -> None:
    model = _numpy()
    read = read_weights(model)
    for array in read.values():
        array += 1
    assert not any(np.array_equal(model.weights[name], read[name]) for name in read)


def test_loading_takes_a_mapping() -> None:
    model, arrays = _numpy(), _random_weights(lower(tiny()))
    load_weights(model, arrays)
    assert _same_bits(read_weights(model), arrays)


def test_loading_into_a_network_without_a_head_takes_the_body(saved: Path) -> None:
    model = _numpy(include_top=False)
    load_weights(model, saved)
    everything = read_checkpoint(saved).arrays
    assert _same_bits(read_weights(model), {n: everything[n] for n in read_weights(model)})


def test_loading_what_does_not_fit_leaves_the_model_as_it_was() -> None:
    model = _numpy()
    before = read_weights(model)
    arrays = _random_weights(lower(tiny()))
    del arrays["classifier.bias"]
    with pytest.raises(WeightsError, match=r"classifier\.bias is missing"):
        load_weights(model, arrays)
    assert _same_bits(read_weights(model), before)


def test_a_model_keeps_what_it_was_built_from() -> None:
    model = _numpy(input_shape=(1, 8, None), classes=5)
    graph = lower(tiny(in_channels=1, classes=5), (8, None))
    assert origin_of(model) == Origin("numpy", graph, None, "channels_first", "densenet")


@pytest.mark.parametrize(
    "use",
    [
        pytest.param(origin_of, id="origin_of"),
        pytest.param(read_weights, id="read_weights"),
        pytest.param(lambda model: save(model, "net.safetensors"), id="save"),
        pytest.param(lambda model: load_weights(model, {}), id="load_weights"),
    ],
)
@pytest.mark.parametrize(
    "model",
    [
        pytest.param(SimpleNamespace(), id="something else"),
        pytest.param(
            SimpleNamespace(densespec="numpy"), id="something with an attribute densespec"
        ),
        pytest.param(
            ReferenceModel(lower(tiny()), initial_weights(lower(tiny()))),
            id="a reference that build did not make",
        ),
    ],
)
def test_models_of_other_makers_are_refused(use: Any, model: Any) -> None:
    name = type(model).__name__
    with pytest.raises(DensespecError, match=f"^this {name} was not built by densespec.build"):
        use(model)


# Backends by name


def test_the_first_party_backends_are_offered_like_any_others() -> None:
    assert {"jax", "numpy", "tensorflow", "torch", "torch.nn"} <= set(backends())
    assert list(backends()) == sorted(backends())


@pytest.mark.parametrize(
    ("name", "near"),
    named(
        "{0} is near {1}", ("tensorfow", "tensorflow"), ("Numpy", "numpy"), ("torch.n", "torch.nn")
    ),
)
def test_an_unknown_backend_suggests_near_names(name: str, near: str) -> None:
    with pytest.raises(UnknownName, match=f"^unknown backend '{name}'. Did you mean {near}"):
        build(tiny(), backend=name)


def test_a_backend_like_no_other_lists_them_all() -> None:
    with pytest.raises(UnknownName) as caught:
        get_backend("cafe")
    assert str(caught.value) == f"unknown backend 'cafe'. Known: {', '.join(backends())}."


def test_a_backend_that_is_not_published_is_named_by_module_and_attribute() -> None:
    model = build(tiny(), backend="densespec.reference.backend:BACKEND")
    assert isinstance(model, ReferenceModel)
    assert origin_of(model).backend == "densespec.reference.backend:BACKEND"
    assert _same_bits(read_weights(model), read_weights(_numpy()))


@pytest.mark.parametrize(
    ("name", "reason"),
    named(
        "{0} {1}",
        ("densespec.absent:BACKEND", "can't be loaded: No module named 'densespec.absent'"),
        (
            "densespec.reference.backend:ABSENT",
            "can't be loaded: module .* has no attribute 'ABSENT'",
        ),
        (":BACKEND", "is not of the form 'module:attribute'"),
        ("densespec.reference.backend:", "is not of the form 'module:attribute'"),
        ("..numpy_backend:BACKEND", "is not of the form 'module:attribute'"),
        ("C:\\backend.py", "is not of the form 'module:attribute'"),
    ),
)
def test_a_backend_that_can_not_be_loaded_says_why(name: str, reason: str) -> None:
    with pytest.raises(BackendUnavailable) as caught:
        get_backend(name)
    assert str(caught.value).startswith(f"backend {name!r} ")
    assert caught.match(reason)


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("densespec_absent:BACKEND", "No module named 'densespec_absent'"),
        ("densespec.reference.backend:ABSENT", "has no attribute 'ABSENT'"),
    ],
    ids=["its module is gone", "its attribute is gone"],
)
def test_a_published_backend_that_can_not_be_loaded_says_why(
    monkeypatch: pytest.MonkeyPatch, target: str, reason: str
) -> None:
    entry = importlib.metadata.EntryPoint("broken", target, GROUP)
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda **_: [entry])
    with pytest.raises(BackendUnavailable, match=rf"^backend 'broken' can't be loaded: .*{reason}"):
        get_backend("broken")


@pytest.fixture
def without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "torch" else find(name)
    )
    for module in [name for name in sys.modules if name.partition(".")[0] == "densespec_torch"]:
        monkeypatch.delitem(sys.modules, module)


MISSING = (
    "backend 'torch.nn' needs the package 'torch', which is not installed: "
    "pip install 'densespec[torch]'"
)


@pytest.mark.usefixtures("without_torch")
def test_a_missing_framework_says_what_to_install() -> None:
    with pytest.raises(PackageMissing) as caught:
        require("backend 'torch.nn'", "torch", extra="torch")
    assert str(caught.value) == MISSING


@pytest.mark.usefixtures("without_torch")
def test_building_on_a_missing_framework_says_what_to_install() -> None:
    with pytest.raises(PackageMissing) as caught:
        build(tiny(), backend="torch.nn")
    assert str(caught.value) == MISSING


def test_a_framework_that_is_there_is_not_imported_to_find_out() -> None:
    assert "this" not in sys.modules
    require("mine", "this", extra="mine")
    assert "this" not in sys.modules
