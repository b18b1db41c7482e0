"""What the engines export, and that ONNX files do not show which engine a model was on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import densespec
from densespec.deploy import WeightedGraph, export
from densespec.deploy.formats import formats
from densespec.errors import EngineConflict
from densespec.network.graph import lower

FORMATS_OF = {"tensorflow": ("saved-model",), "jax": ("jax-export", "mlir"), "torch": ()}


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
            assert len(done.measured.shapes) == 2


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
