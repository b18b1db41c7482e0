"""What a user may say of weights that are read, which is declared once."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

import densespec
from densespec.cli import main
from densespec.errors import SpecError, UnknownName
from densespec.weights.reading import AS_THEY_ARE, InterpretingOptions, ReadingOptions
from tests.strategies import tiny
from tests.test_convert import checkpoint

NAMES = [field.name for field in dataclasses.fields(ReadingOptions)]

INTERPRETING = [field.name for field in dataclasses.fields(InterpretingOptions)]
FLAGS = ("--from", "--key", "--prefix", "--without", "--head-activation")

READERS: dict[str, Callable[..., Any]] = {
    "open_weights": densespec.open_weights,
    "convert": densespec.convert,
    "build": densespec.build,
    "load_weights": densespec.load_weights,
    "transfer": densespec.transfer,
    "from_pretrained": densespec.from_pretrained,
}


@pytest.mark.parametrize("name", READERS)
def test_functions_that_read_weights_take_every_option_and_say_so(name: str) -> None:
    function = READERS[name]
    parameters = inspect.signature(function).parameters
    assert set(NAMES) <= set(parameters)
    documented = inspect.getdoc(function) or ""
    assert "{reading}" not in documented
    assert all(f"{option}: " in documented for option in NAMES)


@pytest.mark.parametrize("function", [densespec.predict, densespec.evaluate, densespec.train])
def test_functions_of_networks_take_how_their_arrays_are_named(
    function: Callable[..., Any],
) -> None:
    assert set(INTERPRETING) <= set(inspect.signature(function).parameters)
    documented = inspect.getdoc(function) or ""
    assert "{reading}" not in documented
    assert all(f"{option}: " in documented for option in INTERPRETING)


def flags_of(command: str) -> dict[str, click.Parameter]:
    found = main.get_command(click.Context(main), command)
    assert found is not None
    return {flag: option for option in found.params for flag in option.opts}


@pytest.mark.parametrize("command", ["inspect", "convert", "verify", "build", "export"])
def test_commands_that_read_weights_have_a_flag_for_each(command: str) -> None:
    assert {*FLAGS, "--in-channels", "--spatial-dims"} <= flags_of(command).keys()


@pytest.mark.parametrize("command", ["train", "predict", "evaluate"])
def test_flags_of_reading_mean_the_same_in_every_command(command: str) -> None:
    flags, inspected = flags_of(command), flags_of("inspect")
    for flag in FLAGS:
        assert flags[flag].name == inspected[flag].name
        assert getattr(flags[flag], "help", None) == getattr(inspected[flag], "help", None)


def test_options_that_nobody_says_are_left_to_the_file() -> None:
    assert AS_THEY_ARE.said() == {}
    assert ReadingOptions(prefix="a.", in_channels=1).said() == {"prefix": "a.", "in_channels": 1}


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"head_activation": "gelu"}, "head_activation = 'gelu', but should be 'relu' or 'none'"),
        ({"in_channels": 0}, "in_channels = 0, but should be an integer of at least 1"),
        ({"prefix": ""}, "prefix = '', but should be a text that is not empty"),
    ],
    ids=lambda value: next(iter(value), "") if isinstance(value, dict) else "",
)
def test_what_can_not_be_meant_is_refused(said: dict[str, Any], expected: str) -> None:
    with pytest.raises(SpecError, match=expected):
        ReadingOptions(**said)


def test_a_word_that_is_no_option_is_refused(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "net.safetensors", tiny())
    with pytest.raises(TypeError, match="unexpected keyword argument 'suffix'"):
        densespec.build(backend="numpy", weights=path, suffix="x")
    with pytest.raises(UnknownName):
        densespec.build(backend="numpy", weights=path, layout="torchvison")
