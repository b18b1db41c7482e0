"""Arrays, and small files of every kind, some written here and some by others' libraries."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import safetensors.numpy
import torch

from densespec.errors import WeightsError
from densespec.weights.containers import open_file, write_file
from densespec.weights.tensors import OpenFile, Tensor
from tests.dtypes import dtype_of

Arrays = dict[str, np.ndarray]

WRITTEN = {
    "safetensors": "net.safetensors",
    "torch": "net.pth",
    "keras-weights": "net.weights.h5",
    "keras-legacy": "net.h5",
    "msgpack": "net.msgpack",
    "npz": "net.npz",
    "orbax": "net.orbax",
}
"""The name of a file, or of a folder, by container."""

SHAPES = ((), (1,), (0,), (3,), (2, 0, 3), (2, 3, 4), (1, 1, 7, 5))


def bits(dtype: str, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Any bits at all, among them NaN of every kind."""
    kind = dtype_of(dtype)
    high = 2 if dtype == "bool" else 256
    size = int(np.prod(shape)) * kind.itemsize
    return (
        np.random.default_rng(seed)
        .integers(0, high, size=size, dtype=np.uint8)
        .view(kind)
        .reshape(shape)
    )


def network(layers: int = 3) -> Arrays:
    """Arrays as a small network has, under names that every container can hold."""
    random = np.random.default_rng(0)
    shapes = {"kernel": (3, 2), "bias": (2,)}
    return {
        f"layers/conv{layer}/{name}": random.standard_normal(shape).astype(np.float32)
        for layer in range(layers)
        for name, shape in shapes.items()
    }


def tensors(arrays: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    return {name: Tensor.of(array) for name, array in arrays.items()}


def assert_holds(opened: OpenFile, arrays: Mapping[str, np.ndarray]) -> None:
    """Check names, types, shapes and every bit."""
    assert set(opened.tensors) == set(arrays)
    for name, array in arrays.items():
        tensor = opened.tensors[name]
        found = tensor.read()
        assert tensor.shape == found.shape == array.shape, name
        assert tensor.dtype == found.dtype.name == array.dtype.name, name
        assert found.dtype.isnative
        assert found.tobytes() == array.astype(array.dtype.newbyteorder("=")).tobytes(), name


def read_all(path: Path) -> Arrays:
    with open_file(path) as opened:
        return {name: tensor.read() for name, tensor in opened.tensors.items()}


def refusal(path: Path) -> str:
    """What is said of a file that is refused, when it is opened or read; without the path."""
    with pytest.raises(WeightsError) as failure:
        read_all(path)
    assert str(failure.value).startswith(f"{path}: ")
    return str(failure.value).removeprefix(f"{path}: ")


# Files by others


def torch_state(arrays: Arrays) -> dict[str, Any]:
    return {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}


def _h5py(path: Path, arrays: Arrays, **options: Any) -> None:
    with h5py.File(path, "w", **options) as file:
        file.attrs["keras_version"] = "3"
        for name, array in arrays.items():
            file.create_dataset(name, data=array)


def keras_archive(path: Path, arrays: Arrays, compression: int = zipfile.ZIP_STORED) -> None:
    weights = path.with_suffix(".weights.h5")
    _h5py(weights, arrays)
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("metadata.json", '{"keras_version": "3.15.1", "date_saved": "today"}')
        archive.writestr("config.json", '{"class_name": "Functional"}')
        archive.write(weights, "model.weights.h5")
    weights.unlink()


FOREIGN: dict[str, tuple[str, Callable[[Path, Arrays], None]]] = {
    "a.safetensors": ("safetensors", lambda p, a: safetensors.numpy.save_file(a, p)),
    "zip.pth": ("torch", lambda p, a: torch.save(torch_state(a), p)),
    "wrapped.pt": ("torch", lambda p, a: torch.save({"state_dict": torch_state(a), "n": 3}, p)),
    "legacy.pth": (
        "torch",
        lambda p, a: torch.save(torch_state(a), p, _use_new_zipfile_serialization=False),
    ),
    "old.weights.h5": ("keras-weights", _h5py),
    "new.weights.h5": ("keras-weights", lambda p, a: _h5py(p, a, libver="latest")),
    "archive.keras": ("keras", keras_archive),
    "packed.keras": ("keras", lambda p, a: keras_archive(p, a, zipfile.ZIP_DEFLATED)),
    "plain.npz": ("npz", lambda p, a: np.savez(p, **a)),
    "packed.npz": ("npz", lambda p, a: np.savez_compressed(p, **a)),
}
"""Container, and what writes such a file, by file name."""


def sample(folder: Path, name: str, arrays: Arrays) -> Path:
    """A file of this name with these arrays, written here or by the library of its kind."""
    path = folder / name
    if name in FOREIGN:
        FOREIGN[name][1](path, arrays)
    else:
        write_file(path, tensors(arrays), {"note": "a note"})
    return path


SAMPLES = (*WRITTEN.values(), *FOREIGN)
FILES = tuple(name for name in SAMPLES if name != "net.orbax")
"""Samples that are one file."""


def content(path: Path) -> dict[str, bytes]:
    """Every byte of a file, or of the files of a folder."""
    files = filter(Path.is_file, path.rglob("*")) if path.is_dir() else [path]
    return {str(one.relative_to(path)): one.read_bytes() for one in files}
