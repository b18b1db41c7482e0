"""Files that take images and give probabilities, with what their images need inside."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import densespec
from densespec.building import accompanied
from densespec.cli import main
from densespec.deploy.check_images import WidthFirst
from densespec.deploy.onnx_images import IMAGES, ImageNodes
from densespec.deploy.resampling import FILTERS, resampled
from densespec.errors import DensespecError
from densespec.pretrained.accompaniment import Accompaniment
from densespec.pretrained.preprocessing import Preprocessing
from tests.pretrained.publishing_server import LABELS, noisy_image
from tests.strategies import tiny

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")
pytest.importorskip("PIL", reason="Pillow is not installed")

SHAPES = [(427, 640), (103, 81), (50, 33), (31, 200), (64, 64), (9, 9)]
SIZES: list[dict[str, Any]] = [
    {"size": (32, 32), "crop": 0.875},
    {"size": (24, 40), "crop": 0.9},
    {"size": (33, 33)},
    {"size": (20, 30), "resize": "squash"},
]


def prepare_of(channels: int = 3, **said: Any) -> Preprocessing:
    mean, std = (0.485, 0.456, 0.406)[:channels], (0.229, 0.224, 0.225)[:channels]
    return Preprocessing(mean=mean, std=std, **said)


def runner_of(preprocessing: Preprocessing) -> Any:
    """What runs the nodes that prepare images, alone."""
    from onnx import TensorProto, helper

    images = ImageNodes(preprocessing)
    images.prepared("x", np.dtype("float32"))
    shape = ["batch", "height", "width", preprocessing.channels]
    graph = helper.make_graph(
        images.nodes,
        "images",
        [helper.make_tensor_value_info(IMAGES, TensorProto.UINT8, shape)],
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", "c", "h", "w"])],
        images.initializers,
    )
    imports = [helper.make_opsetid("", 13)]
    model = helper.make_model(
        graph, opset_imports=imports, ir_version=helper.find_min_ir_version_for(imports)
    )
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return lambda x: session.run(None, {IMAGES: x})[0]


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "nearest"])
@pytest.mark.parametrize("said", SIZES, ids=str)
def test_images_are_prepared_as_pillow_does_it_by_axes_to_the_bit(
    interpolation: str, said: dict[str, Any]
) -> None:
    preprocessing = prepare_of(interpolation=interpolation, **said)
    run, by_axes = runner_of(preprocessing), WidthFirst(**preprocessing.to_dict())
    for shape in SHAPES:
        images = noisy_image(1, (2, *shape, 3))
        np.testing.assert_array_equal(run(images), by_axes.batch(images))


@pytest.mark.parametrize(
    ("interpolation", "said"),
    [*itertools.product(FILTERS, SIZES), ("nearest", SIZES[-1] | {"crop": 0.875})],
    ids=str,
)
def test_resampling_is_pillows_by_axes_to_the_bit(interpolation: str, said: dict[str, Any]) -> None:
    preprocessing = Preprocessing(mean=(0.0,), std=(1.0,), interpolation=interpolation, **said)
    by_axes = WidthFirst(**preprocessing.to_dict())
    for shape in SHAPES:
        images = noisy_image(1, (2, *shape, 1))
        positions = [np.arange(n, dtype=np.float64) for n in shape]
        pixels = resampled(np, images.astype(np.float64), positions, preprocessing)
        found = pixels.astype(np.float32) / np.float32(255)
        np.testing.assert_array_equal(found, by_axes.batch(images, "channels_last"))


@pytest.mark.parametrize("interpolation", [*FILTERS, "nearest"])
def test_pillow_begins_with_the_width_unless_the_height_loses_twice_as_much(
    interpolation: str,
) -> None:
    preprocessing = prepare_of(size=(32, 32), interpolation=interpolation, resize="squash")
    by_axes = WidthFirst(**preprocessing.to_dict())
    for height, width in [*SHAPES, (200, 31), (90, 60), (33, 32), (30, 400)]:
        image = noisy_image(3, (height, width, 3))
        apart = np.abs(preprocessing(image) - by_axes(image)).max()
        assert not apart or 0 < height - 32 > 2 * (width - 32)


def test_other_kinds_of_resizing_are_refused() -> None:
    with pytest.raises(DensespecError, match="'lanczos' can't be exported"):
        runner_of(prepare_of(size=(8, 8), interpolation="lanczos"))


def model_of(**said: Any) -> Any:
    spec = tiny(classes=5, in_channels=1)
    goes_with = Accompaniment(preprocessing=prepare_of(1, size=(12, 12)), labels=LABELS, **said)
    return accompanied(densespec.build(spec, backend="numpy", seed=3), goes_with)


@pytest.mark.parametrize("outputs", ["softmax", "sigmoid"])
@pytest.mark.parametrize("optimize", [True, False])
def test_a_file_takes_images_and_gives_what_predict_says(
    outputs: str, optimize: bool, tmp_path: Path
) -> None:
    model, path = model_of(outputs=outputs), tmp_path / "net.onnx"
    done = densespec.export(model, path, with_preprocessing=True, optimize=optimize)
    assert done.measured is not None
    assert {shape[-1] for shape in done.measured.shapes} == {1}
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    image = noisy_image(2, (30, 40))
    (probabilities,) = session.run(None, {IMAGES: image[None, :, :, None]})[0]
    (said,) = densespec.predict(model, image)
    for guess in said.guesses:
        assert probabilities[guess.index] == pytest.approx(guess.probability, rel=1e-4)


@pytest.mark.parametrize(("suffix", "package"), [(".pt2", "torch"), (".stablehlo", "jax")])
def test_files_of_every_format_take_images_of_any_size(
    suffix: str, package: str, tmp_path: Path
) -> None:
    pytest.importorskip(package, reason=f"{package} is not installed")
    model = model_of()
    done = densespec.export(model, tmp_path / f"net{suffix}", with_preprocessing=True)
    assert done.measured is not None
    assert done.format.load is not None
    program = done.format.load(done.path)
    assert (program.dtype, program.shape) == ("uint8", (None, None, None, 1))
    images = noisy_image(2, (3, 30, 40, 1))
    given = program.run(images)
    (probabilities,) = (given,) if isinstance(given, np.ndarray) else given
    for row, said in zip(probabilities, densespec.predict(model, list(images)), strict=True):
        for guess in said.guesses:
            assert row[guess.index] == pytest.approx(guess.probability, rel=1e-4)


@pytest.mark.parametrize(("suffix", "package"), [(".pt2", "torch"), (".stablehlo", "jax")])
@pytest.mark.parametrize("interpolation", ["nearest", "bicubic"])
def test_files_prepare_images_as_pillow_does(
    interpolation: str, suffix: str, package: str, tmp_path: Path
) -> None:
    """The check of what was written compares with Pillow: one byte that differs is too much."""
    pytest.importorskip(package, reason=f"{package} is not installed")
    squashed = prepare_of(1, size=(12, 14), interpolation=interpolation, resize="squash")
    model = accompanied(model_of(), Accompaniment(preprocessing=squashed))
    done = densespec.export(model, tmp_path / f"net{suffix}", with_preprocessing=True, batch=1)
    assert done.measured is not None
    assert done.measured.difference < 1e-6


def test_a_program_of_torch_has_the_labels(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    densespec.export(model_of(), tmp_path / "net.pt2", with_preprocessing=True, batch=2)
    texts = {"densespec.labels": "", "densespec.preprocessing": ""}
    torch.export.load(tmp_path / "net.pt2", extra_files=texts)
    assert json.loads(texts["densespec.labels"]) == list(LABELS)
    assert json.loads(texts["densespec.preprocessing"])["size"] == [12, 12]


def test_stablehlo_as_text_has_the_labels_in_comments(tmp_path: Path) -> None:
    pytest.importorskip("jax", reason="JAX is not installed")
    densespec.export(model_of(), tmp_path / "net.mlir", with_preprocessing=True)
    comments = dict(
        line.removeprefix("// ").rstrip().split(": ", 1)
        for line in (tmp_path / "net.mlir").read_text(encoding="utf-8").splitlines()
        if line.startswith("// densespec.")
    )
    assert json.loads(comments["densespec.labels"]) == list(LABELS)


def test_openvino_has_the_labels(tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino", reason="OpenVINO is not installed")
    densespec.export(model_of(), tmp_path / "net.xml")
    found = openvino.Core().read_model(tmp_path / "net.xml").get_rt_info(["densespec", "labels"])
    assert json.loads(found.astype(str)) == list(LABELS)


def test_kinds_of_resizing_that_a_format_can_not_hold_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="PyTorch is not installed")
    model = accompanied(
        model_of(), Accompaniment(preprocessing=prepare_of(1, size=(8, 8), interpolation="nearest"))
    )
    with pytest.raises(DensespecError, match="'nearest' can't be exported in this format: biline"):
        densespec.export(model, tmp_path / "net.pt2", with_preprocessing=True)
    assert not list(tmp_path.iterdir())


def test_what_goes_with_the_weights_is_in_the_metadata(tmp_path: Path) -> None:
    for path, options in (("a.onnx", {"with_preprocessing": True}), ("b.onnx", {})):
        densespec.export(model_of(), tmp_path / path, **options)
        found = {entry.key: entry.value for entry in onnx.load(tmp_path / path).metadata_props}
        assert json.loads(found["densespec.labels"]) == list(LABELS)
        assert json.loads(found["densespec.preprocessing"])["size"] == [12, 12]


def test_what_can_not_be_is_refused(tmp_path: Path) -> None:
    unknown = densespec.build(tiny(), backend="numpy")
    with pytest.raises(DensespecError, match="nothing says what images need before this network"):
        densespec.export(unknown, tmp_path / "net.onnx", with_preprocessing=True)
    with pytest.raises(ValueError, match="takes images of any size, so give no size"):
        densespec.export(model_of(), tmp_path / "a.onnx", with_preprocessing=True, size=(8, 8))
    assert not list(tmp_path.iterdir())


def test_a_format_that_takes_no_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"OpenVINO IR can't hold it; .*ONNX.* can$"):
        densespec.export(model_of(), tmp_path / "net.xml", with_preprocessing=True)
    assert not list(tmp_path.iterdir())


def test_the_command_says_that_it_takes_images(tmp_path: Path) -> None:
    net = tmp_path / "net.safetensors"
    densespec.save(model_of(), net)
    arguments = ["export", str(net), "-o", str(tmp_path / "net.onnx"), "--with-preprocessing"]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.output
    assert "input   uint8 batch x height x width x 1" in done.stdout
    assert "output  float32 batch x 5" in done.stdout
