"""What a file is, its content says; and what is said of files that can't be read or written."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from importlib import util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from densespec.errors import PackageMissing, UnknownName, WeightsError
from densespec.weights.containers import SUFFIXES, container_of, open_file, write_file
from densespec.weights.tensors import Tensor
from tests.containers.samples import (
    FOREIGN,
    SAMPLES,
    WRITTEN,
    assert_holds,
    bits,
    network,
    read_all,
    refusal,
    sample,
    tensors,
)


@pytest.mark.parametrize("name", SAMPLES)
@pytest.mark.parametrize("suffix", [*SUFFIXES, ".unknown", ""])
def test_the_content_decides(tmp_path: Path, name: str, suffix: str) -> None:
    source = sample(tmp_path, name, network())
    renamed = source.rename(tmp_path / f"renamed{suffix}")
    with open_file(renamed) as opened:
        by_name = {file: container for container, file in WRITTEN.items()}
        assert opened.container == (FOREIGN[name][0] if name in FOREIGN else by_name[name])
        assert_holds(opened, network())


@pytest.mark.parametrize(("suffix", "container"), SUFFIXES.items())
def test_the_suffix_decides_what_is_written(tmp_path: Path, suffix: str, container: str) -> None:
    assert container_of(f"net{suffix}") == container_of(f"NET{suffix.upper()}") == container
    if container == "keras":
        return
    write_file(tmp_path / f"net{suffix}", tensors(network()))
    with open_file(str(tmp_path / f"net{suffix}")) as opened:
        assert opened.container == container


def test_the_container_may_be_given(tmp_path: Path) -> None:
    write_file(tmp_path / "net", tensors(network()), container="npz")
    with open_file(tmp_path / "net") as opened:
        assert opened.container == "npz"


# What can't be opened


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none.pth") == "no such file"


def test_a_folder(tmp_path: Path) -> None:
    assert refusal(tmp_path) == "a folder, but should be a weight file; it has none"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.pth")
    assert refusal(tmp_path / "pipe.pth").startswith("a device or pipe")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read all")
def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    path = sample(tmp_path, "net.npz", network())
    path.chmod(0)
    assert refusal(path) == "can't be read: Permission denied"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "empty. Expected"),
        (b"version https://git-lfs.github.com/spec/v1\n", "run git lfs pull"),
        (b"<!DOCTYPE html><html>", "a web page"),
        (b'{"weight_map": {}}', "JSON text"),
        (b"\x1f\x8b\x08\0\0", "compressed by gzip"),
    ],
)
@pytest.mark.parametrize("suffix", [".pth", ".h5", ".safetensors", ".what"])
def test_files_of_another_kind_are_named(
    tmp_path: Path, content: bytes, said: str, suffix: str
) -> None:
    path = tmp_path / f"net{suffix}"
    path.write_bytes(content)
    assert said in refusal(path)
    assert ".safetensors" in refusal(path)


def test_files_of_no_known_kind_are_shown(tmp_path: Path) -> None:
    path = tmp_path / "net.dat"
    path.write_bytes(b"MATLAB 5.0")
    assert refusal(path).startswith("of no known kind, it starts with b'MATLAB 5.0'. Expected")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_rubbish_under_any_suffix_is_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"net{suffix}"
    for content in (b"\0", b"\0" * 100, b"x", bytes(range(256)), b"PK\3\4", b"\x80", b"\x80\2."):
        path.write_bytes(content)
        if content != b"\x80":  # an empty map of msgpack
            assert refusal(path)


def test_a_zip_archive_of_something_else(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "net.zip", "w") as archive:
        archive.writestr("readme.txt", "hello")
    assert refusal(tmp_path / "net.zip").startswith("of no known kind")


# What can't be written


def test_unknown_suffixes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"net\.onnx: its suffix should be one of \.safetensors"):
        write_file(tmp_path / "net.onnx", {})


def test_unknown_containers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="Did you mean safetensors"):
        write_file(tmp_path / "net", {}, container="safetensor")


def test_keras_archives_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"which only Keras can write; write a \.weights\.h5"):
        write_file(tmp_path / "net.keras", {})


def test_folders_are_not_made(tmp_path: Path) -> None:
    path = tmp_path / "none" / "net.npz"
    with pytest.raises(WeightsError, match="can't be written: no folder") as failure:
        write_file(path, {})
    assert str(failure.value).startswith(f"{path}: ")


@pytest.mark.parametrize("container", WRITTEN)
@pytest.mark.parametrize("name", ["", "a\0b", "\ud800"])
def test_names_that_no_file_can_hold(tmp_path: Path, container: str, name: str) -> None:
    with pytest.raises(WeightsError, match="can't be a name of a tensor"):
        write_file(tmp_path / WRITTEN[container], {name: Tensor.of(np.zeros(1))})
    with pytest.raises(WeightsError, match="can't be a key in metadata"):
        write_file(tmp_path / WRITTEN[container], {}, {name: "x"})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("container", ["keras-weights", "keras-legacy", "msgpack"])
@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["a", "a/b"], "'a' is an array, and so is 'a/b'"),
        (["a//b"], "has a part that is empty"),
        (["/a"], "has a part that is empty"),
        (["./a"], "has a part that is empty, '.'"),
        (["/".join("x" * 65)], "has more than 64 parts"),
        (["x" * 1001], "longer than 1000 bytes"),
    ],
)
def test_names_that_are_no_tree(
    tmp_path: Path, container: str, names: list[str], said: str
) -> None:
    named = {name: Tensor.of(np.zeros(1, np.float32)) for name in names}
    with pytest.raises(WeightsError, match=said):
        write_file(tmp_path / WRITTEN[container], named)


@pytest.mark.parametrize(
    ("container", "dtype"),
    [
        ("torch", "uint16"),
        ("torch", "float8_e4m3fn"),
        ("keras-weights", "complex64"),
        ("keras-legacy", "float8_e5m2"),
        ("npz", "float8_e4m3fn"),
        ("safetensors", "complex128"),
    ],
)
def test_types_that_a_container_lacks(tmp_path: Path, container: str, dtype: str) -> None:
    with pytest.raises(WeightsError, match=f"can't hold 'x', which is of type {dtype}; convert"):
        write_file(tmp_path / WRITTEN[container], {"x": Tensor.of(bits(dtype, (2,)))})
    assert list(tmp_path.iterdir()) == []


# What is imported


def test_nothing_is_imported_before_it_is_needed(tmp_path: Path) -> None:
    for name in ("net.safetensors", "net.npz", "zip.pth", "archive.keras", "old.weights.h5"):
        sample(tmp_path, name, network())
    code = """
