"""Exports in int8: what is kept, what is compared, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from densespec.cli import main
from densespec.data import DataError, Dataset
from densespec.data.sources import load
from densespec.deploy import export
from densespec.deploy.network import ExportedProgram, WeightedGraph
from densespec.errors import DensespecError
from densespec.network.graph import lower
from densespec.network.initial import initial_weights
from densespec.network.spec import DenseNetSpec
from densespec.pretrained.accompaniment import Accompaniment
from densespec.pretrained.preprocessing import Preprocessing
from densespec.quantizing import export_int8
from densespec.quantizing.calibration import images_of
from densespec.quantizing.comparing import Int8Disagrees, compare
from densespec.training.bequest import bequest_of
from densespec.weights.checkpoint import write_checkpoint
from densespec.weights.reading import ReadingOptions

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")
pytest.importorskip("sklearn", reason="scikit-learn is not installed")

SPEC = DenseNetSpec(blocks=(2, 2), growth_rate=6, classes=10, in_channels=1)


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load("digits", channels=1)


def network(digits: Dataset) -> WeightedGraph:
    """A network of initial weights, whose statistics are those of the digits."""
    graph = lower(SPEC, (8, 8))
    kept = bequest_of(digits, graph, None, ReadingOptions())
    return WeightedGraph(lower(SPEC), initial_weights(graph, 0), accompaniment=kept)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The weights of a run on the digits."""
    pytest.importorskip("torch", reason="PyTorch is not installed")
    folder = tmp_path_factory.mktemp("runs") / "digits"
    spec = folder.parent / "net.toml"
    spec.write_text("blocks = [2, 2]\ngrowth_rate = 6\nclasses = 10\nin_channels = 1\n")
    arguments = ["train", spec, "--backend", "torch.nn+fast", "--epochs", 12, "--out", folder]
    result = CliRunner().invoke(main, list(map(str, arguments)))
    assert result.exit_code == 0, result.output
    return folder / "best.safetensors"


def command(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["export", *map(str, arguments)])


