"""Runs on several devices: what they compute is what the recipe says, and one process writes."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import numpy as np
import pytest

from densespec.training import read_run
from tests.training.support import RECIPE, assert_same_end, data, files, last, log, process, run

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


@torch
@pytest.mark.parametrize("batch_norm", ["synchronised", "per-replica"])
def test_two_processes_of_the_launcher_do_what_the_reference_says(
    tmp_path: Path, batch_norm: str
) -> None:
    (tmp_path / "reference").mkdir()
    recipe = RECIPE.replace(batch_norm=batch_norm, epochs=2)
    run(tmp_path / "reference", data=data(tmp_path), recipe=recipe, devices=2)
    spec, path = files(tmp_path)
    given = (spec, "--recipe", path, "--set", f"batch_norm={batch_norm}", "--epochs", 2)
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
