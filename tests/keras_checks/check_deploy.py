"""What the engines export, and that ONNX files do not show which engine a model was on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import densespec
from densespec.deploy import WeightedGraph, export
from densespec.deploy.check_images import WidthFirst
from densespec.deploy.formats import formats
from densespec.errors import EngineConflict
from densespec.network.graph import lower
from densespec.network.initial import initial_weights
from densespec.pretrained.accompaniment import Accompaniment
from densespec.pretrained.preprocessing import Preprocessing
from densespec_keras.exporting import tf_images
from tests.strategies import tiny

FORMATS_OF = {"tensorflow": ("saved-model",), "jax": (), "torch": ()}


def network_of(model: Any, size: tuple[int, ...] | None = None) -> WeightedGraph:
    arrays = densespec.read_weights(model)
    return WeightedGraph(lower(model.densespec.graph.spec, size), arrays)


@pytest.mark.parametrize("network", ["preactivation", "same", "cifar"])
def test_what_the_engine_exports_takes_any_batch_and_size(
    build: Any, network: str, engine: str, tmp_path: Path
) -> None:
    found = network_of(build(network))
    for name in FORMATS_OF[engine]:
        for optimize in (True, False):
            done = export(found, tmp_path / name, format=name, optimize=optimize)
            assert done.measured is not None
            assert done.measured.difference < 2e-6
            assert {shape[0] for shape in done.measured.shapes} == {1, 2}
            assert len(done.measured.shapes) == 4


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic"])
@pytest.mark.parametrize(
    "said", [{"crop": 0.875}, {"resize": "squash"}, {"size": (24, 40)}], ids=str
)
def test_what_takes_images_prepares_them(
    interpolation: str, said: dict[str, Any], engine: str, tmp_path: Path
) -> None:
    pytest.importorskip("PIL", reason="Pillow is not installed")
    fields: dict[str, Any] = {"size": (32, 32), "interpolation": interpolation} | said
    prepare = Preprocessing(mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4), **fields)
    labels = ("ant", "bee", "cat")
    goes_with = Accompaniment(preprocessing=prepare, labels=labels)
    graph = lower(tiny(classes=3, in_channels=3))
    found = WeightedGraph(graph, initial_weights(graph, 3), accompaniment=goes_with)
    for name in FORMATS_OF[engine]:
        done = export(found, tmp_path / name, format=name, with_preprocessing=True)
        assert done.measured is not None
        assert done.measured.difference < 2e-6
        import tensorflow as tf

        loaded = tf.saved_model.load(tmp_path / name)
        assert json.loads(loaded.labels.numpy()) == list(labels)
        images = np.random.default_rng(0).integers(0, 256, (2, 50, 33, 3), dtype=np.uint8)
        prepared = tf_images.prepared(images, prepare).numpy()
        by_axes = WidthFirst(**prepare.to_dict()).batch(images, "channels_last")
        np.testing.assert_allclose(prepared, by_axes, atol=2e-6)


def test_a_fixed_size_and_batch_are_exported(build: Any, engine: str, tmp_path: Path) -> None:
    found = network_of(build("same"), (35, 42))
    for name in FORMATS_OF[engine]:
        done = export(found, tmp_path / name, format=name, batch=3)
        assert done.measured is not None
        assert done.measured.shapes == ((3, 3, 35, 42),)


def test_the_engine_exports_nothing_of_another_s(build: Any, engine: str, tmp_path: Path) -> None:
    found = network_of(build("cifar"))
    others = {name for names in FORMATS_OF.values() for name in names} - {*FORMATS_OF[engine]}
    for name in others:
        with pytest.raises(EngineConflict):
            export(found, tmp_path / name, format=name)
    assert list(tmp_path.iterdir()) == []
    assert others < {*formats()}


def test_the_onnx_file_of_a_model_is_that_of_its_weights(build: Any, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    model = build("preactivation")
    densespec.export(model, tmp_path / "built.onnx", check=False)
    export(network_of(model), tmp_path / "given.onnx", size=(None, None), check=False)
    densespec.save(model, tmp_path / "net.safetensors")
    densespec.export(tmp_path / "net.safetensors", tmp_path / "saved.onnx", check=False)
    files = {(tmp_path / f"{name}.onnx").read_bytes() for name in ("built", "given", "saved")}
    assert len(files) == 1
