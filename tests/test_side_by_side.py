"""Two networks in one flat Keras model: either is read by the start of its layers' names."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from densespec.errors import WeightsError
from densespec.network.graph import lower
from densespec.network.initial import initial_weights
from densespec.network.spec import DenseNetSpec
from densespec.weights.checkpoint import write_checkpoint
from densespec.weights.containers import open_file
from densespec.weights.convert import convert
from densespec.weights.opening import IdentifiedWeights, identify
from densespec.weights.reading import ReadingOptions
from densespec.weights.tensors import Tensor, Tensors

pytest.importorskip("h5py", reason="h5py is not installed")

SPEC = DenseNetSpec(blocks=(2, 2), growth_rate=4, classes=5)
CASE = Path(__file__).with_name("cases") / "keras_softmax" / "model.keras"
SIDES = ("left_", "right_")

Both = tuple[Tensors, Mapping[str, str]]


def side_by_side(folder: Path, *starts: str) -> Both:
    """Number the layers of two networks as Keras does: in turn, since both are as deep."""
    tensors: dict[str, Tensor] = {}
    noted: dict[str, str] = {}
    for side, start in enumerate(starts):
        file = folder / f"{side}.weights.h5"
        source = folder / f"{side}.safetensors"
        graph = lower(SPEC)
        write_checkpoint(source, graph, initial_weights(graph, side))
        convert(source, file, to_layout="densespec-keras")
        with open_file(file) as one:
            kept = {name: tensor_of(tensor.read()) for name, tensor in one.tensors.items()}
            names = json.loads(one.metadata["layer_names"])
        tensors |= {in_turn(name, side): tensor for name, tensor in kept.items()}
        noted |= {in_turn(path, side): start + name for path, name in names.items()}
    return tensors, {"layer_names": json.dumps(noted)}


def tensor_of(array: np.ndarray) -> Tensor:
    return Tensor(array.shape, array.dtype, lambda: array)


def in_turn(path: str, side: int) -> str:
    """Number the layer of a path as one of two networks'."""

    def numbered(match: re.Match[str]) -> str:
        number = 2 * int(match[2] or 0) + side
        return f"layers/{match[1]}_{number}" if number else f"layers/{match[1]}"

    return re.sub(r"layers/([a-z0-9_]*?)(?:_(\d+))?(?=/|$)", numbered, path)


def identified(both: Both, **options: Any) -> IdentifiedWeights:
    return identify(*both, "keras-weights", ReadingOptions(**options))


def test_either_network_is_chosen_by_the_start_of_its_names(tmp_path: Path) -> None:
    both = side_by_side(tmp_path, *SIDES)
    for side, start in enumerate(SIDES):
        found = identified(both, prefix=start)
        expected = initial_weights(lower(SPEC), side)
        assert found.spec.blocks == SPEC.blocks
        assert found.layout.name == "densespec-keras"
        arrays = found.arrays()
        assert arrays.keys() == expected.keys()
        assert all(np.array_equal(arrays[name], array) for name, array in expected.items())


def test_the_refusal_names_both(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="2 networks side by side") as refused:
        identified(side_by_side(tmp_path, *SIDES))
    assert re.findall(r"--prefix (\w+)", str(refused.value)) == list(SIDES)


def test_where_no_names_tell_the_refusal_says_so_and_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"does not tell.*save each network by itself"):
        identified(side_by_side(tmp_path, "", "x"))


def test_a_start_that_no_layer_has_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="unknown prefix 'middle_'"):
        identified(side_by_side(tmp_path, *SIDES), prefix="middle_")


def test_the_config_of_a_whole_model_is_narrowed_too() -> None:
    """One network of a file is put beside itself, under other names; the inputs keep theirs."""
    with open_file(CASE) as one:
        config = json.loads(one.metadata["config"])
        kept = {name: tensor_of(tensor.read()) for name, tensor in one.tensors.items()}
        noted = json.loads(one.metadata["layer_names"])
    layers = [layer["config"]["name"] for layer in config["config"]["layers"]]
    tensors: dict[str, Tensor] = {}
    names: dict[str, str] = {}
    entries = []
    for side, start in enumerate(SIDES):
        text = json.dumps(config)
        for number, name in enumerate(layers):
            new = f"{start}{name}" if number else f"input{side}"
            text = text.replace(json.dumps(name), json.dumps(new))
        text = text.replace(f'"activation": "{start}relu"', '"activation": "relu"')
        entries.append(json.loads(text)["config"])
        tensors |= {in_turn(name, side): tensor for name, tensor in kept.items()}
        names |= {in_turn(path, side): start + name for path, name in noted.items()}
    left, right = entries
    parts = {
        key: _listed(left[key]) + _listed(right[key])
        for key in ("layers", "input_layers", "output_layers")
    }
    both = {**config, "config": {**left, **parts}}
    metadata = {"config": json.dumps(both), "layer_names": json.dumps(names)}
    with open_file(CASE) as one:
        alone = identify(one.tensors, one.metadata, one.container, ReadingOptions())
    with pytest.raises(WeightsError, match="2 networks side by side"):
        identify(tensors, metadata, "keras", ReadingOptions())
    for start in SIDES:
        found = identify(tensors, metadata, "keras", ReadingOptions(prefix=start))
        assert found.graph == alone.graph


def _listed(part: list[object]) -> list[object]:
    """Keras states a single input or output bare, and several in a list."""
    return [part] if part and isinstance(part[0], str) else part
