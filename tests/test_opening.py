"""Weights that are identified, wherever they come from, and whole models that packages write."""

from __future__ import annotations

import shutil
import sys
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import densespec
from densespec.errors import PackageMissing, WeightsError
from densespec.network.graph import Graph, lower
from densespec.weights import opening, whole_models
from densespec.weights.convert import convert
from densespec.weights.layouts import get_layout
from densespec.weights.naming import layout_tensors
from densespec.weights.opening import identify, open_weights
from densespec.weights.tensors import Tensor
from tests.strategies import tiny
from tests.test_convert import SPEC, Arrays, assert_same, checkpoint, random_weights

# In memory


def in_memory(layout: str, container: str, arrays: Arrays, prefix: str = "") -> dict[str, Tensor]:
    tensors = {name: Tensor.of(array) for name, array in arrays.items()}
    named = layout_tensors(get_layout(layout), container, lower(SPEC), tensors)
    return {prefix + name: tensor for name, tensor in named.items()}


@pytest.mark.parametrize(
    ("layout", "container"),
    [
        ("torchvision", "torch"),
        ("monai", "torch"),
        ("keras-applications", "keras-legacy"),
    ],
)
def test_arrays_in_memory_are_identified_by_their_names(layout: str, container: str) -> None:
    arrays = random_weights(SPEC)
    found = identify(in_memory(layout, container, arrays), {}, container)
    assert (found.layout.name, found.path) == (layout, None)
    assert (found.spec.blocks, found.spec.classes) == (SPEC.blocks, SPEC.classes)
    assert_same(found.arrays(), arrays)


def test_what_is_no_weight_of_the_network_is_left_over() -> None:
    arrays = random_weights(SPEC)
    found = identify(in_memory("torchvision", "torch", arrays, "module."), {}, "torch")
    assert_same(found.arrays(), arrays)
    assert {name.rpartition(".")[2] for name in found.extra} == {"num_batches_tracked"}


def test_arrays_in_memory_that_do_not_fit_are_named() -> None:
    tensors = in_memory("torchvision", "torch", random_weights(SPEC))
    del tensors["features.norm5.bias"]
    with pytest.raises(WeightsError, match=r"^its arrays do not fit .* features\.norm5\.bias is m"):
        identify(tensors, {}, "torch")


# Files


@pytest.mark.parametrize("spec", [None, tiny()], ids=["its own spec", "a given spec"])
def test_building_opens_a_file_once(
    spec: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, count = checkpoint(tmp_path / "net.safetensors", tiny()), []
    original = opening.open_file
    monkeypatch.setattr(
        opening, "open_file", lambda path, **more: [count.append(path), original(path, **more)][1]
    )
    densespec.build(spec, backend="numpy", weights=path)
    assert count == [path]
    densespec.transfer(spec, classes=2, backend="numpy", weights=path)
    assert count == [path, path]


def test_an_unknown_backend_is_named_before_a_file_is_opened(tmp_path: Path) -> None:
    with pytest.raises(densespec.DensespecError, match="unknown backend 'nupmy'"):
        densespec.build(backend="nupmy", weights=tmp_path / "absent.pth")


# Whole models


class Writer:
    """Writes the name of the model alone."""

    def write(self, graph: Graph, arrays: Arrays, path: Path, *, name: str) -> None:
        assert path.suffix == ".keras"
        assert arrays.keys() == {weight.name for weight in graph.weights}
        path.write_text(name)


class Failing:
    def write(self, graph: Graph, arrays: Arrays, path: Path, *, name: str) -> None:
        path.write_text("half of it")
        raise PackageMissing("writing", "keras", "torch")


@pytest.fixture
def publish(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Publish writers of whole models instead of those that are installed."""
    installed = metadata.entry_points

    def of(**writers: object) -> None:
        module: Any = ModuleType("their_writers")
        module.__dict__.update(writers)
        monkeypatch.setitem(sys.modules, "their_writers", module)
        entries = [
            metadata.EntryPoint(name.replace("_", "-"), f"their_writers:{name}", whole_models.GROUP)
            for name in writers
        ]

        def entry_points(**selected: str) -> Any:
            if selected["group"] != whole_models.GROUP:
                return installed(**selected)
            return [e for e in entries if e.name == selected.get("name", e.name)]

        monkeypatch.setattr(metadata, "entry_points", entry_points)

    return of


def test_any_package_can_write_whole_models(publish: Any, tmp_path: Path) -> None:
    publish(keras_applications=Writer())
    source, target = checkpoint(tmp_path / "net.safetensors"), tmp_path / "net.keras"
    convert(source, target, to_layout="keras-applications", allow_different=True)
    assert target.read_text() == "densenet"
    with pytest.raises(WeightsError, match=r"can be written of these layouts: keras-applications;"):
        convert(source, target)


def test_without_a_writer_whole_models_are_refused(publish: Any, tmp_path: Path) -> None:
    publish()
    with pytest.raises(WeightsError, match=r"net\.keras: a \.keras file holds .* layouts: none;"):
        convert(tmp_path / "not-even-opened.pth", tmp_path / "net.keras")


def test_a_writer_that_fails_leaves_the_folder_as_it_was(publish: Any, tmp_path: Path) -> None:
    publish(densespec_keras=Failing())
    source, target = checkpoint(tmp_path / "net.safetensors", tiny()), tmp_path / "net.keras"
    with pytest.raises(PackageMissing):
        convert(source, target)
    assert list(tmp_path.iterdir()) == [source]


def test_a_whole_model_in_no_folder_is_refused(publish: Any, tmp_path: Path) -> None:
    publish(densespec_keras=Writer())
    source = checkpoint(tmp_path / "net.safetensors", tiny())
    target = tmp_path / "nowhere" / "net.keras"
    with pytest.raises(WeightsError, match=r"net\.keras: can't be written: no folder .*nowhere"):
        convert(source, target)


def test_a_whole_model_replaces_what_a_link_leads_to(publish: Any, tmp_path: Path) -> None:
    publish(densespec_keras=Writer())
    source = checkpoint(tmp_path / "net.safetensors", tiny())
    target, link = tmp_path / "old.keras", tmp_path / "net.keras"
    target.write_text("old")
    link.symlink_to(target)
    convert(source, link)
    assert link.is_symlink()
    assert target.read_text() == "densenet"
    assert len(list(tmp_path.iterdir())) == 3


# What timm's config beside a file states


FOLDER = Path(__file__).parent / "cases" / "timm_folder_silu" / "folder"


def test_timms_config_beside_a_file_settles_what_no_array_tells(tmp_path: Path) -> None:
    with open_weights(FOLDER / "model.safetensors") as found:
        assert found.spec.activation == "silu"
    shutil.copy(FOLDER / "model.safetensors", tmp_path)
    with open_weights(tmp_path / "model.safetensors") as found:
        assert found.spec.activation == "relu"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "config.json: its text"),
        ('{"architecture": "resnet50"}', "config.json: its architecture is timm's 'resnet50'"),
    ],
)
def test_a_config_that_does_not_do_is_refused(tmp_path: Path, text: str, message: str) -> None:
    shutil.copy(FOLDER / "model.safetensors", tmp_path)
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(WeightsError, match=message), open_weights(tmp_path / "model.safetensors"):
        pass


def test_a_spec_that_contradicts_the_config_is_refused() -> None:
    said = {"assume": {"activation": "elu"}}
    with (
        pytest.raises(WeightsError, match="it states another network than the spec given"),
        open_weights(FOLDER / "model.safetensors", **said),
    ):
        pass