def test_a_trained_network_keeps_its_accuracy(trained: Path, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    result = command(trained, "-o", path, "--int8", "--calibrate", "digits", "--json")
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    check_kept(record)
    assert record["bytes"] < record["float32"]["bytes"]
    assert path.is_file()


def check_kept(record: Any) -> None:
    """Check that a network that was trained on the digits is as accurate in int8."""
    compared = record["compared"]
    full, int8 = compared["accuracy"]
    assert full > 0.95
    assert abs(full - int8) <= 0.005
    assert compared["agreement"] >= 0.99
    assert 0 < compared["mean"] < compared["largest"] < 0.2
    assert compared["count"] == 352  # whole batches of 359 images
    assert set(compared["seconds"]) == {"1", "8"}


def test_the_text_says_how_far_and_how_fast(trained: Path, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    arguments = ("--int8", "--calibrate", "digits", "--batch", "4", "--size", "8x8")
    said = command(trained, "-o", path, *arguments).stdout
    assert "ONNX in int8" in said
    assert "likeliest class" in said
    assert "of the classes are right in float32" in said
    assert "batch 4: " in said
    assert "batch 1: " not in said


def test_convolutions_and_dense_layers_alone_are_in_int8(digits: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    export_int8(network(digits), path, digits, least_agreement=0)
    graph = onnx.load(path).graph
    made = {output: node for node in graph.node for output in node.output}
    kinds = {"Conv", "Gemm"}
    for node in graph.node:
        feeding = [made[name].op_type for name in node.input[:2] if name in made]
        if node.op_type in kinds:
            assert feeding == ["DequantizeLinear"] * 2
    scales = {array.name: array.dims for array in graph.initializer}
    by_channel = [dims for name, dims in scales.items() if name.endswith("kernel_scale")]
    assert len(by_channel) == sum(node.op_type in kinds for node in graph.node)
    assert all(len(dims) == 1 for dims in by_channel)
    texts = {text.key for text in onnx.load(path).metadata_props}
    assert {"densespec.spec", "densespec.labels", "densespec.preprocessing"} <= texts


def test_too_little_agreement_is_refused_with_the_figures(digits: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(b"as it was")
    with pytest.raises(Int8Disagrees, match=r"for \d+\.\d\d% of 352 held-out images, where") as it:
        export_int8(network(digits), path, digits, least_agreement=1.01)
    assert path.read_bytes() == b"as it was"
    assert it.value.comparison.count == 352


def test_images_are_prepared_inside_of_files_too(trained: Path, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    arguments = ("--int8", "--calibrate", "digits", "--with-preprocessing", "--json")
    result = command(trained, "-o", path, *arguments)
    assert result.exit_code == 0, result.output
    compared = json.loads(result.stdout)["compared"]
    assert compared["accuracy"][1] > 0.95
    assert compared["count"] == 359


def test_figures_are_those_of_the_outputs(digits: Dataset) -> None:
    """Of 16 images the second program chooses another class for 4."""
    eye = np.eye(10, dtype=np.float32)

    def full(x: np.ndarray) -> np.ndarray:
        return np.repeat(2 * eye[:1], len(x), axis=0)

    def int8(x: np.ndarray) -> np.ndarray:
        y = full(x)
        y[: len(y) // 4] = 3 * eye[1]
        return y

    def program(run: Any) -> ExportedProgram:
        return ExportedProgram(run, "float32", (None, 1, 8, 8))

    images = images_of(digits, network(digits).accompaniment)
    found = compare(program(full), program(int8), images, 16)
    assert found.count == 16
    assert found.agreement == 0.75
    assert found.largest == 1.5
    assert found.mean == pytest.approx(4 * (2 + 3) / 2 / 160)
    right = [label for _, labels in images.labelled("test", 16) for label in labels]
    assert found.accuracy is not None
    assert found.accuracy[0] == pytest.approx(np.mean(np.array(right) == 0))


def test_what_cannot_be_calibrated_is_refused(digits: Dataset, tmp_path: Path) -> None:
    known = network(digits)
    path = tmp_path / "net.onnx"
    bare = WeightedGraph(known.graph, known.arrays)
    with pytest.raises(DensespecError, match="nothing says what images need"):
        export_int8(bare, path, digits)
    headless = WeightedGraph(
        lower(SPEC, include_top=False), known.arrays, accompaniment=known.accompaniment
    )
    with pytest.raises(DensespecError, match="int8 is judged by the likeliest classes"):
        export_int8(headless, path, digits)
    colour = Accompaniment(
        preprocessing=Preprocessing(mean=(0.5,) * 3, std=(0.5,) * 3, size=(8, 8))
    )
    with pytest.raises(DataError, match="have 1 channels, but the network takes 3"):
        images_of(digits, colour)
    with pytest.raises(DensespecError, match=r"has no int8 here, but these have: LiteRT, ONNX, "):
        export_int8(known, tmp_path / "net.stablehlo", digits)


def test_options_that_int8_has_no_use_for_are_refused(digits: Dataset, tmp_path: Path) -> None:
    graph = lower(SPEC)
    net = tmp_path / "net.safetensors"
    write_checkpoint(net, graph, initial_weights(graph, 0))
    start = (net, "-o", tmp_path / "net.onnx")
    assert "--int8 and --calibrate go together" in command(*start, "--int8").stderr
    both = (*start, "--int8", "--calibrate", "digits")
    for option in (["--dtype", "float16"], ["--no-top"], ["--no-optimize"], ["--no-check"]):
        assert "--int8 does not go with --" in command(*both, *option).stderr


def test_the_float_file_is_that_of_export(digits: Dataset, tmp_path: Path) -> None:
    done = export_int8(network(digits), tmp_path / "net.onnx", digits, least_agreement=0)
    plain = export(network(digits), tmp_path / "plain.onnx")
    assert done.full.bytes == plain.bytes
    assert done.full.measured == plain.measured
