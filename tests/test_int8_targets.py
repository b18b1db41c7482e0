"""Files in int8 are targets of the suite: losses are told by layer, likeliest classes judged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from densespec.data import Dataset
from densespec.data.sources import load
from densespec.deploy.network import ExportedProgram, WeightedGraph
from densespec.errors import DensespecError
from densespec.network.graph import lower
from densespec.network.initial import initial_weights
from densespec.network.spec import DenseNetSpec
from densespec.pretrained.accompaniment import Accompaniment
from densespec.quantizing import export_int8
from densespec.training.bequest import bequest_of
from densespec.weights.checkpoint import write_checkpoint
from densespec.weights.reading import ReadingOptions
from densespec_conformance.adapters.exported import ExportedFileBackend
from densespec_conformance.answering.target import LocalTarget
from densespec_conformance.asking.exported import ExportedFileError
from densespec_conformance.asking.subject import subject_of
from densespec_conformance.judging.expected import Reference
from densespec_conformance.running.choosing import assigned
from densespec_conformance.running.one_case import run_case
from densespec_conformance.running.result import Result

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")
pytest.importorskip("sklearn", reason="scikit-learn is not installed")

SPEC = DenseNetSpec(blocks=(2, 2), growth_rate=6, classes=10, in_channels=1)
FAVOURITE = 3


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load("digits", channels=1)


@pytest.fixture(scope="module")
def network(digits: Dataset) -> WeightedGraph:
    """A network that takes every image for the same digit, so that no classes are near ties."""
    graph = lower(SPEC, (8, 8))
    arrays = initial_weights(graph, 0)
    arrays["classifier.bias"] = np.where(np.arange(10) == FAVOURITE, 20, 0).astype(np.float32)
    kept = bequest_of(digits, graph, None, ReadingOptions())
    return WeightedGraph(lower(SPEC), arrays, accompaniment=kept)


@pytest.fixture(scope="module")
def weights(network: WeightedGraph, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "net.safetensors"
    write_checkpoint(path, network.graph, network.arrays, accompaniment=network.accompaniment)
    return path


@pytest.fixture(scope="module")
def int8(network: WeightedGraph, digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("int8") / "net.onnx"
    export_int8(network, path, digits)
    return path


def results(file: Path, weights: Path) -> dict[str, Result]:
    """Run the quick cases on a file, in this process."""
    subject = subject_of(str(file), None, str(weights))
    assert subject.int8
    target = LocalTarget(subject.name, spec=subject.spec, weights=weights)
    cases = assigned(subject, data="digits").wanted
    found = {case.id: run_case(case, target, Reference(), diagnosis=False) for case in cases}
    assert set(found) == {"int8/layers", "int8/likeliest-classes"}
    return found


def changed(file: Path, path: Path, name: str, change: Callable[[np.ndarray], np.ndarray]) -> Path:
    """Write a file again with another array."""
    model = onnx.load(file)
    (array,) = (each for each in model.graph.initializer if each.name == name)
    new = change(onnx.numpy_helper.to_array(array))
    array.CopyFrom(onnx.numpy_helper.from_array(new, name))
    onnx.save(model, path)
    return path


def test_what_each_layer_loses_is_told_and_passes(int8: Path, weights: Path) -> None:
    found = results(int8, weights)
    assert {result.status for result in found.values()} == {"passed"}
    classes = found["int8/likeliest-classes"].outcome
    assert classes is not None
    assert "for 100.00% of 128 held-out images" in classes.said
    outcome = found["int8/layers"].outcome
    assert outcome is not None
    names = [layer.name for layer in outcome.layers]
    assert names[0] == "stem.conv"
    assert names[-1] == "classifier"
    assert {"block1.layer2.norm1", "block2.concat2", "transition1.pool"} <= set(names)
    rounded = {layer.name: layer for layer in outcome.layers if ".norm" not in layer.name}
    assert all(0 < layer.mean < 0.2 for layer in rounded.values())
    assert all(layer.own <= 2 * layer.mean for layer in rounded.values())
    norms = [layer for layer in outcome.layers if ".norm" in layer.name]
    assert all(layer.own < 1e-5 < layer.mean for layer in norms)  # they compute in float32


def test_the_layer_that_loses_most_stands_out(int8: Path, weights: Path, tmp_path: Path) -> None:
    name = "block1.layer2.conv1"
    file = changed(int8, tmp_path / "net.onnx", f"{name}.kernel_scale", lambda scale: 1.2 * scale)
    outcome = results(file, weights)["int8/layers"].outcome
    assert outcome is not None
    by_loss = sorted(outcome.layers, key=lambda layer: -layer.own)
    assert by_loss[0].name == name
    assert by_loss[0].own > 3 * by_loss[1].own


def test_other_classes_than_in_full_are_a_failure(
    int8: Path, weights: Path, tmp_path: Path
) -> None:
    name = "classifier.bias_quantized"
    file = changed(int8, tmp_path / "net.onnx", name, np.zeros_like)
    failed = results(file, weights)["int8/likeliest-classes"]
    assert failed.status == "failed"
    assert failed.where == "classifier"
    assert "of 128 held-out images, where 95% are wanted" in failed.message


def test_a_file_in_int8_needs_images_and_no_other_takes_any(
    int8: Path, weights: Path, network: WeightedGraph, tmp_path: Path
) -> None:
    subject = subject_of(str(int8), None, str(weights))
    with pytest.raises(DensespecError, match=r"judged by images like those in use.*--data"):
        assigned(subject)
    with pytest.raises(DensespecError, match="no input size to choose"):
        assigned(subject, size="16", data="digits")
    with pytest.raises(DensespecError, match="only files in int8 are asked about images"):
        assigned(replace(subject, int8=False), data="digits")
    bare = tmp_path / "bare.safetensors"
    write_checkpoint(bare, network.graph, network.arrays, accompaniment=Accompaniment())
    with pytest.raises(DensespecError, match="nothing says what images need"):
        assigned(subject_of(str(int8), None, str(bare)), data="digits")


def test_a_runtime_that_computes_otherwise_when_it_shows_values_is_an_error(weights: Path) -> None:
    graph = lower(SPEC)
    shape = {"stem.conv": (1, 12, 8, 8), "classifier": (1, 10)}

    def show(x: Any, names: Any) -> dict[str, np.ndarray]:
        return {name: np.full(shape[name], 2.0) for name in shape}

    def run(x: Any) -> np.ndarray:
        return np.ones(shape["classifier"])

    backend = ExportedFileBackend("net.xml", SPEC, str(weights))
    backend.program = ExportedProgram(run, "float32", (None, 1, None, None), show=show)
    x = np.zeros((1, 1, 8, 8), np.float32)
    assert set(backend.forward(None, graph, x, ["classifier"])) == {"classifier"}
    with pytest.raises(ExportedFileError, match="a fault of the runtime"):
        backend.forward(None, graph, x, ["stem.conv", "classifier"])
