"""The canonical checkpoint: what it says of itself, and that damage is always an error of ours."""

from __future__ import annotations

import json
import os
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

import densespec
from densespec.errors import WeightsError
from densespec.network.arrays import check_weights
from densespec.network.files import to_json
from densespec.network.graph import Graph, lower
from densespec.network.initial import initial_weights
from densespec.network.spec import DenseNetSpec
from densespec.weights.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from densespec.weights.comparing import compare
from densespec.weights.opening import open_weights
from tests.strategies import specs, tiny, unhurried

Arrays = dict[str, np.ndarray]

GRAPH = lower(tiny())


def _metadata(path: Path) -> dict[str, str]:
    with safetensors.safe_open(path, framework="np") as file:
        return dict(file.metadata())


def _other(graph: Graph, seed: int) -> Arrays:
    return {name: array + seed for name, array in initial_weights(graph, seed).items()}


def _named(path: Path) -> str:
    """The start of an error that names a file."""
    return rf"^{re.escape(str(path))}: "


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "net.safetensors"


# What is in the file


def test_a_checkpoint_describes_itself(path: Path) -> None:
    write_checkpoint(path, GRAPH, initial_weights(GRAPH))
    metadata = _metadata(path)
    digests = json.loads(metadata.pop("digests"))
    names = [weight.name for weight in GRAPH.weights]
    assert {*digests} == {*names, *(f"metadata {name}" for name in metadata)}
    assert metadata == {
        "format": "np",
        "densespec": "1",
        "spec": to_json(tiny()),
        "classifier": "yes",
    }


def test_a_checkpoint_without_a_classifier_says_so(path: Path) -> None:
    graph = lower(tiny(), include_top=False)
    write_checkpoint(path, graph, initial_weights(graph))
    assert _metadata(path)["classifier"] == "no"
    assert not read_checkpoint(path).include_top


def test_a_checkpoint_is_a_plain_safetensors_file_of_canonical_names(path: Path) -> None:
    arrays = _other(GRAPH, 3)
    write_checkpoint(path, GRAPH, arrays)
    found = safetensors.numpy.load_file(path)
    assert set(found) == {weight.name for weight in GRAPH.weights}
    for weight in GRAPH.weights:
        assert found[weight.name].shape == weight.shape
        np.testing.assert_array_equal(found[weight.name], arrays[weight.name])


@pytest.mark.parametrize("kind", [str, Path])
def test_reading_gives_back_what_was_written(path: Path, kind: Any) -> None:
    arrays = _other(GRAPH, 3)
    write_checkpoint(kind(path), GRAPH, arrays)
    checkpoint = read_checkpoint(kind(path))
    assert checkpoint.spec == tiny()
    assert checkpoint.include_top
    assert checkpoint.arrays.keys() == arrays.keys()
    for name, array in arrays.items():
        assert checkpoint.arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(checkpoint.arrays[name], array)


@settings(unhurried, max_examples=50)
@given(spec=specs(), include_top=st.booleans())
def test_the_spec_of_any_network_comes_back(
    tmp_path_factory: pytest.TempPathFactory, spec: DenseNetSpec, include_top: bool
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.safetensors"
    graph = lower(spec, include_top=include_top)
    write_checkpoint(path, graph, initial_weights(graph))
    checkpoint = read_checkpoint(path)
    assert checkpoint.spec == spec
    assert checkpoint.include_top == include_top
    assert set(checkpoint.arrays) == {weight.name for weight in graph.weights}


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda array: array.astype(array.dtype.newbyteorder()), id="bytes swapped"),
        pytest.param(np.asfortranarray, id="column-major"),
        pytest.param(lambda array: np.repeat(array, 2, axis=-1)[..., ::2], id="strided"),
        pytest.param(lambda array: np.flip(np.flip(array).copy()), id="negative strides"),
    ],
)
def test_the_layout_of_arrays_in_memory_does_not_matter(path: Path, change: Any) -> None:
    arrays = _other(GRAPH, 3)
    write_checkpoint(path, GRAPH, {name: change(array) for name, array in arrays.items()})
    for name, array in read_checkpoint(path).arrays.items():
        np.testing.assert_array_equal(array, arrays[name])


