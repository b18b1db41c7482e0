"""``.keras`` files: saved here, loaded in a fresh process that knows Keras and little else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import densespec
from densespec_keras import SGD

LOADER = Path(__file__).with_name("loader.py")
PLAIN = {
    "same": ("same", {}),
    "symmetric after a ReLU": ("same", {"padding": "symmetric"}),
    "symmetric over negative numbers": ("preactivation", {"running_variance": "biased"}),
}


def batches(images: Any) -> tuple[np.ndarray, np.ndarray]:
    return np.moveaxis(images(8, 16, 16), 1, -1), np.arange(8) % 4


def train(model: Any, x: np.ndarray, labels: np.ndarray) -> list[float]:
    fitted = model.fit(x, labels, batch_size=4, epochs=2, shuffle=False, verbose=0)
    return fitted.history["loss"]


@pytest.fixture(scope="module")
def reloaded(
    tmp_path_factory: pytest.TempPathFactory, engine: str, build: Any, images: Any
) -> dict[str, Any]:
    """What the fresh process reports, beside what it should."""
    folder = tmp_path_factory.mktemp("models")
    x, labels = batches(images)
    expected: dict[str, Any] = {}
    for name, (network, changes) in PLAIN.items():
        model = build(network, spec=changes)
        model.save(folder / f"{name}.keras")
        expected[name] = model.predict(x, verbose=0)
    model = build("preactivation")
    model.save(folder / "unbiased.keras")
    expected["unbiased"] = model.predict(x, verbose=0)
    model.compile(SGD(0.01, momentum=0.8), keras.losses.SparseCategoricalCrossentropy(True))
    train(model, x, labels)
    model.save(folder / "trained.keras")
    expected["velocities"] = [numpy(v) for v in model.optimizer.velocity]
    expected["losses"] = train(model, x, labels)
    expected["trained"] = model.predict(x, verbose=0)
    np.savez(folder / "batch.npz", x=x, labels=labels)
    environment = os.environ | {"KERAS_BACKEND": engine}
    command = [sys.executable, str(LOADER), str(folder), *PLAIN]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=folder)
    assert run.returncode == 0, run.stderr
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    return {"expected": expected, "actual": dict(np.load(folder / "outputs.npz")), "report": report}


def numpy(tensor: Any) -> np.ndarray:
    return np.array(keras.ops.convert_to_numpy(tensor))


@pytest.mark.parametrize("name", PLAIN)
def test_a_biased_network_loads_with_keras_alone_bit_for_bit(
    name: str, reloaded: dict[str, Any]
) -> None:
    assert reloaded["report"]["densespec imported"] is False
    np.testing.assert_array_equal(reloaded["actual"][name], reloaded["expected"][name])


def test_an_unbiased_network_loads_once_batch_norm_is_imported(reloaded: dict[str, Any]) -> None:
    assert "BatchNormalization" in reloaded["report"]["without densespec"]
    np.testing.assert_array_equal(reloaded["actual"]["unbiased"], reloaded["expected"]["unbiased"])


def test_a_compiled_model_comes_back_with_its_optimizer(reloaded: dict[str, Any]) -> None:
    optimizer = reloaded["report"]["optimizer"]
    assert optimizer.pop("class") == "densespec_keras.optimizers.SGD"
    assert optimizer == {"iterations": 4, "momentum": 0.8, "rate": pytest.approx(0.01)}
    for place, velocity in enumerate(reloaded["expected"]["velocities"]):
        np.testing.assert_array_equal(reloaded["actual"][f"velocity {place}"], velocity)


def test_training_goes_on_as_if_it_had_not_stopped(reloaded: dict[str, Any]) -> None:
    expected, actual = reloaded["expected"], reloaded["actual"]
    np.testing.assert_allclose(actual["losses"], expected["losses"], rtol=1e-5)
    np.testing.assert_allclose(actual["trained"], expected["trained"], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("chosen", [None, "another"], ids=["none named", "another named"])
def test_weights_become_a_model_on_the_engine_that_runs(
    chosen: str | None, engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever ``KERAS_BACKEND`` says by now, and whichever engine would come first."""
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    if chosen:
        monkeypatch.setenv("KERAS_BACKEND", next(e for e in ("torch", "jax") if e != engine))
    spec = densespec.DenseNetSpec(blocks=(1,), growth_rate=2, classes=4)
    densespec.save(densespec.build(spec, backend="numpy"), tmp_path / "net.safetensors")
    densespec.convert(tmp_path / "net.safetensors", tmp_path / "net.keras")
    assert keras.saving.load_model(tmp_path / "net.keras").name == "densenet"
