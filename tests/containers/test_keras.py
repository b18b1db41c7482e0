"""Keras's files: what Keras saves is read, and Keras loads what is written.

Keras runs in processes of its own, on PyTorch: its engine is fixed once per process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from densespec.errors import WeightsError
from densespec.weights.containers import open_file, write_file
from tests.containers.samples import bits, network, read_all, refusal, tensors
from tests.dtypes import dtype_of

pytest.importorskip("keras", reason="Keras is not installed")

SCRIPT = Path(__file__).with_name("keras_side.py")


def run(*arguments: str | Path) -> str:
    command = [sys.executable, SCRIPT, *arguments]
    environment = os.environ | {"KERAS_BACKEND": "torch", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keras")
    run("save", folder)
    return folder


def expected(folder: Path, half: str) -> dict[str, np.ndarray]:
    """Variables by Keras's path."""
    with np.load(folder / f"{half}-expected.npz") as file:
        arrays = {name: file[name] for name in file.files}
    return {
        name: array.view(dtype_of("bfloat16")) if array.dtype.kind == "V" else array
        for name, array in arrays.items()
    }


VARIABLES = {
    "block_conv": ("kernel", "bias"),
    "inner_conv": ("kernel", "bias"),
    "batch_normalization": ("gamma", "beta", "moving_mean", "moving_variance"),
    "block_bn": ("gamma", "beta", "moving_mean", "moving_variance"),
    "half": ("kernel", "bias"),
    "predictions": ("kernel", "bias"),
}


def variables(layer: str) -> tuple[str, ...]:
    return next(names for start, names in VARIABLES.items() if layer.startswith(start))


# Reading


@pytest.mark.parametrize("name", ["bfloat16.weights.h5", "bfloat16.keras"])
def test_what_keras_3_saves_is_read(folder: Path, name: str) -> None:
    arrays = expected(folder, "bfloat16")
    with open_file(folder / name) as opened:
        assert opened.container == ("keras" if name.endswith("keras") else "keras-weights")
        layers = json.loads(opened.metadata["layer_names"])
        assert layers["layers/conv2d"] == "block_conv0"
        assert layers["layers/conv2d_11"] == "block_conv11"
        assert layers["layers/functional/layers/conv2d"] == "inner_conv"
        assert len(opened.tensors) == len(arrays)
        for key, tensor in opened.tensors.items():
            group, _, number = key.partition("/vars/")
            layer = layers[group]
            array = arrays[f"{layer}/{variables(layer)[int(number)]}"]
            assert tensor.dtype == array.dtype.name
            assert tensor.read().tobytes() == array.tobytes()


def test_the_archive_says_what_the_model_is(folder: Path) -> None:
    with open_file(folder / "bfloat16.keras") as opened:
        assert json.loads(opened.metadata["config"])["class_name"] == "Functional"
        assert opened.metadata["keras_version"].startswith("3.")


@pytest.mark.parametrize("name", ["float32.h5", "float32-whole.h5"])
def test_what_keras_saves_as_legacy_is_read(folder: Path, name: str) -> None:
    arrays = expected(folder, "float32")
    with open_file(folder / name) as opened:
        assert opened.container == "keras-legacy"
        assert list(opened.tensors)[:2] == ["block_conv0/kernel", "block_conv0/bias"]
        assert opened.metadata["backend"] == "torch"
        assert ("model_config" in opened.metadata) == ("whole" in name)
        assert set(opened.tensors) == set(arrays)
        for key, tensor in opened.tensors.items():
            assert tensor.read().tobytes() == arrays[key].tobytes()


# Writing


def test_keras_loads_what_is_written(folder: Path, tmp_path: Path) -> None:
    copies = {
        "bfloat16.weights.h5": "bfloat16-ours.weights.h5",
        "bfloat16.keras": "bfloat16-again.weights.h5",
        "float32.h5": "float32-ours.h5",
        "float32-whole.h5": "float32-ours-whole.h5",
    }
    for source, target in copies.items():
        with open_file(folder / source) as opened:
            metadata = {k: v for k, v in opened.metadata.items() if k != "config"}
            write_file(folder / target, opened.tensors, metadata)
    differences = json.loads(run("load", folder, *copies.values()).splitlines()[-1])
    assert differences == dict.fromkeys(copies.values(), 0.0)