def test_arrays_read_stay_when_the_file_is_replaced(path: Path) -> None:
    write_checkpoint(path, GRAPH, _other(GRAPH, 3))
    checkpoint = read_checkpoint(path)
    write_checkpoint(path, GRAPH, _other(GRAPH, 4))
    for name, array in _other(GRAPH, 3).items():
        np.testing.assert_array_equal(checkpoint.arrays[name], array)


# Whole or not at all


def test_a_failure_leaves_the_old_checkpoint_and_nothing_else(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_checkpoint(path, GRAPH, _other(GRAPH, 3))
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    message = f"{_named(path)}can't be written: No space left on device"
    with pytest.raises(WeightsError, match=message):
        write_checkpoint(path, GRAPH, _other(GRAPH, 4))
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_arrays_that_do_not_fit_are_not_written(path: Path) -> None:
    arrays = _other(GRAPH, 3)
    del arrays["classifier.bias"]
    with pytest.raises(WeightsError, match=r"classifier\.bias is missing"):
        write_checkpoint(path, GRAPH, arrays)
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize("name", ["net.pt", "net", "net.safetensors.tmp", "net.SAFETENSORS"])
def test_another_suffix_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    message = f"{path}: a densespec checkpoint ends in .safetensors"
    with pytest.raises(WeightsError) as caught:
        write_checkpoint(path, GRAPH, initial_weights(GRAPH))
    assert str(caught.value) == message
    with pytest.raises(WeightsError) as caught:
        read_checkpoint(path)
    assert str(caught.value) == message
    assert list(tmp_path.iterdir()) == []


# Files that are no checkpoint


def test_an_absent_file_is_named(path: Path) -> None:
    with pytest.raises(WeightsError) as caught:
        read_checkpoint(path)
    assert str(caught.value) == f"{path}: no such file"


def test_a_folder_is_no_checkpoint(path: Path) -> None:
    path.mkdir()
    with pytest.raises(WeightsError, match=_named(path)):
        read_checkpoint(path)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"\x00" * 7, id="less than a length"),
        pytest.param(b"\xff" * 8, id="a length and no more"),
        pytest.param(b"\xff" * 100, id="a length beyond the file"),
        pytest.param(b"PK\x03\x04" + b"\x00" * 100, id="a zip file"),
        pytest.param(struct.pack("<Q", 2) + b"[]", id="a list for a header"),
        pytest.param(struct.pack("<Q", 4) + b"\xff\xfe{}", id="a header that is no text"),
    ],
)
def test_garbage_is_no_checkpoint(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=_named(path)):
        read_checkpoint(path)


def test_safetensors_of_another_maker_are_no_checkpoint(path: Path) -> None:
    safetensors.numpy.save_file(initial_weights(GRAPH), path)
    message = rf"{_named(path)}not a densespec checkpoint of version 1: its metadata says nothing"
    with pytest.raises(WeightsError, match=message):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        pytest.param(
            {"densespec": "2", "spec": to_json(tiny())},
            "not a densespec checkpoint of version 1: its metadata says 2",
            id="another version",
        ),
        pytest.param({"densespec": "1"}, "the spec in its metadata: the text is no", id="no spec"),
        pytest.param(
            {"densespec": "1", "spec": "{"},
            "the spec in its metadata: the text is no",
            id="half a spec",
        ),
        pytest.param(
            {"densespec": "1", "spec": '{"blocks": [0], "growth_rate": 1}'},
            r"the spec in its metadata: blocks = \[0\], but should be .* \[S1\]",
            id="a spec that breaks a constraint",
        ),
        pytest.param(
            {"densespec": "1", "spec": '{"blocks": [1], "growth_rate": 1, "depth": 9}'},
            "the spec in its metadata: unknown field of DenseNetSpec 'depth'",
            id="a spec with an unknown field",
        ),
        pytest.param(
            {"densespec": "1", "spec": '{"blocks": [9999], "growth_rate": 1}'},
            "its metadata states a network of 9999 dense layers, but it has only 27 arrays",
            id="a spec of more layers than arrays",
        ),
        pytest.param(
            {"densespec": "1", "spec": '{"blocks": [1], "growth_rate": 1073741824}'},
            r"its network can't be: values of all arrays = .* \[S27\]",
            id="a spec that no memory holds",
        ),
    ],
)
def test_metadata_that_is_not_ours_is_refused(
    path: Path, metadata: dict[str, str], message: str
) -> None:
    safetensors.numpy.save_file(initial_weights(GRAPH), path, metadata)
    with pytest.raises(WeightsError, match=_named(path) + message):
        read_checkpoint(path)


