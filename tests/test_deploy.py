"""Exported networks: what the files compute, and what is refused."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import densespec
from densespec.cli import main
from densespec.deploy import WantedEnds, WeightedGraph, check, export, network_of
from densespec.deploy.check import TOLERANCES, WrongExport
from densespec.deploy.formats import ExportFormat, format_of, formats
from densespec.deploy.network import ExportOptions, optimized, smallest_size
from densespec.deploy.placing import placed
from densespec.errors import (
    DensespecError,
    PackageMissing,
    SpecError,
    UnknownName,
    WeightsError,
)
from densespec.network.files import spec_from_json
from densespec.network.graph import Graph, lower
from densespec.network.ops import BatchNorm
from densespec.reference.model import ReferenceModel
from densespec.weights.checkpoint import write_checkpoint
from densespec_conformance.asking.questions import images, random_weights, with_variances
from densespec_conformance.cases.forward import ROWS, SMALL, ForwardRow
from tests.publishing import publish

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")

SMALLEST = {"blocks": (1, 1), "growth_rate": 2, "stem_width": 4}

every_row = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)


def network(row: ForwardRow = ROWS[0], **options: Any) -> WeightedGraph:
    """A row's network with every array random."""
    size = None if row.any_size else row.size
    graph = lower(row.spec, size, **(dict(row.options) | options))
    return WeightedGraph(graph, with_variances(random_weights(graph, row.name), row.variance))


def run(path: Path, x: np.ndarray) -> np.ndarray:
    """The output of an ONNX file in ONNX Runtime."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {"input": x})
    return output


def apart(actual: np.ndarray, expected: np.ndarray) -> float:
    assert actual.shape == expected.shape
    return float(np.abs(actual - expected).max() / np.abs(expected).max())


@pytest.fixture
def net(tmp_path: Path) -> Path:
    """A checkpoint of a small network."""
    path = tmp_path / "net.safetensors"
    found = network()
    arrays = {name: array.astype(np.float32) for name, array in found.arrays.items()}
    write_checkpoint(path, found.graph, arrays)
    return path


def command(*arguments: str | Path) -> str:
    """What ``densespec export`` prints."""
    result = CliRunner().invoke(main, ["export", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    return result.stdout


def failure(*arguments: str | Path) -> str:
    """What ``densespec export`` says when it fails: one line."""
    result = CliRunner().invoke(main, ["export", *map(str, arguments)])
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    return result.stderr.removeprefix("error: ").rstrip("\n")


# What files compute


@every_row
def test_every_value_of_an_onnx_file_is_the_reference_s(row: ForwardRow) -> None:
    """In float64, in ONNX's own evaluator, with numbers that are float32, as ONNX has them."""
    from onnx.reference import ReferenceEvaluator

    from densespec.deploy.onnx import proto

    if row.name == "one-dimension-blurs":
        pytest.skip("the evaluator has one place too few for what this row's pool gives")

    numbers = ("batch_norm_epsilon", "activation_slope")
    rounded = {name: float(np.float32(getattr(row.spec, name))) for name in numbers}
    found = network(replace(row, changes={**row.changes, **rounded}))
    names = [node.name for node in found.graph.nodes[1:]]
    model = proto(found.graph, found.arrays, dtype="float64")
    model.graph.output.extend(value for value in model.graph.value_info)
    x = images(row.spec, row.size, 2, row.name)
    outputs = [value.name for value in model.graph.output]
    values = dict(zip(outputs, ReferenceEvaluator(model).run(None, {"input": x}), strict=True))
    expected = ReferenceModel(found.graph, found.arrays).run(x, taps=names)
    limit = 1e-6 if row.spec.activation == "gelu" else 1e-10  # its error function is a float32
    assert {name for name in names if apart(values[name], expected[name]) > limit} == set()


@pytest.mark.parametrize("optimize", [True, False], ids=["optimized", "as-it-is"])
@every_row
def test_onnx_runtime_gives_what_the_reference_does(
    row: ForwardRow, optimize: bool, tmp_path: Path
) -> None:
    found = network(row)
    export(found, tmp_path / "net.onnx", optimize=optimize, check=False)
    x = images(row.spec, row.size, 2, row.name).astype(np.float32)
    expected = ReferenceModel(found.graph, found.arrays)(x.astype(np.float64))
    assert apart(run(tmp_path / "net.onnx", x), expected) <= 2e-6


