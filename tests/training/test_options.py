"""The options of a run: declared once, and the same in Python, on the command line and on disk."""

from __future__ import annotations

import dataclasses
import errno
import inspect
import os
import tomllib
from pathlib import Path
from typing import Any

import pytest

import densespec
from densespec.cli.train import train_command
from densespec.training import RunOptions, TrainingError, plan_of, read_run
from densespec.training import lock as locking
from tests.training.stopping import StopsAt
from tests.training.support import RECIPE, SPEC, STEPS, Notes, log, resumed, run

FIELDS = [field.name for field in dataclasses.fields(RunOptions)]
OF_PYTHON = {"progress"}
"""What only a program can say."""


def test_every_option_is_a_keyword_and_a_flag() -> None:
    assert [*inspect.signature(densespec.train).parameters] == FIELDS
    assert [*inspect.signature(plan_of).parameters] == FIELDS
    flags = {parameter.name for parameter in train_command.params}
    assert set(FIELDS) - flags == OF_PYTHON


def test_every_option_is_told_of_where_it_is_given() -> None:
    told = inspect.getdoc(densespec.train)
    assert told is not None
    assert all(f"    {name}: " in told for name in FIELDS)
    assert all(getattr(p, "help", "") != "" for p in train_command.params)


@pytest.mark.parametrize(
    "options",
    [
        *({"keep": -1}, {"log_every": 0}, {"dropout": "none"}, {"validate": 3}, {"epochs": 0}),
        *({"devices": 1.5}, {"size": "8"}, {"head_units": (0,)}, {"recipe": 3}, {"changes": 1}),
        *({"cache_features": "never"}, {"resume": "yes"}, {"trainable_from": ""}),
    ],
)
def test_a_value_that_is_not_allowed_is_named(tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(TrainingError, match=rf"^{next(iter(options))} = .*, but should be "):
        RunOptions(**{"spec": SPEC, "out": tmp_path} | options)


def test_what_is_none_is_not_said(tmp_path: Path) -> None:
    run(tmp_path, keep=None, dropout=None, devices=None, epochs=None, changes=None)
    assert read_run(tmp_path / "run").keep == 0


def test_an_option_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(TypeError, match="epoch"):
        densespec.train(out="run", epoch=3)  # type: ignore[call-arg]


def test_fields_of_the_recipe_are_changed(tmp_path: Path) -> None:
    run(tmp_path, changes={"learning_rate": 0.01, "epochs": 2}, epochs=1)
    found = read_run(tmp_path / "run").recipe
    assert found == RECIPE.replace(learning_rate=0.01, epochs=1)


def test_what_has_no_effect_on_the_weights_may_change_when_a_run_goes_on(tmp_path: Path) -> None:
    run(tmp_path, keep=0, progress=StopsAt(STEPS + 1))
    done = resumed(tmp_path, keep=1, log_every=2, validate=False)
    assert (tmp_path / "run" / "epoch-0003.safetensors").exists()
    assert done.accuracy is None
    found = read_run(tmp_path / "run")
    assert (found.keep, found.log_every, found.validate) == (1, 2, False)
    steps = [line["step"] for line in log(tmp_path) if line["kind"] == "step"]
    assert steps == [1, 2, 3, 4, 5, 6, 8, 10, 12]


def test_the_run_file_has_the_names_that_it_always_had(tmp_path: Path) -> None:
    """Runs of every version can be gone on with."""
    run(tmp_path, epochs=1, trainable_from="block2")
    record = tomllib.loads((tmp_path / "run" / "run.toml").read_text())
    assert record.keys() == {
        *("format", "network", "spec", "recipe", "data", "fingerprint", "size", "backend"),
        *("trainable_from", "dropout", "keep", "log_every", "validate"),
        *("metrics", "tensorboard", "window"),
    }
    assert record["backend"][0].keys() == {"name", "from_step", "devices", "time", "densespec"}
    assert record["format"] == 1


# Locks


@pytest.mark.parametrize("reason", ["no such locks", "none on this file system"])
def test_a_folder_that_cannot_be_locked_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    class Unlocking:
        LOCK_EX = LOCK_NB = 0

        @staticmethod
        def flock(handle: int, how: int) -> None:
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(locking, "fcntl", None if reason == "no such locks" else Unlocking)
    notes = Notes()
    assert run(tmp_path, epochs=1, progress=notes).finished
    assert any("can't be locked" in text and "no other process" in text for text in notes.texts)


def test_of_a_folder_that_cannot_be_locked_the_last_process_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path, epochs=1)
    (tmp_path / "run" / "lock").write_text("17 on another\n")
    monkeypatch.setattr(locking, "fcntl", None)
    notes = Notes()
    resumed(tmp_path, epochs=2, progress=notes)
    assert any("the last one was process 17 on another" in text for text in notes.texts)


def test_what_is_wrong_within_the_run_file_is_named(tmp_path: Path) -> None:
    run(tmp_path, epochs=1)
    path = tmp_path / "run" / "run.toml"
    text = path.read_text()
    path.write_text(text.replace("growth_rate = 2", "growth_rate = -2"))
    with pytest.raises(TrainingError, match=r"run\.toml does not .* growth_rate = -2, .*\[S2\]"):
        resumed(tmp_path)
    path.write_text(text.replace("from_step = 0", "from_step = 'none'"))
    with pytest.raises(TrainingError, match=r"run\.toml does not .* from_step = 'none', but "):
        resumed(tmp_path)
