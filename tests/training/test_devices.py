"""Runs on several devices: what they compute is what the recipe says, and one process writes."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from densespec.data.augment import AUGMENTATIONS, ImageRequest
from densespec.training import TrainingError, read_run
from tests.training.support import (
    RECIPE,
    STEPS,
    assert_same_end,
    data,
    files,
    last,
    log,
    process,
    run,
)

TOLERANCE = 1e-8

torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None or os.name != "posix", reason="needs torch"
)


def test_several_devices_with_synchronised_norms_do_what_one_does(tmp_path: Path) -> None:
    recipe = RECIPE.replace(batch_norm="synchronised")
    for name, devices in (("one", 1), ("two", 2)):
        (tmp_path / name).mkdir()
        run(tmp_path / name, data=data(tmp_path), recipe=recipe, devices=devices)
    assert_same_end(tmp_path / "one", tmp_path / "two")
    (stretch,) = read_run(tmp_path / "two" / "run").stretches
    assert stretch.devices == 2


def test_per_replica_norms_make_a_difference(tmp_path: Path) -> None:
    for name, devices in (("one", 1), ("two", 2)):
        (tmp_path / name).mkdir()
        run(tmp_path / name, data=data(tmp_path), epochs=1, devices=devices)
    assert log(tmp_path / "one")[0]["loss"] != log(tmp_path / "two")[0]["loss"]


def test_accumulation_on_two_devices_is_that_of_one_but_for_norms(tmp_path: Path) -> None:
    recipe = RECIPE.replace(batch_norm="synchronised", accumulate=2)
    for name, devices in (("one", 1), ("two", 2)):
        (tmp_path / name).mkdir()
        run(tmp_path / name, data=data(tmp_path), recipe=recipe, devices=devices)
    assert_same_end(tmp_path / "one", tmp_path / "two")


@dataclass(frozen=True)
class Second:
    """The second of two processes, which hears nothing of the first."""

    rank: int = 1
    size: int = 2

    def part(self, count: int) -> slice:
        return slice((count + 1) // 2, count)

    def any(self, wish: bool) -> bool:
        return wish

    def place(self, model: Any) -> Any:
        return model


@pytest.mark.parametrize("changes", [{}, {"mixup": 0.4}, {"accumulate": 2}])
def test_a_process_prepares_its_own_samples_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    """Batches of 8, 8, 8 and 4: what is mixed has the sample before it as well."""
    prepared: list[int] = []

    def counted(request: ImageRequest) -> np.ndarray:
        prepared.append(len(request.rows))
        return AUGMENTATIONS["none"](request)

    monkeypatch.setattr("densespec.data.batches.augmentation", lambda name, dims: counted)
    monkeypatch.setattr("densespec.training.loop.joined", lambda engine: Second())
    recipe = RECIPE.replace(epochs=1, **changes)
    run(tmp_path, recipe=recipe, validate=False)
    others = 1 if recipe.mixes else 0
    assert sorted(prepared) == sorted(half + others for half in (4, 4, 4, 2))
    assert len(log(tmp_path)) == STEPS + 1


def test_processes_with_other_data_than_each_other_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Disagreeing(Second):
        def any(self, wish: bool) -> bool:
            return True  # as one of the others always says

    monkeypatch.setattr("densespec.training.loop.joined", lambda engine: Disagreeing())
    with pytest.raises(TrainingError, match="processes of the run have other data than each other"):
        run(tmp_path)
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's")
def test_any_backend_may_have_a_launcher(tmp_path: Path) -> None:
    run(tmp_path, epochs=1)
    (tmp_path / "launched").mkdir()
    spec, path = files(tmp_path)
    given = (spec, "--recipe", path, "--data", data(tmp_path), "--epochs", 1, "--devices", 2)
    backend = "tests.training.launching:BACKEND"
    done = process(*given, "--backend", backend, "--out", tmp_path / "launched" / "run")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "left"
    (stretch,) = read_run(tmp_path / "launched" / "run").stretches
    assert (stretch.backend, stretch.devices) == (backend, 2)
    for name, array in last(tmp_path).arrays.items():
        np.testing.assert_array_equal(last(tmp_path / "launched").arrays[name], array)


def test_a_backend_of_one_device_is_refused_several_before_anything_is_written(
    tmp_path: Path,
) -> None:
    with pytest.raises(TrainingError, match="ONE_DEVICE trains on one device only"):
        run(tmp_path, backend="tests.training.launching:ONE_DEVICE", devices=2)
    assert not (tmp_path / "run").exists()


@torch
@pytest.mark.parametrize(
    ("batch_norm", "accumulate"),
    [
        ("per-replica", 2),
        pytest.param("per-replica", 1, marks=pytest.mark.full),
        pytest.param("synchronised", 1, marks=pytest.mark.full),
    ],
)
def test_two_processes_of_the_launcher_do_what_the_reference_says(
    tmp_path: Path, batch_norm: str, accumulate: int
) -> None:
    """With images that are mixed, so that a process needs some of another's."""
    (tmp_path / "reference").mkdir()
    changes = {"batch_norm": batch_norm, "accumulate": accumulate, "mixup": 0.4}
    recipe = RECIPE.replace(epochs=2, **changes)
    run(tmp_path / "reference", data=data(tmp_path), recipe=recipe, devices=2)
    spec, path = files(tmp_path)
    given: tuple[object, ...] = (spec, "--recipe", path, "--epochs", 2)
    for field, value in changes.items():
        given += ("--set", f"{field}={value}")
    more = ("--data", data(tmp_path), "--backend", "torch.nn", "--devices", 2)
    done = process(*given, *more, "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    ours, theirs = log(tmp_path), log(tmp_path / "reference")
    assert [line["step"] for line in ours] == [line["step"] for line in theirs]
    np.testing.assert_allclose(
        [line["loss"] for line in ours], [line["loss"] for line in theirs], rtol=TOLERANCE
    )
    assert ours[-1]["validation_loss"] == pytest.approx(
        theirs[-1]["validation_loss"], rel=TOLERANCE
    )
    for name, array in last(tmp_path / "reference").arrays.items():
        np.testing.assert_allclose(
            last(tmp_path).arrays[name], array, rtol=0, atol=TOLERANCE, err_msg=name
        )