def _file(dtype: str, size: int) -> bytes:
    """A checkpoint of one array of two numbers of some type."""
    header = {
        "__metadata__": {"densespec": "1", "spec": to_json(tiny()), "classifier": "yes"},
        "classifier.bias": {"dtype": dtype, "shape": [2], "data_offsets": [0, size]},
    }
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(size)


@pytest.mark.parametrize(
    ("dtype", "size"),
    [
        *(pytest.param(name, 2, id=name) for name in ("BOOL", "I8", "U8")),
        *(pytest.param(name, 4, id=name) for name in ("BF16", "F16", "I16", "U16")),
        *(pytest.param(name, 1, id=name) for name in ("F4", "I4", "nonsense")),
        *(pytest.param(name, 16, id=name) for name in ("F64", "C64", "I64")),
    ],
)
def test_arrays_of_any_type_are_read_or_refused(path: Path, dtype: str, size: int) -> None:
    path.write_bytes(_file(dtype, size))
    _read_or_refuse(path)


def _read_or_refuse(path: Path) -> Checkpoint | None:
    try:
        checkpoint = read_checkpoint(path)
    except WeightsError as error:
        refusal = str(error)
    else:
        graph = lower(checkpoint.spec, include_top=checkpoint.include_top)
        check_weights(graph, checkpoint.arrays)
        return checkpoint
    assert re.match(_named(path), refusal)
    return None


# Damage


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    """A place for damaged checkpoints, and the bytes of a whole one."""
    path = tmp_path_factory.mktemp("damage") / "net.safetensors"
    write_checkpoint(path, GRAPH, _other(GRAPH, 3))
    return path, path.read_bytes()


def _header_end(content: bytes) -> int:
    return 8 + int(struct.unpack("<Q", content[:8])[0])


DAMAGE = settings(unhurried, max_examples=300)


@DAMAGE
@given(data=st.data())
def test_a_file_cut_short_is_refused(whole: tuple[Path, bytes], data: st.DataObject) -> None:
    path, content = whole
    path.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    with pytest.raises(WeightsError, match=_named(path)):
        read_checkpoint(path)


@unhurried
@given(tail=st.binary(min_size=1, max_size=20))
def test_a_file_with_more_at_its_end_is_refused(whole: tuple[Path, bytes], tail: bytes) -> None:
    path, content = whole
    path.write_bytes(content + tail)
    with pytest.raises(WeightsError, match=_named(path)):
        read_checkpoint(path)


@DAMAGE
@given(data=st.data())
def test_damage_to_the_header_is_read_or_refused(
    whole: tuple[Path, bytes], data: st.DataObject
) -> None:
    path, content = whole
    damaged = bytearray(content)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, _header_end(content) - 1))
        damaged[at] = data.draw(st.integers(0, 255))
    path.write_bytes(damaged)
    _read_or_refuse(path)


HEADER_VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-1, 9),
    st.sampled_from([2**31, 2**63 - 1, 2**64 - 1, 2**64]),
    st.floats(),
    st.sampled_from(["F32", "F64", "F8_E4M3", "BF16", "", "1", "yes", "{}"]),
    st.lists(st.integers(0, 2**64), max_size=3),
    st.just({}),
)


