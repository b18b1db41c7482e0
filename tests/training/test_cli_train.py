"""``densespec train`` and ``densespec recipes``: what they print and write, and how they end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from densespec.cli import main
from densespec.recipes.presets import presets
from densespec.training import read_run
from tests.training.support import (
    RECIPE,
    SPEC,
    STEPS,
    assert_same_end,
    command,
    data,
    environment,
    files,
    last,
    log,
    run,
)


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["train", *map(str, arguments)])


def new(folder: Path, *more: object) -> tuple[object, ...]:
    """Arguments of a new run of the tiny network."""
    spec, recipe = files(folder)
    given = (spec, "--recipe", recipe, "--data", data(folder), "--backend", "numpy")
    return (*given, "--out", folder / "run", *more)


def test_a_run_of_the_command_line_is_that_of_the_library(tmp_path: Path) -> None:
    (tmp_path / "library").mkdir()
    run(tmp_path / "library", data=data(tmp_path))
    result = invoke(*new(tmp_path))
    assert result.exit_code == 0, result.output
    assert_same_end(tmp_path, tmp_path / "library")
    assert read_run(tmp_path / "run").network == "net"


def test_it_ends_with_the_accuracy_and_where_the_weights_are(tmp_path: Path) -> None:
    result = invoke(*new(tmp_path))
    accuracy = log(tmp_path)[-1]["validation_accuracy"]
    first, second = result.stdout.splitlines()
    assert first.startswith(f"test accuracy {accuracy:.2%} after epoch 3, at best ")
    assert str(tmp_path / "run" / "last.safetensors") in second


def test_elsewhere_than_on_a_terminal_each_epoch_is_a_line(tmp_path: Path) -> None:
    lines = invoke(*new(tmp_path)).stderr.splitlines()
    assert [line.partition(":")[0] for line in lines] == [f"epoch {n}/3" for n in (1, 2, 3)]
    assert "validation loss" in lines[0]
    assert "rate 0.05" in lines[0]


def test_json_says_how_it_ended(tmp_path: Path) -> None:
    record = json.loads(invoke(*new(tmp_path, "--json")).stdout)
    assert (record["finished"], record["step"]) == (True, 3 * STEPS)
    assert record["last_epoch"] == log(tmp_path)[-1]


def test_a_dry_run_says_what_would_be_done_and_writes_nothing(tmp_path: Path) -> None:
    result = invoke(*new(tmp_path, "--dry-run", "--epochs", 5, "--json"))
    record = json.loads(result.stdout)
    assert (record["steps"], record["epochs"], record["steps_per_epoch"]) == (20, 5, 4)
    assert record["learning_rates"] == {"1": 0.05, "2": 0.025, "3": 0.0125}
    assert record["input"] == [1, 6, 6]
    assert not (tmp_path / "run").exists()
    text = invoke(*new(tmp_path, "--dry-run")).stdout
    assert "12 of 12: 3 epochs of 4" in text
    assert "0.05 from epoch 1, 0.025 from epoch 2" in text


def test_fields_of_the_recipe_are_set(tmp_path: Path) -> None:
    changes = ("epochs=1", "learning_rate=0.01", "augmentation=none", "layer_rates={block1=0.5}")
    options = [part for change in changes for part in ("--set", change)]
    assert invoke(*new(tmp_path, *options, "--dtype", "float32")).exit_code == 0
    expected = RECIPE.replace(
        epochs=1,
        learning_rate=0.01,
        augmentation="none",
        layer_rates={"block1": 0.5},
        dtype="float32",
    )
    assert read_run(tmp_path / "run").recipe == expected


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--set", "epochs"), "should be FIELD=VALUE"),
        (("--set", "epoch=3"), "Did you mean epochs"),
        (("--set", "epochs=-3"), "epochs = -3"),
        (("--backend", "nympy"), "Did you mean numpy"),
        (("--size", "8x"), "is not sizes"),
        (("--trainable-from", "blok2"), "Did you mean block2"),
        (("--resume", "elsewhere"), "give --out for a new run, or --resume"),
        (("--nodes", "2"), "--nodes: numpy trains on one machine"),
        (("--endpoint", "10.0.0.1:29400"), "go together: give both"),
        (("--endpoint", "here"), "should be HOST:PORT"),
        (("--endpoint", "here:65536"), "should be HOST:PORT"),
        (("--data", "arrays:nowhere.npz"), "nowhere.npz"),
    ],
)
def test_mistakes_are_told_in_a_sentence(
    tmp_path: Path, more: tuple[str, ...], message: str
) -> None:
    result = invoke(*new(tmp_path, *more))
    assert result.exit_code in (1, 2)
    assert message in result.stderr
    assert "Traceback" not in result.output


def test_a_folder_that_can_not_be_one_is_told_before_anything_runs(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "run", tmp_path / ("x" * 300)):
        for more in ((), ("--dry-run",)):
            result = invoke(*new(tmp_path, *more, "--out", folder))
            assert result.exit_code == 1
            assert "can't be made a folder: " in result.stderr
    assert invoke(*new(tmp_path)).exit_code == 0
    result = invoke(*new(tmp_path, "--dry-run"))
    assert "holds a run already" in result.stderr


def test_a_resumed_run_lists_what_differs(tmp_path: Path) -> None:
    invoke(*new(tmp_path))
    result = invoke("--resume", tmp_path / "run", "--set", "batch_size=4")
    assert result.exit_code == 1
    assert "batch_size is 8 there, but 4 here" in result.stderr


def test_a_head_is_put_on_and_trained_alone(tmp_path: Path) -> None:
    options = ("--head", 5, "--trainable-from", "head", "--set", "augmentation=none")
    assert invoke(*new(tmp_path, *options)).exit_code == 0
    assert last(tmp_path).spec == SPEC.replace(head_units=(5,))
    assert (tmp_path / "run" / "features.safetensors").exists()


@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_with_a_command_that_goes_on(tmp_path: Path, number: int) -> None:
    options = ("--set", "milestones=[]", "--epochs", 100_000)
    process = subprocess.Popen(
        command(*new(tmp_path, *options)),
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    until = time.monotonic() + 60
    while not log(tmp_path) and time.monotonic() < until:
        time.sleep(0.05)
    process.send_signal(number)
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert f"densespec train --resume {tmp_path / 'run'}" in printed
    state = last(tmp_path).training
    assert state is not None
    assert state.step == log(tmp_path)[-1]["step"]


# Recipes


def recipes(*arguments: str) -> Any:
    result = CliRunner().invoke(main, ["recipes", *arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_recipes_are_listed() -> None:
    assert [line.split()[0] for line in recipes().splitlines()] == list(presets())
    assert [row["name"] for row in json.loads(recipes("--json"))] == list(presets())


def test_a_printed_recipe_is_a_recipe_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(recipes("cifar+"), encoding="utf-8")
    _, _ = files(tmp_path)
    result = invoke(*new(tmp_path, "--recipe", path, "--dry-run", "--json"))
    assert json.loads(result.stdout)["recipe"] == presets()["cifar+"].recipe.to_dict()


@pytest.mark.parametrize(
    "options",
    [
        ("--epochs", 2**31 - 1),
        ("--set", f"batch_size={2**31 - 1}"),
        ("--keep", 2**31 - 1),
        ("--log-every", 2**31 - 1),
    ],
    ids=str,
)
def test_the_largest_numbers_are_planned_at_once(tmp_path: Path, options: tuple[object]) -> None:
    result = invoke(*new(tmp_path, "--dry-run", *options))
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--devices", 10**6), "can't be split"),
        (("--size", "1000000000x1000000000"), "fewer than 2**31 pixels"),
        (("--head", 2**31 - 1), "[S27]"),
        (("--classes", 2**31 - 1), "[S6]"),
        (("--epochs", 2**31), "below 2**31"),
    ],
    ids=str,
)
def test_numbers_that_are_too_large_are_refused_at_once(
    tmp_path: Path, options: tuple[object], message: str
) -> None:
    result = invoke(*new(tmp_path, "--dry-run", *options))
    assert result.exit_code == 1
    assert message in result.output
