"""Layers that are no part of a network: left out by their names, and advised where that helps."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from densespec.cli import main
from densespec.errors import WeightsError
from densespec.weights.containers import open_file
from densespec.weights.opening import identify, open_weights
from densespec.weights.reading import ReadingOptions
from densespec.weights.tensors import Tensor
from densespec.weights.without import without_layers

CASES = Path(__file__).with_name("cases")
ADVICE = re.compile(r"--without (\S+?)(?:$|[\s);])")


def file_of(name: str) -> Path:
    return next((CASES / name).glob("net.*"))


@pytest.mark.parametrize(
    ("name", "classes"),
    [
        ("keras_two_heads_weights_h5", 5),
        ("keras_two_heads_keras", 5),
        ("keras_two_heads_h5", 5),
        ("keras_norm_in_head_weights_h5", None),
        ("keras_norm_in_head_keras", None),
        ("keras_gate_weights_h5", None),
        ("keras_gate_keras", None),
        ("two_heads_torch", 5),
    ],
)
def test_the_advice_that_is_given_is_followed(name: str, classes: int | None) -> None:
    """Whether a file is refused, or read without its head."""
    runner, file = CliRunner(), str(file_of(name))
    told = runner.invoke(main, ["inspect", file])
    (layers,) = ADVICE.findall((told.output + told.stderr).replace("\n", " "))[:1]
    result = runner.invoke(main, ["inspect", file, "--without", layers])
    assert result.exit_code == 0, result.output
    with open_weights(file, without=layers) as found:
        assert (found.spec.classes if found.has_classifier else None) == classes


def test_several_files_are_read_without_layers_of_each() -> None:
    file = str(file_of("keras_two_heads_keras"))
    arguments = ["verify", file, file, "--without", "aux", "--without", "layers/dense_1"]
    assert CliRunner().invoke(main, arguments).exit_code == 0


@pytest.mark.parametrize(
    ("name", "layers", "message"),
    [
        ("keras_two_heads_keras", ["auxx"], "unknown layer 'auxx'. Did you mean aux?"),
        ("two_heads_torch", ["au"], "unknown layer 'au'. Did you mean aux?"),
        ("keras_gate_weights_h5", ["gate"], "has a layer 'gate' .multiply.: no DenseNet joins"),
        ("keras_two_heads_keras", "", "without = '', but should be names of layers"),
        ("keras_two_heads_keras", "aux,,cls", "but should be names of layers, such as aux"),
    ],
)
def test_what_can_not_be_left_out_is_refused(name: str, layers: object, message: str) -> None:
    with pytest.raises(ValueError, match=message), open_weights(file_of(name), without=layers):
        pass


def test_layers_before_the_pool_are_within_the_network() -> None:
    with pytest.raises(WeightsError, match=r"stem_relu' is to be left out, but stands before"):
        open_weights(file_of("keras_two_heads_keras"), without="stem_relu").__enter__()


def test_layers_are_numbered_as_if_the_others_had_never_been_there() -> None:
    names = [
        f"layers/{layer}/vars/0"
        for layer in ("conv2d", "conv2d_1", "conv2d_2", "conv2d_10", "dense", "dense_1")
    ]
    tensors = {name: Tensor.of(np.array([rank])) for rank, name in enumerate(names)}
    noted = '{"layers/conv2d_1": "apart", "layers/conv2d_2": "own", "layers/dropout": "drop"}'
    kept, metadata = without_layers(tensors, {"layer_names": noted}, ["apart", "layers/dense"])
    assert {name: int(tensor.read()[0]) for name, tensor in kept.items()} == {
        "layers/conv2d/vars/0": 0,
        "layers/conv2d_1/vars/0": 2,
        "layers/conv2d_2/vars/0": 3,
        "layers/dense/vars/0": 5,
    }
    assert metadata["layer_names"] == '{"layers/conv2d_1": "own", "layers/dropout": "drop"}'


def test_names_of_torch_are_left_out_with_what_is_under_them() -> None:
    with open_file(file_of("two_heads_torch")) as file:
        kept, _ = without_layers(file.tensors, {}, ["aux", "cls.weight"])
        assert file.tensors.keys() - kept.keys() == {"aux.weight", "aux.bias", "cls.weight"}


def test_names_that_several_layouts_have_are_read_by_saying_whose_they_are() -> None:
    """Keras 3 numbers the layers of every model alike, and here they are called otherwise."""
    with open_file(file_of("keras_two_heads_weights_h5")) as file:
        noted = json.loads(file.metadata["layer_names"])
        metadata = {"layer_names": json.dumps({path: f"my_{noted[path]}" for path in noted})}
        options = ReadingOptions()
        for pattern, option in (
            (r"\(--from (\S+)\)", "layout"),
            (r"is read by --without (\S+)$", "without"),
        ):
            with pytest.raises(WeightsError) as refused:
                identify(file.tensors, metadata, file.container, options)
            (said,) = re.findall(pattern, str(refused.value))
            options = options.replace(**{option: said})
        assert identify(file.tensors, metadata, file.container, options).spec.classes == 5
