"""Exported cases can be used without densespec: by a reader in plain numpy, and in JavaScript."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from densespec_conformance.cases import all_cases
from densespec_conformance.export import ExportError, export_cases

Array = np.ndarray

ROOT = Path(__file__).parents[2]
FORWARD = (
    "forward/torchvision-stem",
    "forward/same-padding-odd-size",
    "forward/convolutions-with-bias",
    "forward/three-dimensions",
    "forward/softmax",
    "forward/features-maximum",
    "bfloat16/torchvision-stem",
)
TRAINING = ("training/learning-rate-drop", "training/given-dropout-masks")
OTHERS = ("initial/same-bits-in-float32", "structure/densenet-40-12")
CASES = {case.id: case for case in all_cases()}

NODE = shutil.which("node")
needs_node = pytest.mark.skipif(NODE is None, reason="Node.js is not installed")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "cases"
    export_cases(folder, [CASES[name] for name in (*FORWARD, *TRAINING, *OTHERS)])
    return folder


def read_json(path: Path) -> Any:
    return json.loads(path.read_bytes())


def read_tensors(path: Path) -> dict[str, Array]:
    """A safetensors file, by its published layout."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    dtypes = {"F64": "<f8", "F32": "<f4", "I64": "<i8", "U8": "u1"}
    tensors = {}
    for name, entry in json.loads(data[8 : 8 + length]).items():
        elements = data[8 + length :][slice(*entry["data_offsets"])]
        tensors[name] = np.frombuffer(elements, dtypes[entry["dtype"]]).reshape(entry["shape"])
    return tensors


def windows(x: Array, node: dict[str, Any], padding: Any, value: float) -> Array:
    """[batch, channels, *positions, *window] of a sliding window."""
    padded = np.pad(x, ((0, 0), (0, 0), *padding), constant_values=value)
    axes = tuple(range(2, x.ndim))
    view = np.lib.stride_tricks.sliding_window_view(padded, node["window"], axes)
    return view[(slice(None), slice(None), *[slice(None, None, node["stride"])] * len(axes))]


def along(vector: Array, x: Array) -> Array:
    return vector.reshape(1, -1, *[1] * (x.ndim - 2))


def convolve(node: dict[str, Any], w: dict[str, Array], x: Array) -> Array:
    view = windows(x, node, node["padding"], 0.0)
    dims = range(1, x.ndim - 1)
    y = np.tensordot(view, w["kernel"], ([1, *last(view)], [1, *(1 + dim for dim in dims)]))
    y = np.moveaxis(y, -1, 1)
    return y + along(w["bias"], y) if node["bias"] else y


def normalise(node: dict[str, Any], w: dict[str, Array], x: Array) -> Array:
    deviation = np.sqrt(w["running_variance"] + node["epsilon"])
    normal = (x - along(w["running_mean"], x)) / along(deviation, x)
    return along(w["gamma"], x) * normal + along(w["beta"], x)


def softmax(node: dict[str, Any], w: dict[str, Array], x: Array) -> Array:
    grown = np.exp(x - x.max(1, keepdims=True))
    return grown / grown.sum(1, keepdims=True)