@DAMAGE
@given(data=st.data())
def test_a_header_with_another_value_is_read_or_refused(
    whole: tuple[Path, bytes], data: st.DataObject
) -> None:
    path, content = whole
    header = json.loads(content[8 : _header_end(content)])
    entry = header[data.draw(st.sampled_from(sorted(header)))]
    entry[data.draw(st.sampled_from(sorted(entry)))] = data.draw(HEADER_VALUES)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + content[_header_end(content) :])
    _read_or_refuse(path)


@DAMAGE
@given(data=st.data())
def test_damage_to_a_number_is_refused(whole: tuple[Path, bytes], data: st.DataObject) -> None:
    path, content = whole
    at = data.draw(st.integers(_header_end(content), len(content) - 1))
    damaged = bytearray(content)
    damaged[at] ^= data.draw(st.integers(1, 255))
    path.write_bytes(damaged)
    with pytest.raises(WeightsError, match=_named(path) + r".* the file is damaged"):
        read_checkpoint(path)


WAYS_TO_READ: dict[str, Callable[[Path], object]] = {
    "build": lambda path: densespec.build(weights=path, backend="numpy"),
    "convert": lambda path: densespec.convert(path, path.with_name("net.pth")),
    "compare": lambda path: compare(path, path),
    "load_weights": lambda path: densespec.load_weights(
        densespec.build(tiny(), backend="numpy"), path
    ),
}


@pytest.mark.parametrize("way", WAYS_TO_READ)
def test_whatever_reads_a_checkpoint_refuses_one_that_is_damaged(path: Path, way: str) -> None:
    write_checkpoint(path, GRAPH, initial_weights(GRAPH))
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=_named(path) + r".* the file is damaged"):
        WAYS_TO_READ[way](path)
    assert not path.with_name("net.pth").exists()


def test_an_array_that_is_missing_or_new_is_told_by_the_digests(path: Path) -> None:
    write_checkpoint(path, GRAPH, initial_weights(GRAPH))
    arrays, texts = safetensors.numpy.load_file(path), _metadata(path)
    for changed in ({**arrays, "more": np.ones(1)}, dict(list(arrays.items())[1:])):
        safetensors.numpy.save_file(changed, path, texts)
        (name,) = changed.keys() ^ arrays.keys()
        with pytest.raises(WeightsError, match=f"{re.escape(name)} differ"):
            open_weights(path).__enter__()


def test_a_checkpoint_of_another_writer_needs_no_digests(path: Path) -> None:
    write_checkpoint(path, GRAPH, initial_weights(GRAPH))
    texts = _metadata(path)
    del texts["digests"]
    safetensors.numpy.save_file(safetensors.numpy.load_file(path), path, texts)
    assert read_checkpoint(path).spec == tiny()


@pytest.mark.parametrize("name", ["digests", "densespec"])
def test_digests_under_a_damaged_name_are_known(path: Path, name: str) -> None:
    write_checkpoint(path, GRAPH, initial_weights(GRAPH))
    damaged = path.read_bytes().replace(f'"{name}":'.encode(), f'"{name[:-1]}_":'.encode())
    assert damaged != path.read_bytes()
    path.write_bytes(damaged)
    with pytest.raises(WeightsError, match=_named(path) + ".* the file is damaged"):
        read_checkpoint(path)


@pytest.mark.parametrize("text", ["", "[" * 100_000, "[]", "{}", '{"stem.conv.kernel": 3}'])
def test_digests_that_are_none_are_refused(path: Path, text: str) -> None:
    write_checkpoint(path, GRAPH, initial_weights(GRAPH))
    arrays = safetensors.numpy.load_file(path)
    safetensors.numpy.save_file(arrays, path, _metadata(path) | {"digests": text})
    with pytest.raises(WeightsError, match=_named(path) + ".*digests"):
        read_checkpoint(path)