@every_row
def test_an_optimized_network_has_no_norm_that_could_be_folded(row: ForwardRow) -> None:
    found = network(row)
    graph, arrays = optimized(found.graph, found.arrays)
    norms = {node.name for node in graph.nodes if isinstance(node.op, BatchNorm)}
    assert not any(name.endswith("norm2") for name in norms)
    x = images(row.spec, row.size, 1, row.name)
    expected = ReferenceModel(found.graph, found.arrays)(x)
    assert apart(ReferenceModel(graph, arrays)(x), expected) < 1e-12


def test_a_file_for_any_size_takes_every_size_and_batch(tmp_path: Path) -> None:
    found = network(ForwardRow("same", {"padding": "same"}, any_size=True))
    export(found, tmp_path / "net.onnx")
    reference = ReferenceModel(found.graph, found.arrays)
    for batch, height in enumerate(range(33, 45), start=1):
        x = images(SMALL, (height, 77 - height), batch, "any").astype(np.float32)
        assert apart(run(tmp_path / "net.onnx", x), reference(x.astype(np.float64))) < 2e-6


def test_a_fixed_size_and_batch_stand_in_the_file(tmp_path: Path) -> None:
    export(network(), tmp_path / "net.onnx", size=(40, 36), batch=3)
    (value,) = onnx.load(tmp_path / "net.onnx").graph.input
    assert [d.dim_value for d in value.type.tensor_type.shape.dim] == [3, 3, 40, 36]


def test_float16_is_as_near_as_float16_can_be(tmp_path: Path) -> None:
    tiny_variances = ForwardRow("variances-as-small-as-epsilon", variance=1e-5)
    done = export(network(tiny_variances), tmp_path / "net.onnx", dtype="float16")
    assert done.measured is not None
    assert 1e-6 < done.measured.difference < TOLERANCES["float16"]
    assert {array.data_type for array in onnx.load(done.path).graph.initializer} == {
        onnx.TensorProto.FLOAT16
    }


@pytest.mark.parametrize("opset", [13, 25])
def test_the_first_and_the_last_opset_run(opset: int, tmp_path: Path) -> None:
    for name, options in (("top", {}), ("max", {"include_top": False, "pooling": "max"})):
        row = ForwardRow(name, {"padding": "same"}, options=options, any_size=True)
        export(network(row), tmp_path / "net.onnx", opset=opset, optimize=False)
    assert onnx.load(tmp_path / "net.onnx").opset_import[0].version == opset


def test_another_opset_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="opset = 12, but should be from 13 to 25"):
        export(network(), tmp_path / "net.onnx", opset=12)


# What files say


def test_a_file_is_the_same_bytes_whatever_it_came_from(net: Path, tmp_path: Path) -> None:
    torchvision = tmp_path / "theirs.safetensors"
    densespec.convert(net, torchvision, to_layout="torchvision")
    built = densespec.build(weights=net, backend="numpy", dtype="float32")
    for name, source in {"ours": net, "theirs": torchvision, "built": built}.items():
        options = {"spec": SMALL} if source is torchvision else {}
        densespec.export(source, tmp_path / f"{name}.onnx", **options)
    files = {(tmp_path / f"{name}.onnx").read_bytes() for name in ("ours", "theirs", "built")}
    assert len(files) == 1


def test_an_onnx_file_says_what_it_is(net: Path, tmp_path: Path) -> None:
    export(net, tmp_path / "net.onnx", optimize=False)
    model = onnx.load(tmp_path / "net.onnx")
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert spec_from_json(metadata["densespec.spec"]) == SMALL
    assert (model.producer_name, model.producer_version) == ("densespec", densespec.__version__)
    graph = lower(SMALL)
    assert [array.name for array in model.graph.initializer] == [w.name for w in graph.weights]
    assert {node.output[0] for node in model.graph.node} >= {n.name for n in graph.nodes[1:]}
    assert [d.dim_param for d in model.graph.input[0].type.tensor_type.shape.dim] == [
        "batch",
        "",
        "height",
        "width",
    ]


def test_an_optimized_file_keeps_the_names_of_arrays_it_did_not_change(
    net: Path, tmp_path: Path
) -> None:
    export(net, tmp_path / "net.onnx")
    arrays = {array.name for array in onnx.load(tmp_path / "net.onnx").graph.initializer}
    assert "block1.layer1.norm1.running_mean" in arrays
    assert "block1.layer1.norm2.kernel" in arrays
    assert "block1.layer1.conv1.kernel" not in arrays


# What is exported


