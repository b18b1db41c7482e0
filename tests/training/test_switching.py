"""A run that is stopped on one backend and goes on in another, against one that was left alone."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from densespec.recipes.moments import flat_moments
from densespec.training import read_run
from tests.training.support import RICH, STEPS, environment, last, log, process, run

TOLERANCE = 1e-8
STOPPED = STEPS + 2
"""In the second epoch, after a drop of the learning rate and before another."""

PACKAGES = {
    "torch.nn": ("torch",),
    "torch": ("torch", "keras"),
    "tensorflow": ("tensorflow", "keras"),
    "jax": ("jax", "keras"),
    "flax.nnx": ("flax", "optax"),
}


def _installed(backend: str) -> bool:
    return all(importlib.util.find_spec(package) for package in PACKAGES[backend])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unbroken run of the reference."""
    folder = tmp_path_factory.mktemp("whole")
    run(folder, recipe=RICH)
    return folder


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first half of the run, in torch.nn."""
    if not _installed("torch.nn"):
        pytest.skip("torch is not installed")
    folder = tmp_path_factory.mktemp("stopped")
    subprocess.run(
        [sys.executable, "-m", "tests.training.stopping", folder, "torch.nn", str(STOPPED)],
        env=environment(),
        check=True,
    )
    state = last(folder).training
    assert state is not None
    assert state.step == STOPPED
    return folder


def _assert_same_curve(actual: Path, expected: Path) -> None:
    ours, theirs = log(actual), log(expected)
    assert [(r["kind"], r["step"]) for r in ours] == [(r["kind"], r["step"]) for r in theirs]
    for value in ("loss", "learning_rate"):
        np.testing.assert_allclose(
            [r[value] for r in ours], [r[value] for r in theirs], rtol=TOLERANCE
        )
    ends = [[r for r in records if r["kind"] == "epoch"] for records in (ours, theirs)]
    for one, other in zip(*ends, strict=True):
        assert one["validation_loss"] == pytest.approx(other["validation_loss"], rel=TOLERANCE)
        assert one["validation_accuracy"] == other["validation_accuracy"]


@pytest.mark.parametrize(
    "backend",
    [
        *("numpy", "torch.nn", "tensorflow", "flax.nnx"),
        # These train by the code of "tensorflow".
        *(pytest.param(engine, marks=pytest.mark.full) for engine in ("torch", "jax")),
    ],
)
def test_a_run_stopped_in_torch_goes_on_in_any_backend_as_if_nothing_had_happened(
    tmp_path: Path, whole: Path, stopped: Path, backend: str
) -> None:
    if backend != "numpy" and not _installed(backend):
        pytest.skip(f"{backend} is not installed")
    shutil.copytree(stopped, tmp_path / "here")
    done = process("--resume", tmp_path / "here" / "run", "--backend", backend)
    assert done.returncode == 0, done.stderr
    _assert_same_curve(tmp_path / "here", whole)
    ours, theirs = last(tmp_path / "here"), last(whole)
    for name, array in theirs.arrays.items():
        np.testing.assert_allclose(ours.arrays[name], array, rtol=0, atol=TOLERANCE, err_msg=name)
    assert ours.training is not None
    assert theirs.training is not None
    kept = flat_moments(ours.training.moments)
    for name, array in flat_moments(theirs.training.moments).items():
        np.testing.assert_allclose(kept[name], array, rtol=0, atol=TOLERANCE, err_msg=name)
    found = read_run(tmp_path / "here" / "run").stretches
    assert [(s.backend, s.from_step) for s in found] == [("torch.nn", 0), (backend, STOPPED)]


def test_a_run_stopped_in_flax_goes_on_in_the_reference(tmp_path: Path, whole: Path) -> None:
    if not _installed("flax.nnx"):
        pytest.skip("flax is not installed")
    subprocess.run(
        [sys.executable, "-m", "tests.training.stopping", tmp_path, "flax.nnx", str(STOPPED)],
        env=environment(),
        check=True,
    )
    done = process("--resume", tmp_path / "run", "--backend", "numpy")
    assert done.returncode == 0, done.stderr
    _assert_same_curve(tmp_path, whole)
