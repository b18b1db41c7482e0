"""Exported files are targets of the suite: what is right passes, and what is wrong does not."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import densespec
from densespec.errors import DensespecError
from densespec.network.graph import lower
from densespec.recipes.recipe import TrainingRecipe
from densespec.weights.checkpoint import write_checkpoint
from densespec_conformance.answering.target import LocalTarget
from densespec_conformance.asking.questions import random_weights
from densespec_conformance.asking.requests import (
    About,
    Inspect,
    NetworkToBuild,
    Train,
    Unsupported,
)
from densespec_conformance.asking.subject import subject_of
from densespec_conformance.cases.forward import SMALL
from densespec_conformance.judging.expected import Reference
from densespec_conformance.running.choosing import assigned
from densespec_conformance.running.one_case import run_case
from densespec_conformance.running.result import Result

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")


def checkpoint(path: Path, label: str = "network") -> Path:
    graph = lower(SMALL)
    arrays = random_weights(graph, label)
    write_checkpoint(path, graph, {name: a.astype(np.float32) for name, a in arrays.items()})
    return path


@pytest.fixture
def net(tmp_path: Path) -> Path:
    return checkpoint(tmp_path / "net.safetensors")


def results(file: Path, weights: Path, **options: Any) -> dict[str, Result]:
    """Run every quick case on a file, in this process."""
    subject = subject_of(str(file), None, str(weights))
    target = LocalTarget(subject.name, spec=subject.spec, weights=weights)
    reference = Reference()
    cases = assigned(subject, **options).wanted
    return {
        case.id.partition("/")[2]: run_case(case, target, reference, diagnosis=False)
        for case in cases
    }


def statuses(found: dict[str, Result]) -> dict[str, str]:
    return {name: result.status for name, result in found.items()}


PASSED = dict.fromkeys(("one-sample", "three-samples", "odd-size"), "passed")


@pytest.mark.parametrize(
    ("options", "ends"),
    [
        ({}, {}),
        ({"optimize": False}, {}),
        ({"dtype": "float16"}, {}),
        ({"batch": 2}, {}),
        ({"softmax": True}, {"classifier_activation": "softmax"}),
        ({"include_top": False}, {"include_top": False}),
        ({"include_top": False, "pooling": "avg"}, {"include_top": False, "pooling": "avg"}),
        ({"include_top": False, "pooling": "max"}, {"include_top": False, "pooling": "max"}),
    ],
    ids=str,
)
def test_what_was_exported_passes_however_it_was(
    options: dict[str, Any], ends: dict[str, Any], net: Path, tmp_path: Path
) -> None:
    file = tmp_path / "net.onnx"
    densespec.export(net, file, **options)
    assert statuses(results(file, net)) == PASSED
    about = LocalTarget(str(file), spec=SMALL, weights=net).ask(About(NetworkToBuild(SMALL)))
    assert about.options == ends
    assert about.dtype == options.get("dtype", "float32")


def test_a_torch_program_passes(net: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="PyTorch is not installed")
    densespec.export(net, tmp_path / "net.pt2", check=False)
    assert statuses(results(tmp_path / "net.pt2", net)) == PASSED


def test_a_file_for_one_size_is_asked_at_that_size(net: Path, tmp_path: Path) -> None:
    file = tmp_path / "net.onnx"
    densespec.export(net, file, size=(20, 24))
    found = results(file, net)
    assert statuses(found) == PASSED | {"odd-size": "unsupported"}
    assert found["odd-size"].message == "it only takes images of 20x24"
    asked = results(file, net, size="32")
    assert statuses(asked) == {"one-sample": "unsupported", "three-samples": "unsupported"}


def test_a_file_of_other_weights_fails(net: Path, tmp_path: Path) -> None:
    file = tmp_path / "net.onnx"
    densespec.export(checkpoint(tmp_path / "other.safetensors", "other"), file)
    found = results(file, net)
    assert set(statuses(found).values()) == {"failed"}
    assert {result.where for result in found.values()} == {"stem.norm"}


def test_one_wrong_value_among_all_arrays_is_seen(net: Path, tmp_path: Path) -> None:
    file = tmp_path / "net.onnx"
    densespec.export(net, file)
    model = onnx.load(file)
    last = model.graph.initializer[-1]
    values = onnx.numpy_helper.to_array(last).copy()
    values.flat[0] += 1e-3
    last.CopyFrom(onnx.numpy_helper.from_array(values, last.name))
    onnx.save(model, file)
    assert set(statuses(results(file, net)).values()) == {"failed"}


def _another_epsilon(node: Any) -> None:
    node.attribute[0].f = 0.01


def _a_leak(node: Any) -> None:
    node.op_type = "LeakyRelu"
    node.attribute.append(onnx.helper.make_attribute("alpha", 0.1))


def _the_maximum(node: Any) -> None:
    node.op_type = "MaxPool"


MISTAKES: dict[str, tuple[str, Callable[[Any], None], str]] = {
    "epsilon": ("block2.layer1.norm1", _another_epsilon, "epsilon is 0.01, not 1e-05"),
    "leak": ("block1.layer1.relu2", _a_leak, "it leaks: the slope below zero is 0.1"),
    "pool": ("transition1.pool", _the_maximum, "maximum, not the average"),
}
"""What is done to one node of a file, and what is said of it then."""


def test_every_wrong_op_of_a_file_is_found_and_explained(net: Path, tmp_path: Path) -> None:
    file = tmp_path / "net.onnx"
    densespec.export(net, file, optimize=False)
    model = onnx.load(file)
    nodes = {node.output[0]: node for node in model.graph.node}
    for name, change, _ in MISTAKES.values():
        change(nodes[name])
    onnx.save(model, file)
    subject = subject_of(str(file), None, str(net))
    (case, *_) = assigned(subject).wanted
    result = run_case(case, LocalTarget(str(file), spec=SMALL, weights=net), Reference())
    (suspect,) = result.diagnosis
    assert suspect.complete
    assert {op.where for op in suspect.ops} == {name for name, _, _ in MISTAKES.values()}
    for _, _, said in MISTAKES.values():
        assert said in suspect.text


def test_what_a_file_can_t_be_asked_is_unsupported_with_the_reason(
    net: Path, tmp_path: Path
) -> None:
    file = tmp_path / "net.onnx"
    densespec.export(net, file)
    target = LocalTarget(str(file), spec=SMALL, weights=net)
    network = NetworkToBuild(SMALL, dtype="float32")
    others = NetworkToBuild(SMALL, dtype="float32", weights=random_weights(lower(SMALL), "others"))
    for request, reason in [
        (Inspect(network, (16, 16)), "does not tell its parameters"),
        (Train(network, TrainingRecipe(epochs=1), ()), "can't be trained"),
        (Inspect(NetworkToBuild(SMALL), (16, 16)), "it computes in float32, not in float64"),
        (Inspect(others, (16, 16)), "its weights are its own"),
    ]:
        with pytest.raises(Unsupported, match=reason):
            target.ask(request)


def refusal(target: Path, weights: Path | None = None) -> str:
    with pytest.raises(DensespecError) as found:
        subject_of(str(target), None, weights and str(weights))
    return str(found.value)


def test_a_file_that_can_t_be_a_target_is_refused(net: Path, tmp_path: Path) -> None:
    file = tmp_path / "net.onnx"
    assert "there is no such file" in refusal(file, net)
    file.touch()
    assert "with --weights" in refusal(file)
    (tmp_path / "net.mlir").touch()
    assert "can't be run from its file alone" in refusal(tmp_path / "net.mlir", net)


def test_a_missing_runtime_is_named_with_its_extra(
    net: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "net.onnx").touch()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "pip install 'densespec[onnx]'" in refusal(tmp_path / "net.onnx", net)


def test_a_file_that_gives_several_values_is_an_error(net: Path, tmp_path: Path) -> None:
    file = tmp_path / "net.onnx"
    densespec.export(net, file, outputs=("block1", "classifier"))
    found = results(file, net)
    assert set(statuses(found).values()) == {"error"}
    assert "gives 2 values" in found["one-sample"].message