def test_probabilities_and_features_of_a_file_with_a_classifier(net: Path, tmp_path: Path) -> None:
    x = images(SMALL, (32, 32), 2, "ends").astype(np.float32)
    export(net, tmp_path / "softmax.onnx", softmax=True)
    assert run(tmp_path / "softmax.onnx", x).sum(1) == pytest.approx([1, 1])
    export(net, tmp_path / "features.onnx", include_top=False)
    assert run(tmp_path / "features.onnx", x).shape == (2, 20, 4, 4)
    export(net, tmp_path / "pooled.onnx", include_top=False, pooling="max")
    assert run(tmp_path / "pooled.onnx", x).shape == (2, 20)


@pytest.mark.parametrize("row", [row for row in ROWS if row.options], ids=lambda row: row.name)
def test_a_built_model_is_exported_as_it_ends(row: ForwardRow) -> None:
    graph = lower(row.spec, row.size, **row.options)
    model = densespec.build(row.spec, backend="numpy", input_shape=(3, *row.size), **row.options)
    assert network_of(model, WantedEnds()).graph == graph


def test_a_classifier_that_is_not_there_can_t_be_exported(tmp_path: Path) -> None:
    headless = network(include_top=False)
    with pytest.raises(WeightsError, match=r"classifier\.kernel is missing"):
        export(headless, tmp_path / "net.onnx", include_top=True)


def test_a_spec_alone_has_no_weights(tmp_path: Path) -> None:
    with pytest.raises(DensespecError, match="densenet121 is a spec, which has no weights"):
        export("densenet121", tmp_path / "net.onnx")


def test_a_network_that_needs_large_inputs_is_checked_on_such(tmp_path: Path) -> None:
    found = network(ForwardRow("deep", {"blocks": (1,) * 6}, (125, 125), any_size=True))
    done = export(found, tmp_path / "net.onnx")
    assert done.measured is not None
    assert done.measured.shapes == ((2, 3, 125, 125), (1, 3, 125, 125))


def test_the_smallest_size_is_one_of_which_something_is_left() -> None:
    graph = lower(SMALL)
    least = smallest_size(graph)
    assert lower(SMALL, (least, least)).output.shape == (5,)
    with pytest.raises(SpecError):
        lower(SMALL, (least - 1, least - 1))


# What is refused


def wrong(graph: Any, arrays: Any, **options: Any) -> Any:
    """A rewriting with one bias a little off."""
    graph, arrays = optimized(graph, arrays, **options)
    return graph, arrays | {"classifier.bias": arrays["classifier.bias"] + 1e-3}


