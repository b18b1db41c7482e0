"""safetensors, against the library of that name, and headers that lie."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.numpy

from densespec.errors import WeightsError
from densespec.weights.containers import open_file, write_file
from tests.containers.samples import assert_holds, bits, network, refusal, tensors
from tests.dtypes import DTYPES


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "net.safetensors"


def put(path: Path, header: Any, data: bytes = b"") -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def entry(dtype: str, shape: list[Any], *offsets: Any) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": list(offsets)}


def test_the_library_reads_what_is_written(path: Path) -> None:
    arrays = {d: bits(d, (2, 3)) for d in (*DTYPES, "complex64") if d != "bfloat16"}
    write_file(path, tensors(arrays), {"spec": "{}"})
    with safetensors.safe_open(path, framework="np") as file:
        assert file.metadata() == {"spec": "{}"}
    found = safetensors.numpy.load_file(path)
    assert set(found) == set(arrays)
    for name, array in arrays.items():
        assert found[name].tobytes() == array.tobytes()


def test_the_library_reads_bfloat16_and_float8(path: Path) -> None:
    import safetensors.torch
    import torch

    arrays = {d: bits(d, (4,)) for d in ("bfloat16", "float8_e4m3fn", "float8_e5m2")}
    write_file(path, tensors(arrays))
    for name, tensor in safetensors.torch.load_file(path).items():
        assert str(tensor.dtype) == f"torch.{name}"
        assert tensor.view(torch.uint8).numpy().tobytes() == arrays[name].tobytes()
    with open_file(path) as opened:
        assert_holds(opened, arrays)


def test_arrays_are_aligned_and_not_copied(path: Path) -> None:
    arrays = {f"{n}{d}": bits(d, (3,)) for n in range(3) for d in DTYPES}
    write_file(path, tensors(arrays))
    with open_file(path) as opened:
        assert list(opened.tensors) == list(arrays)
        for tensor in opened.tensors.values():
            array = tensor.read()
            assert array.flags.aligned
            assert not array.flags.owndata


def test_arrays_that_are_not_aligned_are_read(path: Path) -> None:
    header = {"a": entry("U8", [1], 0, 1), "b": entry("F64", [1], 1, 9)}
    put(path, header, b"\1" + struct.pack("<d", 2.5))
    with open_file(path) as opened:
        assert opened.tensors["b"].read()[0] == 2.5


def test_a_tensor_can_not_be_called_metadata(path: Path) -> None:
    with pytest.raises(WeightsError, match="'__metadata__' can't be a tensor's name"):
        write_file(path, tensors({"__metadata__": np.zeros(1)}))


FOUR = entry("U8", [4], 0, 4)


@pytest.mark.parametrize(
    ("header", "said"),
    [
        pytest.param({"a": entry("F32", [2], 0, 4)}, "should lie at [0, 8]", id="shape too large"),
        pytest.param({"a": entry("U8", [2], 0, 4)}, "should lie at [0, 2]", id="shape too small"),
        pytest.param({"a": entry("U8", [-4], 0, 4)}, "whole numbers from 0", id="negative"),
        pytest.param({"a": entry("U8", [-2, -2], 0, 4)}, "whole numbers", id="twice negative"),
        pytest.param({"a": entry("U8", [4.0], 0, 4)}, "whole numbers", id="fraction"),
        pytest.param({"a": entry("U8", [True, 4], 0, 4)}, "whole numbers", id="boolean"),
        pytest.param({"a": entry("U8", ["4"], 0, 4)}, "whole numbers", id="text"),
        pytest.param({"a": entry("U8", [1] * 65, 0, 1)}, "at most 64", id="too many axes"),
        pytest.param({"a": entry("U8", [2**62], 0, 2**62)}, "too large", id="huge"),
        pytest.param({"a": entry("U8", [0, 2**70], 0, 0)}, "too large", id="huge and empty"),
        pytest.param({"a": entry("F4", [8], 0, 4)}, "is of type 'F4'", id="unknown type"),
        pytest.param({"a": FOUR, "b": FOUR}, "should lie at [4, 8]", id="overlap"),
        pytest.param({"a": entry("U8", [2], 2, 4)}, "should lie at [0, 2]", id="hole"),
        pytest.param({"a": entry("U8", [2], 0, 2)}, "by its header", id="rest"),
        pytest.param({"a": entry("U8", [8], 0, 8)}, "by its header", id="beyond the end"),
        pytest.param({"a": entry("U8", [4], 4, 0)}, "should lie at [0, 4]", id="backwards"),
        pytest.param({"a": entry("U8", [4], -4, 0)}, "should lie at [0, 4]", id="before"),
        pytest.param({"a": entry("U8", [4], 0, 4.0)}, "should have a dtype", id="offset 4.0"),
        pytest.param({"a": entry("U8", [4], False, 4)}, "should have a dtype", id="offset false"),
        pytest.param({"a": FOUR | {"more": 1}}, "should have a dtype", id="more"),
        pytest.param({"a": {"dtype": "U8"}}, "should have a dtype", id="less"),
        pytest.param({"a": None}, "should have a dtype", id="null"),
        pytest.param({"a": FOUR, "__metadata__": {"x": 1}}, "texts only", id="metadata 1"),
        pytest.param({"a": FOUR, "__metadata__": []}, "texts only", id="metadata list"),
        pytest.param(b'{"a":1,"a":2}', "is there twice", id="twice"),
        pytest.param(b'{"a":{"dtype":"U8","dtype":"I8"}}', "is there twice", id="twice within"),
        pytest.param(b'{"a":' + b"[" * 100_000, "its header is nested deeper", id="nested"),
        pytest.param(b"[" + b"{}," * 10**6 + b"{}]", "has 2000002 parts", id="many parts"),
        pytest.param(b'{"a":' + b"9" * 10_000 + b"}", "its header is no JSON", id="many digits"),
        pytest.param(b'{"a":\xff}', "its header is no JSON", id="not UTF-8"),
        pytest.param(b'{"a"', "its header is no JSON", id="not JSON"),
    ],
)
def test_headers_that_lie(path: Path, header: Any, said: str) -> None:
    assert said in refusal(put(path, header, bytes(4)))


@pytest.mark.parametrize("size", [8, 100, 10**9, 2**63, 2**64 - 1])
def test_headers_longer_than_the_file(path: Path, size: int) -> None:
    path.write_bytes(struct.pack("<Q", size) + b"{}")
    assert f"says that its header has {size}" in refusal(path)


def test_every_cut_is_found(path: Path) -> None:
    write_file(path, tensors(network()))
    content = path.read_bytes()
    for size in range(1, len(content)):
        path.unlink()  # overwriting it is slower
        path.write_bytes(content[:size])
        assert "get the file anew" in refusal(path)