def last(x: Array) -> tuple[int, ...]:
    """The axes of the window in what ``windows`` gives."""
    return tuple(range(x.ndim - (x.ndim - 2) // 2, x.ndim))


def max_pool(node: dict[str, Any], w: dict[str, Array], x: Array) -> Array:
    view = windows(x, node, node["padding"], -np.inf)
    return view.max(last(view))


def avg_pool(node: dict[str, Any], w: dict[str, Array], x: Array) -> Array:
    view = windows(x, node, [(0, 0)] * (x.ndim - 2), 0.0)
    return view.mean(last(view))


def blur_pool(node: dict[str, Any], w: dict[str, Array], x: Array) -> Array:
    sides = [((width - 1) // 2,) * 2 for width in node["window"]]
    mirrored = np.pad(x, ((0, 0), (0, 0), *sides), mode="reflect")
    view = windows(mirrored, node, [(0, 0)] * (x.ndim - 2), 0.0)
    factors = np.ones(())
    for width in node["window"]:
        factors = np.multiply.outer(factors, np.poly1d([0.5, 0.5]).__pow__(width - 1).coeffs)
    return np.asarray((view * factors).sum(last(view)))


def global_pool(node: dict[str, Any], w: dict[str, Array], x: Array) -> Array:
    axes = tuple(range(2, x.ndim))
    mean, maximum = x.mean(axes), x.max(axes)
    if node["kind"] == "catavgmax":
        return np.concatenate((mean, maximum), 1)
    return {"avg": mean, "max": maximum, "avgmax": (mean + maximum) / 2}[node["kind"]]


OPS: dict[str, Callable[..., Array]] = {
    "Conv": convolve,
    "BatchNorm": normalise,
    "Relu": lambda node, w, x: np.maximum(x, 0),
    "Dropout": lambda node, w, x: x,
    "Concat": lambda node, w, *xs: np.concatenate(xs, 1),
    "MaxPool": max_pool,
    "AvgPool": avg_pool,
    "BlurPool": blur_pool,
    "GlobalPool": global_pool,
    "Dense": lambda node, w, x: x @ w["kernel"].T + (w["bias"] if node["bias"] else 0),
    "Softmax": softmax,
    "Sigmoid": lambda node, w, x: 1 / (1 + np.exp(-x)),
}


def differences(folder: Path) -> list[str]:
    """The nodes of a forward question whose values are not within their bounds."""
    weights = read_tensors(folder / "weights.safetensors")
    expected = read_tensors(folder / "expected.safetensors")
    bounds = read_json(folder / "bounds.json")["relative"]
    values: dict[str, Array] = {}
    wrong = []
    for node in read_json(folder / "graph.json")["nodes"]:
        if node["op"] == "Input":
            values[node["name"]] = read_tensors(folder / "inputs.safetensors")["x"]
            continue
        own = {short: weights[name] for short, name in node["weights"].items()}
        y = OPS[node["op"]](node, own, *(values[name] for name in node["inputs"]))
        values[node["name"]] = y
        wanted = expected[node["name"]]
        assert y.shape == wanted.shape
        if not np.abs(y - wanted).max() <= bounds[node["name"]] * np.abs(wanted).max():
            wrong.append(node["name"])
    return wrong


@pytest.fixture
def corrupted(exported: Path, tmp_path: Path) -> Path:
    """A copy in which one element of the first question's expected classifier is another."""
    copy = tmp_path / "cases"
    shutil.copytree(exported, copy)
    path = copy / "cases" / FORWARD[0] / "expected.safetensors"
    data = bytearray(path.read_bytes())
    (length,) = struct.unpack("<Q", data[:8])
    start = 8 + length + json.loads(data[8 : 8 + length])["classifier"]["data_offsets"][0]
    (value,) = struct.unpack("<d", data[start : start + 8])
    data[start : start + 8] = struct.pack("<d", value + 1e-9)
    path.write_bytes(data)
    return copy


@pytest.mark.parametrize("name", FORWARD)
def test_plain_numpy_computes_what_is_expected(exported: Path, name: str) -> None:
    assert differences(exported / "cases" / name) == []


def test_plain_numpy_notices_a_value_that_is_off_by_a_billionth(corrupted: Path) -> None:
    assert differences(corrupted / "cases" / FORWARD[0]) == ["classifier"]


def _node(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [str(NODE), str(ROOT / "examples" / "read_export.mjs"), str(folder)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@needs_node
def test_javascript_computes_what_is_expected(exported: Path) -> None:
    done = _node(exported)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(FORWARD)} of {len(FORWARD)} within bounds" in done.stdout


@needs_node
def test_javascript_notices_a_value_that_is_off_by_a_billionth(corrupted: Path) -> None:
    done = _node(corrupted)
    assert done.returncode == 1
    (failure,) = [line for line in done.stdout.splitlines() if line.startswith("FAIL")]
    assert FORWARD[0] in failure
    assert "classifier" in failure


@needs_node
def test_javascript_refuses_a_folder_that_is_no_export(tmp_path: Path) -> None:
    (tmp_path / "index.json").write_text("{}")
    assert _node(tmp_path).returncode == 2


@pytest.mark.parametrize("name", TRAINING)
def test_steps_follow_from_gradients_by_the_documented_rule(exported: Path, name: str) -> None:
    folder = exported / "cases" / name
    weights = read_tensors(folder / "weights.safetensors")
    steps = read_tensors(folder / "expected.safetensors")
    recipe = read_json(folder / "recipe.json")
    trainable = [
        weight for node in read_json(folder / "graph.json")["nodes"] for weight in node["trainable"]
    ]
    velocity = {weight: np.zeros_like(weights[weight]) for weight in trainable}
    for number, step in enumerate(recipe["steps"], start=1):
        for weight in trainable:
            gradient = steps[f"step {number}, gradient {weight}"]
            gradient = gradient + recipe["weight_decay"] * weights[weight]
            velocity[weight] = recipe["momentum"] * velocity[weight] + gradient
            ahead = gradient + recipe["momentum"] * velocity[weight]
            weights[weight] = weights[weight] - step["learning_rate"] * ahead
            found = (steps[f"step {number}, {kind} {weight}"] for kind in ("weight", "velocity"))
            for ours, theirs in zip((weights[weight], velocity[weight]), found, strict=True):
                np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-14)
    rates = [step["learning_rate"] for step in recipe["steps"]]
    assert rates[0] == pytest.approx(10 * rates[-1])


def test_masks_are_those_of_the_dropout_nodes(exported: Path) -> None:
    folder = exported / "cases" / "training/given-dropout-masks"
    inputs = read_tensors(folder / "inputs.safetensors")
    for node in read_json(folder / "graph.json")["nodes"]:
        if node["op"] == "Dropout":
            mask = inputs[f"step 1, mask {node['name']}"]
            assert mask.shape[1:] == tuple(node["shape"])
            assert set(np.unique(mask)) == {0, 1}


def test_every_file_is_listed_and_every_tensor_has_a_bound(exported: Path) -> None:
    index = read_json(exported / "index.json")
    listed = {
        exported / question["folder"] / file
        for question in index["questions"]
        for file in question["files"]
    }
    assert listed == {p for p in exported.rglob("*") if p.is_file()} - {exported / "index.json"}
    for question in index["questions"]:
        if "bounds.json" in question["files"]:
            folder = exported / question["folder"]
            bounds = read_json(folder / "bounds.json")
            assert set(bounds["relative"]) == set(read_tensors(folder / "expected.safetensors"))
            assert question["dtype"] in bounds["reason"]


def test_initial_weights_and_counts_are_exported_too(exported: Path) -> None:
    (bits, counts) = (exported / "cases" / name for name in OTHERS)
    kernel = read_tensors(bits / "expected.safetensors")["stem.conv.kernel"]
    assert kernel.dtype == np.float32
    assert read_json(counts / "expected.json")["trainable"] == 1_019_722


def test_same_cases_give_the_same_bytes(tmp_path: Path) -> None:
    cases = [CASES[FORWARD[0]]]
    for name in ("one", "two"):
        export_cases(tmp_path / name, cases)
    for path in (tmp_path / "one").rglob("*"):
        if path.is_file():
            other = tmp_path / "two" / path.relative_to(tmp_path / "one")
            assert path.read_bytes() == other.read_bytes()


def test_earlier_export_is_replaced_and_nothing_else_is(tmp_path: Path) -> None:
    folder = tmp_path / "cases"
    export_cases(folder, [CASES[OTHERS[1]]])
    export_cases(folder, [CASES[OTHERS[0]]])
    (question,) = read_json(folder / "index.json")["questions"]
    assert question["id"] == OTHERS[0]
    assert not (folder / "cases" / OTHERS[1]).exists()
    with pytest.raises(ExportError, match="no export"):
        export_cases(tmp_path, [CASES[OTHERS[0]]])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cases"]


def test_failure_leaves_the_earlier_export(tmp_path: Path) -> None:
    folder = tmp_path / "cases"
    export_cases(folder, [CASES[OTHERS[1]]])
    before = (folder / "index.json").read_bytes()

    def interrupt(case: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_cases(folder, [CASES[OTHERS[0]]], interrupt)
    assert (folder / "index.json").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["cases"]


def test_large_networks_are_left_out_and_named(tmp_path: Path) -> None:
    name = "precision/densenet169-bc-float32-at-224"
    done = export_cases(tmp_path / "cases", [CASES[name]])
    assert done.left_out == (name,)
    (left_out,) = read_json(tmp_path / "cases" / "index.json")["left_out"]
    assert "MiB" in left_out["reason"]