def test_a_file_that_computes_something_else_does_not_take_its_place(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "net.onnx"
    path.write_text("the old file")
    monkeypatch.setattr("densespec.deploy.onnx.optimized", wrong)
    with pytest.raises(WrongExport, match=r"differs from the reference by .* nothing was written"):
        export(network(), path)
    assert path.read_text() == "the old file"
    assert [entry.name for entry in tmp_path.iterdir()] == ["net.onnx"]
    export(network(), path, check=False)
    assert path.stat().st_size > 1000


def test_numbers_that_are_none_are_refused(tmp_path: Path) -> None:
    found = network()
    found.arrays["classifier.bias"][0] = np.nan
    with pytest.raises(WrongExport, match="by nan"):
        export(found, tmp_path / "net.onnx")


def test_of_a_large_batch_the_first_samples_are_compared_and_all_are_run() -> None:
    found, options = network(), ExportOptions(batch=5)
    reference = ReferenceModel(found.graph, found.arrays)
    assert check.measure(reference, found, options).shapes == ((5, 3, 32, 32),)
    with pytest.raises(WrongExport, match=r"gives \(2, 5\), but should give \(5, 5\)"):
        check.measure(lambda x: reference(x[:2]), found, options)


def test_another_shape_is_refused() -> None:
    found = network()
    with pytest.raises(WrongExport, match=r"gives \(2, 7\), but should give \(2, 5\)"):
        check.measure(lambda x: np.zeros((2, 7)), found, ExportOptions())


@pytest.mark.parametrize(
    ("path", "name", "found"),
    [
        ("net.onnx", None, "onnx"),
        ("net.pt2", None, "torch-export"),
        ("net", None, "saved-model"),
        ("net.stablehlo", None, "jax-export"),
        ("net.mlir", None, "mlir"),
        ("net.bin", "onnx", "onnx"),
        ("serving/1.2", "saved-model", "saved-model"),
    ],
)
def test_the_format_goes_by_the_suffix_or_its_name(path: str, name: str | None, found: str) -> None:
    assert format_of(Path(path), name).name == found


def test_an_unknown_format_is_answered_with_those_there_are() -> None:
    with pytest.raises(
        DensespecError, match=r"suffix '.mlmodel'. Known: .*, \.onnx \(onnx\), .*none"
    ):
        format_of(Path("net.mlmodel"), None)
    with pytest.raises(UnknownName, match=r"unknown format 'onx'\. Did you mean onnx\?"):
        format_of(Path("net"), "onx")


def theirs(name: str, **changes: Any) -> ExportFormat:
    """A format of another package, which writes arrays as numpy does and runs the reference."""

    def write(graph: Graph, arrays: Any, path: Path, options: ExportOptions) -> Any:
        np.savez(path.open("wb"), **arrays)
        return lambda: ReferenceModel(graph, dict(np.load(path)))

    known = ExportFormat(name, "numpy's archive", (".theirs",), write, (), "numpy", "all")
    return replace(known, **changes)


def test_a_package_can_publish_a_format_of_its_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    publish(monkeypatch, "densespec.formats", theirs=theirs("theirs"))
    done = export(network(), tmp_path / "net.theirs")
    assert done.format.name == "theirs"
    assert done.measured is not None
    assert "classifier.kernel" in np.load(done.path)


def test_where_several_formats_fit_one_has_to_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    both = {name: theirs(name, suffixes=(".onnx",)) for name in ("first", "second")}
    publish(monkeypatch, "densespec.formats", **both)
    with pytest.raises(DensespecError, match="may be first or onnx or second: name the format"):
        format_of(Path("net.onnx"), None)
    assert format_of(Path("net.onnx"), "second").name == "second"


def test_formats_are_published_under_their_names_and_import_no_framework() -> None:
    code = (
        "import sys\n"
        "from densespec.deploy.formats import formats\n"
        "assert all(name == each.name for name, each in formats().items())\n"
        "assert not {'torch', 'keras', 'tensorflow', 'jax', 'onnx'} & set(sys.modules)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("name", [name for name, each in formats().items() if each.packages])
def test_a_missing_package_is_named_with_its_extra(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    chosen = formats()[name]
    with pytest.raises(PackageMissing, match=rf"pip install 'densespec\[{chosen.extra}\]'"):
        chosen.require_packages()


def test_without_a_runtime_the_file_is_written_unchecked(
    net: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else found(name)
    )
    done = export(net, tmp_path / "net.onnx")
    assert done.measured is None
    assert done.unchecked == (
        "the check needs the package 'onnxruntime', which is not installed: "
        "pip install 'densespec[onnx]'"
    )
    assert done.path.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "bfloat16"}, "dtype = 'bfloat16', but ONNX is written in float32 or float16"),
        ({"batch": 0}, "batch = 0, but should be at least 1"),
        ({"format": "mlir", "opset": 17}, "StableHLO text has no opsets"),
        ({"size": (32,)}, "input size = (32,), but should be 2 positive sizes"),
        ({"pooling": "avg"}, "pooling is for include_top=False"),
        ({"softmax": True, "include_top": False}, "classifier_activation needs include_top=True"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        export(network(), tmp_path / "net.onnx", **options)
    assert list(tmp_path.iterdir()) == []


# Folders


def place_and_fail(target: Path) -> None:
    with placed(target, formats()["saved-model"]) as temporary:
        (temporary / "saved_model.pb").write_text("third")
        temporary.mkdir()


def test_a_folder_takes_the_place_of_an_older_one_whole(tmp_path: Path) -> None:
    target, chosen = tmp_path / "net", formats()["saved-model"]
    for content in ("first", "second"):
        with placed(target, chosen) as temporary:
            (temporary / "saved_model.pb").write_text(content)
            (temporary / content).touch()
    assert {file.name for file in target.iterdir()} == {"saved_model.pb", "second"}
    with pytest.raises(FileExistsError):
        place_and_fail(target)
    assert (target / "saved_model.pb").read_text() == "second"
    assert [entry.name for entry in tmp_path.iterdir()] == ["net"]


def test_a_folder_with_something_else_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").touch()
    with (
        pytest.raises(DensespecError, match="is there and no TensorFlow SavedModel"),
        placed(tmp_path, formats()["saved-model"]),
    ):
        pass
    assert (tmp_path / "photo.jpg").exists()


# torch.export


@pytest.mark.parametrize("optimize", [True, False], ids=["optimized", "as-it-is"])
def test_a_torch_program_takes_any_batch_and_size(optimize: bool, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    found = network(ForwardRow("any", any_size=True))
    export(found, tmp_path / "net.pt2", optimize=optimize)
    program = torch.export.load(tmp_path / "net.pt2").module()
    reference = ReferenceModel(found.graph, found.arrays)
    for shape in ((1, 3, 40, 40), (5, 3, 33, 58)):
        x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
        assert (
            apart(program(torch.from_numpy(x)).detach().numpy(), reference(x.astype(float))) < 2e-6
        )


PROGRAMS = {
    "a line": ({"spatial_dims": 1}, [(1,), (2,), (33,), (64,)]),
    "a line with padding 'same'": ({"spatial_dims": 1, "padding": "same"}, [(1,), (2,), (40,)]),
    "an image": ({}, [(1, 1), (1, 9), (32, 32), (40, 100)]),
    "a volume": ({"spatial_dims": 3}, [(0, 0, 0), (0, 9, 3)]),
}
"""Changes of a spec, and sizes above the least one that a program of it has to take."""


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_torch_program_takes_every_size_from_the_least_on(name: str, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    from densespec_torch.exporting import least_size

    changes, sizes = PROGRAMS[name]
    found = network(ForwardRow("small", {**SMALLEST, **changes}, any_size=True))
    done = export(found, tmp_path / "net.pt2")
    least, dims = least_size(found.graph), found.graph.spatial_dims
    assert least == smallest_size(found.graph) or dims == 3
    assert done.measured is not None
    assert {(1, 3, *(least,) * dims), (2, 3, *(least,) * dims)} <= {*done.measured.shapes}
    program = torch.export.load(tmp_path / "net.pt2").module()
    reference = ReferenceModel(found.graph, found.arrays)
    for batch, more in enumerate([(0,) * dims, *sizes], start=1):
        shape = (batch, 3, *(least + n for n in more))
        x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
        outputs = program(torch.from_numpy(x)).detach().numpy()
        assert apart(outputs, reference(x.astype(float))) < 2e-6
    if dims == 3:
        with pytest.raises(AssertionError, match=f">= {least}"):
            program(torch.zeros(1, 3, *(least - 1,) * dims))


def test_a_file_that_can_t_be_run_is_refused_in_one_line() -> None:
    def fails(x: np.ndarray) -> np.ndarray:
        raise RuntimeError("Guard failed\nand more")

    with pytest.raises(WrongExport, match=r"does not run on an input .*: Guard failed: nothing"):
        check.measure(fails, network(), ExportOptions())


# The command and the page


@pytest.mark.parametrize("chosen", formats().values(), ids=formats())
def test_the_page_lists_every_format(chosen: ExportFormat) -> None:
    page = (Path(__file__).parents[1] / "docs" / "deploy.md").read_text(encoding="utf-8")
    (row,) = (line for line in page.splitlines() if f"| `{chosen.name}` |" in line)
    first = f"`{chosen.suffixes[0]}`" if chosen.marker is None else "none: a folder"
    assert row.startswith(f"| {first} |")
    needs = f"`densespec[{chosen.extra}]`" if chosen.packages else "nothing"
    assert row.endswith(f"| {needs} | {chosen.layout} |")


def test_the_command_says_what_it_wrote_and_measured(net: Path, tmp_path: Path) -> None:
    written, first, last, checked = command(net, "-o", tmp_path / "net.onnx").splitlines()
    assert written == f"written {tmp_path / 'net.onnx'}: ONNX, 0.0 MiB"
    assert first == "input   float32 batch x 3 x height x width"
    assert last == "output  float32 batch x 5"
    assert checked.startswith("checked on 2x3x64x64, 1x3x61x75, 1x3x5x5 and 2x3x5x5")
    assert ": largest difference " in checked


def test_the_command_prints_json(net: Path, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    options = ["--size", "32x48", "--batch", "2", "--no-top", "--no-check", "--no-optimize"]
    record = json.loads(command(net, "-o", path, *options, "--json"))
    assert record == {
        "path": str(path),
        "format": "onnx",
        "bytes": path.stat().st_size,
        "dtype": "float32",
        "prepares_images": False,
        "optimized": False,
        "input": [2, 3, 32, 48],
        "outputs": [{"name": "final.relu", "shape": [2, 20, 4, 6]}],
        "difference": None,
        "checked_on": None,
        "unchecked": None,
    }


def test_the_command_exports_initial_weights_where_a_seed_is_given(tmp_path: Path) -> None:
    command("densenet-40-12", "--seed", "3", "-o", tmp_path / "a.onnx", "--no-check")
    model = densespec.build("densenet-40-12", backend="numpy", dtype="float32", seed=3)
    densespec.export(model, tmp_path / "b.onnx", check=False)
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_the_command_fails_in_one_line(net: Path, tmp_path: Path) -> None:
    assert "which has no weights" in failure("densenet121", "-o", tmp_path / "net.onnx")
    assert "no format is known by the suffix '.mlmodel'" in failure(net, "-o", "net.mlmodel")
    assert "no folder" in failure(net, "-o", tmp_path / "absent" / "net.onnx")
