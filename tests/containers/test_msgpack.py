"""msgpack, against Flax and the library of that name, and trees that lie."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgpack as library
import numpy as np
import pytest

from densespec.errors import WeightsError
from densespec.weights.containers import flax_msgpack, open_file, write_file
from tests.containers.samples import assert_holds, bits, network, refusal, tensors
from tests.dtypes import DTYPES


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "net.msgpack"


@pytest.fixture
def serialization() -> Any:
    return pytest.importorskip("flax.serialization", reason="Flax is not installed")


def flat(tree: Any, prefix: str = "") -> dict[str, np.ndarray]:
    found = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        found |= flat(value, f"{name}/") if isinstance(value, dict) else {name: np.asarray(value)}
    return found


ARRAYS = {f"params/{d}/x{n}": bits(d, s) for d in DTYPES for n, s in enumerate([(), (0,), (2, 3)])}


def test_flax_reads_what_is_written(serialization: Any, path: Path) -> None:
    write_file(path, tensors(ARRAYS))
    found = flat(serialization.msgpack_restore(path.read_bytes()))
    assert list(found) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert found[name].dtype == array.dtype
        assert found[name].shape == array.shape
        assert found[name].tobytes() == array.tobytes()


def test_what_flax_writes_is_read(serialization: Any, path: Path) -> None:
    tree: dict[str, Any] = {}
    for name, array in ARRAYS.items():
        *parents, leaf = name.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = array
    path.write_bytes(serialization.msgpack_serialize(tree))
    with open_file(path) as opened:
        assert_holds(opened, ARRAYS)
    write_file(path.with_name("same.msgpack"), tensors(dict(sorted(ARRAYS.items()))))
    assert path.with_name("same.msgpack").read_bytes() == path.read_bytes()


def test_flax_restores_into_a_target(serialization: Any, path: Path) -> None:
    import jax.numpy as jnp

    target = {"params": {"a": jnp.zeros(3), "b": [jnp.zeros(1), jnp.zeros(2)]}}
    arrays = {"params/a": np.ones(3, np.float32)}
    arrays |= {f"params/b/{n}": np.full(n + 1, n, np.float32) for n in range(2)}
    write_file(path, tensors(arrays), {"spec": "{}"})
    found = serialization.from_bytes(target, path.read_bytes())
    assert found["params"]["b"][1].tolist() == [1, 1]
    assert found["params"]["a"].tolist() == [1, 1, 1]


@pytest.mark.parametrize("size", [16, 60, 64])
def test_big_arrays_are_in_chunks(
    serialization: Any, path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(flax_msgpack, "CHUNK_SIZE", size)
    monkeypatch.setattr(serialization, "MAX_CHUNK_SIZE", size)
    arrays = {"a/big": bits("float32", (5, 6)), "a/small": bits("float32", (2,))}
    arrays |= {"b": bits("bfloat16", (40,)), "c": bits("float64", (2, 2, 5))}
    write_file(path, tensors(arrays))
    assert b"__msgpack_chunked_array__" in path.read_bytes()
    found = flat(serialization.msgpack_restore(path.read_bytes()))
    assert all(found[name].tobytes() == array.tobytes() for name, array in arrays.items())
    with open_file(path) as opened:
        assert_holds(opened, arrays)
    tree = {"a": {"big": arrays["a/big"], "small": arrays["a/small"]}, "b": arrays["b"]}
    path.write_bytes(serialization.msgpack_serialize(tree | {"c": arrays["c"]}))
    with open_file(path) as opened:
        assert_holds(opened, arrays)


def test_scalars_and_lists(serialization: Any, path: Path) -> None:
    tree = {
        "step": 3,
        "big": 2**40,
        "low": -7,
        "rate": 0.5,
        "name": "x" * 300,
        "done": True,
        "none": None,
        "complex": 1 + 2j,
        "scalar": np.float32(2.5),
        "list": [np.arange(2), {"x": np.arange(3)}],
        "bytes": b"x" * 70_000,
        "empty": {},
    }
    path.write_bytes(serialization.msgpack_serialize(tree))
    expected = {"scalar": np.asarray(np.float32(2.5)), "list/0": np.arange(2)}
    with open_file(path) as opened:
        assert_holds(opened, expected | {"list/1/x": np.arange(3)})
        skipped = ["step", "big", "low", "rate", "name", "done", "none", "complex", "bytes"]
        assert set(json.loads(opened.metadata["skipped"])) == set(skipped)


def test_keys_that_are_numbers(path: Path) -> None:
    path.write_bytes(packed({"a": {7: array([1], "uint8", b"x"), -300: None}}))
    with open_file(path) as opened:
        assert list(opened.tensors) == ["a/7"]
        assert opened.metadata["skipped"] == '["a/-300"]'


def test_the_library_reads_what_is_written(path: Path) -> None:
    arrays = {f"{'n' * n}/{n}": np.zeros(1) for n in (1, 15, 16, 31, 32, 255, 256)}
    arrays |= {f"m/{n:05}": np.zeros(1) for n in range(300)}
    write_file(path, tensors(arrays), {"k": "v" * 70_000})
    tree = library.unpackb(path.read_bytes())
    assert tree["__metadata__"] == {"k": "v" * 70_000}
    assert len(tree["m"]) == 300
    assert tree["n"]["1"].code == 1


def packed(tree: Any) -> bytes:
    return library.packb(tree, strict_types=True)


def array(shape: Any, dtype: Any, data: bytes, *more: Any) -> library.ExtType:
    return library.ExtType(1, packed([shape, dtype, data, *more]))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        pytest.param({"a": array([2], "float32", bytes(4))}, "in 4 bytes", id="too few"),
        pytest.param({"a": array([1], "float32", bytes(8))}, "in 8 bytes", id="too many"),
        pytest.param({"a": array([-1], "float32", bytes(4))}, "whole numbers", id="negative"),
        pytest.param({"a": array([2**62], "float32", b"")}, "too large", id="huge"),
        pytest.param({"a": array([0, 2**62], "float32", b"")}, "too large", id="huge and empty"),
        pytest.param({"a": array([1.0], "float32", bytes(4))}, "whole numbers", id="fraction"),
        pytest.param({"a": array([True], "float32", bytes(4))}, "whole numbers", id="boolean"),
        pytest.param({"a": array([[1]], "float32", bytes(4))}, "whole numbers", id="nested shape"),
        pytest.param({"a": array([1] * 65, "uint8", b"x")}, "at most 64", id="too many axes"),
        pytest.param({"a": array("ab", "uint8", b"x")}, "not of shape, type", id="shape is text"),
        pytest.param({"a": array([1], "object", bytes(8))}, "of type 'object'", id="objects"),
        pytest.param({"a": array([1], "i4,f4", bytes(8))}, "of type 'i4,f4'", id="records"),
        pytest.param({"a": array([1], 5, bytes(8))}, "not of shape, type", id="type is a number"),
        pytest.param({"a": array([8], "uint8", 8)}, "not of shape, type", id="data are a number"),
        pytest.param({"a": array([1], "uint8", b"x", 1)}, "not of shape, type", id="four parts"),
        pytest.param({"a": library.ExtType(1, b"")}, "not of shape, type", id="nothing"),
        pytest.param(
            {"a": library.ExtType(1, b"\x93\x91\x01\xa5u")}, "not of shape, type", id="cut"
        ),
        pytest.param([1, 2], "no known kind", id="a list"),
        pytest.param(b"\x82\xa1a\xc0\xa1a\xc0", "twice", id="twice"),
        pytest.param(b"\x81\xc0\xc0", "no known kind", id="key of None"),
        pytest.param(b"\x82\xa1a\xc0\xc0\xc0", "neither a text nor", id="second key of None"),
        pytest.param(b"\xdf\xff\xff\xff\xff\xa1a", "OutOfData", id="four billion entries"),
        pytest.param(b"\x81\xa1a\xdd\xff\xff\xff\xff", "OutOfData", id="four billion items"),
        pytest.param(b"\x81\xa1a\xc6\xff\xff\xff\xff", "OutOfData", id="four gigabytes"),
        pytest.param(b"\x81\xa1a" + b"\x91" * 10**5 + b"\xc0", "nested deeper", id="deep lists"),
        pytest.param(b"\x81\xa1a" * 10**5 + b"\xc0", "nested deeper", id="deep maps"),
        pytest.param(b"\x81\xa1a\xdc\xff\xff" + b"\xc0" * 10**4, "OutOfData", id="short list"),
        pytest.param(b"\x81\xa1a\xc1", "FormatError", id="no such byte"),
        pytest.param(b"\x81\xa1a\xc0\xc0", "after 4 of 5 bytes", id="rest"),
        pytest.param(b"\x81\xa1\xff\xc0", "UnicodeDecodeError", id="not UTF-8"),
    ],
)
def test_trees_that_lie(path: Path, content: Any, said: str) -> None:
    path.write_bytes(content if isinstance(content, bytes) else packed(content))
    target = path if "no known kind" not in said else path.rename(path.with_suffix(".dat"))
    assert said in refusal(target)


def test_too_many_entries(path: Path) -> None:
    path.write_bytes(b"\x81\xa1a\xdd" + (4 * 10**5).to_bytes(4, "big") + b"\xc0" * 4 * 10**5)
    assert "more than 150000 entries" in refusal(path)


def test_two_ways_to_one_name(path: Path) -> None:
    path.write_bytes(
        packed({"a": {"b": array([1], "uint8", b"x")}, "a/b": array([], "uint8", b"x")})
    )
    assert "'a/b' is there twice" in refusal(path)


def chunked(**changes: Any) -> dict[str, Any]:
    one = array([2], "float32", bytes(8))
    whole = {"__msgpack_chunked_array__": True, "shape": {"0": 4}, "chunks": {"0": one, "1": one}}
    return whole | changes


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"shape": {"0": 5}}, "but its chunks have 4 elements"),
        ({"shape": {"0": 2**62}}, "too large"),
        ({"shape": {"0": -4}}, "whole numbers"),
        ({"shape": {"1": 4}}, "KeyError"),
        ({"shape": 4}, "without shape or chunks"),
        ({"chunks": {}}, "should be in chunks of one type"),
        ({"chunks": {"0": 1}}, "should be in chunks of one type"),
        (
            {"chunks": {"0": array([2], "int32", bytes(8)), "1": array([2], "uint8", b"xx")}},
            "should be in chunks of one type",
        ),
    ],
)
def test_chunks_that_lie(path: Path, changes: dict[str, Any], said: str) -> None:
    path.write_bytes(packed({"a": chunked()}))
    with open_file(path) as opened:
        assert opened.tensors["a"].read().tolist() == [0, 0, 0, 0]
    path.write_bytes(packed({"a": chunked(**changes)}))
    assert said in refusal(path)


@pytest.mark.parametrize("name", ["__metadata__", "__metadata__/a", "a/__msgpack_chunked_array__"])
def test_names_that_mean_something_else(path: Path, name: str) -> None:
    with pytest.raises(WeightsError, match="can't be a name in a msgpack file"):
        write_file(path, tensors({name: np.zeros(1)}), {"a": "b"})


def test_every_cut_is_found(path: Path) -> None:
    write_file(path, tensors(network()))
    content = path.read_bytes()
    for size in range(1, len(content)):
        path.unlink()  # overwriting it is slower
        path.write_bytes(content[:size])
        assert refusal(path)