def test_names_of_layers_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "net.weights.h5"
    names = {"": "net", "layers/conv2d": "first", "layers/re_lu": "without variables"}
    metadata = {"layer_names": json.dumps(names)}
    write_file(path, tensors({"layers/conv2d/vars/0": np.zeros(2)}), metadata)
    with h5py.File(path) as file:
        assert file["layers/conv2d/vars"].attrs["name"] == "first"
        assert file["vars"].attrs["name"] == "net"
    with open_file(path) as opened:
        assert json.loads(opened.metadata["layer_names"]) == names


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ("[", "should be JSON"),
        ("[1]", "should be a JSON object"),
        ('{"a": 1}', "should be JSON of names by path"),
        ('{"a/b": "x"}', "'a/b' is a layer, but also an array"),
        ('{"a/b/c": "x"}', "'a/b/c' is a layer, but also an array, or below one"),
        ('{"c": "x"}', "'c' is a layer, but also an array"),
    ],
)
def test_names_of_layers_that_do_not_fit(tmp_path: Path, names: str, said: str) -> None:
    arrays = {"a/b": np.zeros(1), "c/vars": np.zeros(1)}
    with pytest.raises(WeightsError, match=said):
        write_file(tmp_path / "net.weights.h5", tensors(arrays), {"layer_names": names})
    assert list(tmp_path.iterdir()) == []


def test_bfloat16_is_marked_as_keras_marks_it(tmp_path: Path) -> None:
    path = tmp_path / "net.weights.h5"
    write_file(path, tensors({"vars/0": bits("bfloat16", (2,))}))
    with h5py.File(path) as file:
        assert file["vars/0"].attrs["dtype"] == "bfloat16"
    with pytest.raises(WeightsError, match="can't hold 'a/b', which is of type bfloat16; convert"):
        write_file(tmp_path / "net.h5", tensors({"a/b": bits("bfloat16", (2,))}))


def test_files_of_keras_2_13_are_read(tmp_path: Path) -> None:
    path = tmp_path / "net.weights.h5"
    with h5py.File(path, "w") as file:
        file["_layer_checkpoint_dependencies/conv2d/vars/0"] = np.zeros(2)
        deep = "functional/_layer_checkpoint_dependencies/dense/vars/0"
        file[f"_layer_checkpoint_dependencies/{deep}"] = np.zeros(2)
    assert set(read_all(path)) == {
        "layers/conv2d/vars/0",
        "layers/functional/layers/dense/vars/0",
    }


# Legacy lists of names


def test_long_lists_are_cut_up(tmp_path: Path) -> None:
    """HDF5 attributes hold 64 KiB."""
    path = tmp_path / "net.h5"
    arrays = {f"{'x' * 300}{n:04}/w:0": np.float32([n]) for n in range(700)}
    arrays |= {f"last/{'y' * 900}{n:04}": np.float32([n]) for n in range(100)}
    write_file(path, tensors(arrays))
    with h5py.File(path) as file:
        assert "layer_names" not in file.attrs
        parts = [file.attrs[f"layer_names{n}"] for n in range(4)]
        assert "layer_names4" not in file.attrs
        assert [name.decode() for part in parts for name in part][:700] == [
            name.partition("/")[0] for name in list(arrays)[:700]
        ]
        assert "weight_names1" in file["last"].attrs
    assert list(read_all(path)) == list(arrays)


def test_layers_without_weights_and_of_other_names(tmp_path: Path) -> None:
    """As Keras 2.0 wrote a layer that was built twice."""
    path = tmp_path / "net.h5"
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [b"input_1", b"conv2d_1", b"sub/net"]
        file.create_group("input_1").attrs["weight_names"] = []
        file["conv2d_1/conv2d_1_1/kernel:0"] = np.zeros(2)
        file["conv2d_1"].attrs["weight_names"] = [b"conv2d_1_1/kernel:0"]
        file["sub/net/a:0"] = np.ones(3)
        file["sub/net"].attrs["weight_names"] = ["a:0"]
        file["optimizer_weights/iteration"] = np.zeros(1)
    with open_file(path) as opened:
        assert list(opened.tensors) == ["conv2d_1_1/kernel:0", "a:0"]
        layers = {"conv2d_1": ["conv2d_1_1/kernel:0"], "sub/net": ["a:0"]}
        assert json.loads(opened.metadata["layers"]) == layers
        write_file(tmp_path / "copy.h5", opened.tensors, opened.metadata)
    with h5py.File(tmp_path / "copy.h5") as file:
        assert "layers" not in file.attrs
        assert file["conv2d_1/conv2d_1_1/kernel:0"].shape == (2,)
        assert list(file["sub/net"].attrs["weight_names"]) == [b"a:0"]


