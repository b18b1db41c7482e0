"""Runs on volumes from files."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from densespec.installed import is_installed
from densespec.network.files import write_spec
from densespec.recipes.presets import write_recipe
from densespec.training import plan_of
from tests.training.support import RECIPE, SPEC, environment, last, log, resumed, run

VOLUMES = SPEC.replace(spatial_dims=3, dropout_rate=0.2)
SHORT = RECIPE.replace(epochs=2, augmentation="none", batch_norm="synchronised")
SIZE = (6, 5, 7)


@pytest.fixture
def data(tmp_path: Path) -> str:
    """Five volumes of each of three classes, of several sizes, which differ in their mean."""
    draw = np.random.default_rng(1)
    for label in range(3):
        (tmp_path / "scans" / f"kind{label}").mkdir(parents=True)
        for number in range(10):
            values = draw.normal(300 * label, 100, (7, 6, 8 + number % 2)).astype(np.int16)
            np.save(tmp_path / "scans" / f"kind{label}" / f"{number}.npy", values)
    return f"folder:{tmp_path / 'scans'}"


def test_volumes_of_files_are_learnt_and_a_run_goes_on(tmp_path: Path, data: str) -> None:
    run(tmp_path, spec=VOLUMES, data=data, size=SIZE, recipe=SHORT)
    done = resumed(tmp_path, epochs=4)
    epochs = [line for line in log(tmp_path) if line["kind"] == "epoch"]
    assert done.finished
    assert epochs[-1]["validation_loss"] < epochs[0]["validation_loss"]


def test_a_named_network_takes_the_dimensions_of_volumes(tmp_path: Path, data: str) -> None:
    plan = plan_of(
        spec="densenet-40-12",
        data=data,
        size=SIZE,
        in_channels=1,
        recipe="fine-tune",
        changes={"augmentation": "none"},
        backend="numpy",
        out=tmp_path / "x",
    )
    assert (plan.graph.spec.spatial_dims, plan.graph.spec.classes) == (3, 3)
    assert any("spatial_dims = 3 as in scans" in note for note in plan.notes)
    assert plan.bequest.preprocessing is None


@pytest.mark.parametrize(
    "backend",
    [
        "torch.nn",
        *(pytest.param(b, marks=pytest.mark.full) for b in ("flax.nnx", "torch", "jax")),
    ],
)
def test_backends_take_the_same_steps_on_volumes(tmp_path: Path, data: str, backend: str) -> None:
    """In a process of its own, since Keras has one engine in each."""
    if not is_installed(backend.partition(".")[0]):
        pytest.skip(f"{backend} is not installed")
    run(tmp_path, spec=VOLUMES, data=data, size=SIZE, recipe=SHORT)
    write_spec(VOLUMES, tmp_path / "net.toml")
    write_recipe(SHORT, tmp_path / "recipe.toml")
    said = ["train", "net.toml", "--data", data, "--size", "x".join(map(str, SIZE))]
    more = ["--recipe", "recipe.toml", "--backend", backend, "--out", "other/run"]
    subprocess.run(
        [sys.executable, "-m", "densespec", *said, *more],
        cwd=tmp_path,
        env=environment(),
        check=True,
    )
    expected = last(tmp_path).arrays
    for name, array in last(tmp_path / "other").arrays.items():
        np.testing.assert_allclose(array, expected[name], atol=1e-8, err_msg=name)


def test_the_example_trains_on_files_of_volumes(tmp_path: Path) -> None:
    pytest.importorskip("nibabel")
    module = runpy.run_path(str(Path(__file__).parents[2] / "examples" / "volumes.py"))
    recipe = module["RECIPE"].replace(epochs=1, warmup_epochs=0, batch_size=4)
    done = module["train"]("numpy", tmp_path, recipe, train=4, test=1)
    assert done.finished
    for body in module["BODIES"]:
        inside = module["volume"](body, 1) > -800
        assert 0.02 < inside.mean() < 0.5