import sys
import densespec
from densespec.weights.containers import open_file, write_file
for number, path in enumerate(sys.argv[1:]):
    with open_file(path) as opened:
        for suffix in (".safetensors", ".pth", ".npz"):
            write_file(f"{path}-{number}{suffix}", opened.tensors)
late = {"torch", "h5py", "safetensors", "msgpack", "flax", "jax", "ml_dtypes", "keras"}
assert not late & set(sys.modules), late & set(sys.modules)
"""
    command = [sys.executable, "-c", code, *map(str, sorted(tmp_path.iterdir()))]
    subprocess.run(command, check=True)


@pytest.mark.parametrize(
    ("name", "package", "said"),
    [
        (
            "net.msgpack",
            "msgpack",
            "reading msgpack files needs the package 'msgpack', which",
        ),
        ("half.pth", "ml_dtypes", "reading bfloat16 arrays needs the package 'ml_dtypes', which"),
        ("half.npz", "ml_dtypes", "reading bfloat16 arrays needs the package 'ml_dtypes', which"),
    ],
)
def test_packages_that_are_missing_to_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, package: str, said: str
) -> None:
    path = sample(tmp_path, name, {"x": bits("bfloat16", (2,))})
    _hide(monkeypatch, package)
    with pytest.raises(PackageMissing, match=f"^{said}.*pip install "):
        read_all(path)


@pytest.mark.parametrize(
    ("name", "package", "said"),
    [
        ("net.weights.h5", "h5py", r"^writing HDF5 files needs .*pip install 'densespec\[hdf5\]'"),
        ("net.msgpack", "msgpack", r"^writing msgpack files .*pip install 'densespec\[msgpack\]'"),
    ],
)
def test_packages_that_are_missing_to_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, package: str, said: str
) -> None:
    _hide(monkeypatch, package)
    with pytest.raises(PackageMissing, match=said):
        write_file(tmp_path / name, tensors(network()))
    assert list(tmp_path.iterdir()) == []


def _hide(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    find = util.find_spec

    def without(name: str, *rest: Any) -> Any:
        return None if name == package else find(name, *rest)

    monkeypatch.setattr(util, "find_spec", without)