def legacy(path: Path, layers: Any, weights: Any) -> Path:
    with h5py.File(path, "w") as file:
        file["a/w"] = np.zeros(2)
        file.attrs["layer_names"] = layers
        file["a"].attrs["weight_names"] = weights
    return path


@pytest.mark.parametrize(
    ("layers", "weights", "said"),
    [
        (["a"], ["v"], "there is no 'v'"),
        (["b"], ["w"], "there is no 'b'"),
        (["a"], ["../a/w"], "there is no '..'"),
        (["a"], ["/a/w"], "there is no ''"),
        (["a"], ["."], "there is no '.'"),
        (["a"], [""], "there is no ''"),
        (["a", "a"], ["w"], "'w' is there twice"),
        (["a"], ["w", "w"], "'w' is there twice"),
        ("a", ["w"], "its attribute layer_names should be a list of names"),
        (["a"], "w", "its attribute weight_names should be a list of names"),
        (np.zeros(3), ["w"], "its attribute layer_names should be a list of names"),
        (["a/w"], ["w"], "it has an array 'a/w' that none of its lists of names has"),
        ([], ["w"], "it has an array 'a/w' that none of its lists of names has"),
        (["a"], [], "it has an array 'a/w' that none of its lists of names has"),
    ],
)
def test_legacy_lists_that_lie(tmp_path: Path, layers: Any, weights: Any, said: str) -> None:
    assert said in refusal(legacy(tmp_path / "net.h5", layers, weights))


def test_a_layer_without_its_list_of_names(tmp_path: Path) -> None:
    path = legacy(tmp_path / "net.h5", ["a"], ["w"])
    with h5py.File(path, "r+") as file:
        del file["a"].attrs["weight_names"]
    assert "it has an array 'a/w' that none of its lists" in refusal(path)


def test_weights_of_a_model_itself(tmp_path: Path) -> None:
    """Keras 2 keeps them in a group that is no layer."""
    path = legacy(tmp_path / "net.h5", ["a"], ["w"])
    with h5py.File(path, "r+") as file:
        group = file.create_group("top_level_model_weights")
        group.attrs["weight_names"] = np.array([], "S1")
        assert set(read_all(path)) == {"w"}
        group.attrs["weight_names"] = [b"scale:0"]
        group["scale:0"] = np.zeros(1)
    assert set(read_all(path)) == {"w", "scale:0"}


@pytest.mark.parametrize("layers", ['{"l": []}', '{"l": ["a", "a"]}', '{"l": ["b"]}', '{"l": 1}'])
def test_layers_that_do_not_fit(tmp_path: Path, layers: str) -> None:
    with pytest.raises(WeightsError, match="should have every tensor in the list of one layer"):
        write_file(tmp_path / "net.h5", tensors({"a": np.zeros(1)}), {"layers": layers})


def test_two_legacy_arrays_of_one_place(tmp_path: Path) -> None:
    arrays = {"a/b": np.zeros(1), "a/a/b/k": np.zeros(1)}
    with pytest.raises(WeightsError, match="there can't be an array"):
        write_file(tmp_path / "net.h5", tensors(arrays))
    assert list(tmp_path.iterdir()) == []


def test_a_whole_model_is_written_where_its_description_is_given(tmp_path: Path) -> None:
    path = tmp_path / "net.h5"
    write_file(path, tensors(network()), {"model_config": "{}"})
    with h5py.File(path) as file:
        assert set(file) == {"model_weights"}
        assert file.attrs["model_config"] == "{}"
    with open_file(path) as opened:
        assert list(opened.tensors) == list(network())
        assert opened.metadata["model_config"] == "{}"
