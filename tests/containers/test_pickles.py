"""Pickles: data are read, all else becomes an inert stand-in, nothing is run, traps are refused."""

from __future__ import annotations

import argparse
import contextlib
import datetime
import os
import pathlib
import pickle
import struct
from collections import Counter, OrderedDict, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from densespec.weights.pickles import machine
from densespec.weights.pickles.arrays import array_of
from densespec.weights.pickles.instructions import PickleError
from densespec.weights.pickles.machine import PickleReader
from densespec.weights.pickles.standins import Dict, Global, Made, called, described, text_of
from tests.data.samples import python2


def read(content: bytes) -> Any:
    return PickleReader(content).read()


def plain(value: Any) -> Any:
    """Data as Python has them, from what the machine made of them."""
    match value:
        case Dict(pairs):
            return {plain(key): plain(item) for key, item in pairs}
        case memoryview():
            return bytes(value)
        case list() | tuple():
            return type(value)(map(plain, value))
        case Made(arguments=(str() as text, "latin1")):
            return text.encode("latin1")
        case Made():
            array = array_of(value)
            return value if array is None else array.read()
    return value


ROWS = np.arange(24, dtype=np.uint8).reshape(4, 6)
ARRAYS = {"C order": ROWS, "Fortran order": np.asfortranarray(ROWS), "empty": ROWS[:0]}
PLAIN = {
    "label_names": ["airplane", "automobile"],
    "labels": [0, 1, 255, 256, 70000, -3, 2**40],
    "nothing": None,
    "flags": (True, False, 1.5),
    "tuples": ((), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)),
    "bytes": b"\x00\xff",
    "tables": {1: {}, "two": []},
}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_data_of_any_protocol_are_read(protocol: int) -> None:
    assert plain(read(pickle.dumps(PLAIN, protocol))) == PLAIN


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("dtype", ["u1", "?", "<f4", ">f4", "<i8", ">c8", "f2"])
@pytest.mark.parametrize("shape", [(4, 6), (0, 3), ()])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_of_numbers_are_read(protocol: int, dtype: str, shape: Any, order: Any) -> None:
    array = np.asarray(np.arange(24)[: int(np.prod(shape))].reshape(shape), dtype, order=order)
    found = array_of(read(pickle.dumps(array, protocol)))
    assert found is not None
    assert found.shape == array.shape
    assert found.read().dtype == array.dtype.newbyteorder("=")
    np.testing.assert_array_equal(found.read(), array)


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_may_be_long(protocol: int) -> None:
    """Old protocols write their elements as texts, which are read when the array is."""
    array = np.random.default_rng(0).integers(0, 256, (300, 400), np.uint8)
    content = pickle.dumps(array, protocol)
    found = array_of(read(content))
    assert found is not None
    np.testing.assert_array_equal(found.read(), array)
    shorter = read(content.replace(b"M\x2c\x01", b"M\x2b\x01", 1))
    with pytest.raises(PickleError, match=r"an array of shape \(299, 400\).* has 120000 bytes"):
        getattr(array_of(shorter), "read", lambda: None)()


@pytest.mark.parametrize("array", ARRAYS.values(), ids=ARRAYS)
def test_what_python_2_pickled_is_read_as_pickle_itself_does(array: np.ndarray) -> None:
    content = python2({"data": array, "labels": [3, 4], "batch_label": b"\xe9 of 5"})
    found, expected = plain(read(content)), pickle.loads(content, encoding="bytes")
    np.testing.assert_array_equal(found.pop(b"data"), expected.pop(b"data"))
    assert found == expected == {b"labels": [3, 4], b"batch_label": b"\xe9 of 5"}


def test_escaped_texts_of_python_2_are_bytes() -> None:
    made = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n(I2\nI2\nt"
    kind = b"cnumpy\ndtype\n(S'u1'\nI0\nI1\ntR(I3\nS'|'\nNNNI-1\nI-1\nI0\ntb"
    content = b"(dp1\nS'names'\np2\n(lp3\nS'caf\\xe9'\nasS'data'\n" + made + kind
    content += b"I00\nS'\\x00\\xff\\n\\''\ntbs."
    found, expected = plain(read(content)), pickle.loads(content, encoding="bytes")
    assert found[b"data"].tolist() == expected[b"data"].tolist() == [[0, 255], [10, 39]]
    assert found[b"names"] == expected[b"names"] == [b"caf\xe9"]


# What only code could make


class Runs:
    """Runs a command when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_that_runs_code_is_read_and_not_run(tmp_path: Path, protocol: int) -> None:
    mark = tmp_path / "ran"
    content = pickle.dumps([Runs(mark)], protocol)
    (made,) = read(content)
    assert called(made) in ("posix.mkdir", "nt.mkdir")
    assert made.arguments == (str(mark),)
    assert not mark.exists()
    pickle.loads(content)
    assert mark.exists()  # it would have


OBJECTS = {
    "collections.OrderedDict": OrderedDict(a=1),
    "collections.defaultdict": defaultdict(list, a=1),
    "collections.Counter": Counter("aab"),
    "argparse.Namespace": argparse.Namespace(lr=0.1),
    "datetime.datetime": datetime.datetime(2020, 1, 2),
    "pathlib.PurePosixPath": pathlib.PurePosixPath("/a/b"),
    "numpy.dtype": np.dtype("f4"),
    "builtins.set": {1, 2},
    "builtins.frozenset": frozenset("ab"),
    "builtins.complex": 1 + 2j,
}


@pytest.mark.parametrize("name", OBJECTS)
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_objects_are_not_made(name: str, protocol: int) -> None:
    found = read(pickle.dumps([OBJECTS[name], "after"], protocol))
    assert found[1] == "after"
    assert isinstance(found[0], Made)
    if protocol > 1 and name != "builtins.set":  # set's name is spelt in several ways
        assert called(found[0]) == name
        assert name in described(found[0])


def test_functions_are_names() -> None:
    assert read(pickle.dumps(os.path.join)) == Global("posixpath.join")


def test_what_is_added_to_an_object_is_kept() -> None:
    found = read(pickle.dumps(OrderedDict(a=1, b=[2])))
    assert list(found.pairs) == [("a", 1), ("b", [2])]
    assert found.arguments == ()
    namespace = read(pickle.dumps(argparse.Namespace(lr=0.1)))
    assert namespace.state.pairs == [("lr", 0.1)]


def test_what_lies_outside_is_resolved_by_the_reader_alone() -> None:
    content = b"\x80\x02K\x07Q."
    assert PickleReader(content, lambda reference: reference + 1).read() == 8
    with pytest.raises(PickleError, match="refers to what lies outside"):
        read(content)


def test_pickles_may_follow_one_another() -> None:
    reader = PickleReader(pickle.dumps(1) + pickle.dumps([2]))
    assert (reader.read(), reader.read()) == (1, [2])
    with pytest.raises(PickleError, match="does not end"):
        reader.read()


# Damage


def pickled_array(state: Any, kind: bytes = b"cnumpy\ndtype\n(U\x02u1K\x00K\x01tR") -> bytes:
    made = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR"
    shape, content = state
    rest = pickle.dumps(shape, 2)[2:-1] + kind + b"\x89" + b"C" + bytes([len(content)]) + content
    return b"\x80\x02" + made + b"(K\x01" + rest + b"tb."


def test_the_array_that_the_cases_below_change_is_read() -> None:
    found = plain(read(pickled_array(((2, 3), b"abcdef"))))
    assert found.tolist() == [[97, 98, 99], [100, 101, 102]]


CONTRADICTIONS = {
    "fewer elements than its shape": pickled_array(((100, 100), b"abcdef")),
    "a negative size": pickled_array(((-1, 3), b"abcdef")),
    "a size that overflows": pickled_array(((2**62, 2**62), b"")),
    "a size that is a truth value": pickled_array(((True, 6), b"abcdef")),
    "too many axes": pickled_array(((1,) * 65, b"a")),
}


@pytest.mark.parametrize("content", CONTRADICTIONS.values(), ids=CONTRADICTIONS)
def test_arrays_that_contradict_themselves_are_refused(content: bytes) -> None:
    with pytest.raises(PickleError, match="its pickle is damaged: an array"):
        array_of(read(content))


NO_ARRAYS = {
    "objects as elements": pickled_array(((1,), b"abcdefgh"), b"cnumpy\ndtype\n(U\x02O8K\0K\1tR"),
    "a type of its own": pickled_array(((1,), b"abcdefgh"), b"cnumpy\ndtype\n(U\x02V8K\0K\1tR"),
    "no state": b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\0tU\x01btR.",
    "a call of an array": b"\x80\x02cnumpy\nndarray\n(J\xff\xff\xff\x7ftR.",
    "another codec": b"\x80\x02c_codecs\nencode\n(X\1\0\0\0aX\3\0\0\0hextR.",
    "an object": b"\x80\x02cnumpy\nndarray\n)\x81.",
    "an instance": b"(S'a'\niposix\nsystem\n.",
    "a name from the stack": b"\x80\x04\x8c\x02os\x8c\x06system\x93.",
    "a call of a text": b"\x80\x02U\x01a)R.",
    "a call with keywords": b"\x80\x04\x8c\x02os\x8c\x06system\x93)}\x92.",
    "an object of protocol 1": b"(cposix\nsystem\nK\1o.",
}


@pytest.mark.parametrize("content", NO_ARRAYS.values(), ids=NO_ARRAYS)
def test_what_is_no_array_of_numbers_is_none(content: bytes) -> None:
    assert array_of(read(content)) is None


DAMAGED = {
    "an extension": b"\x80\x02\x82\x01.",
    "memory it never wrote": b"\x80\x02j\xff\xff\xff\x7f.",
    "an odd number of items": b"\x80\x02}(K\x01u.",
    "an empty stack": b"\x80\x02.",
    "a mark for a value": b"\x80\x02(.",
    "no mark": b"\x80\x02K\x01t.",
    "items for a number": b"\x80\x02K\x01K\x02a.",
    "keys for a list": b"\x80\x02]K\x01K\x02s.",
    "attributes for a list": b"\x80\x02]}b.",
    "a name of numbers": b"\x80\x04K\x01K\x02\x93.",
    "no end": b"\x80\x02]",
    "two values": b"\x80\x02]].",
    "a mark that is left": b"\x80\x02(].",
    "no start": b"",
    "no pickle": b"label\xff\xfe",
    "a line without an end": b"cos",
    "a name that is not UTF-8": b"c\xff\n\xff\n.",
    "a text without quotes": b"Sa\n.",
    "a text that is cut off": b"\x80\x02T" + struct.pack("<i", 2**31 - 1) + b"abc",
    "a text of negative length": b"\x80\x02T" + struct.pack("<i", -1) + b"abc",
    "a text of 2**64 bytes": b"\x80\x04\x8d" + b"\xff" * 8,
    "bytes out of band": b"\x80\x05\x97.",
    "a number of ten thousand digits": b"L" + b"9" * 10_000 + b"L\n.",
    "a number of two billion bytes": b"\x8b\xff\xff\xff\x7f.",
    "a number of a thousand bytes": b"\x8b\xe8\x03\0\0" + bytes(1000) + b".",
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_damage_is_refused(content: bytes) -> None:
    with pytest.raises(PickleError, match=r"^its pickle "):
        read(content)


# Traps


def test_lists_within_lists_many_times_over_take_no_time() -> None:
    nested = b"\x80\x02}U\x01a(" + b"]q\0" + b"](h\0h\0eq\0" * 60 + b"ts."
    ((key, _),) = read(nested).pairs
    assert text_of(key, "ascii") == "a"


def test_a_key_that_is_a_tuple_many_times_over_takes_no_time() -> None:
    ((key, value),) = read(b"\x80\x02}Nq\x000" + b"h\0h\0\x86q\x000" * 60 + b"h\0K\1s.").pairs
    assert value == 1
    assert described(key) == "a tuple"


def test_tuples_nested_as_deep_as_can_be() -> None:
    assert described(read(b"\x80\x02N" + b"\x85" * 300_000 + b".")) == "a tuple"


def test_memory_at_a_far_place_takes_no_room() -> None:
    assert read(b"\x80\x02K\x07r\xff\xff\xff\xff.") == 7


@pytest.mark.parametrize(
    "instruction",
    [b"N", b"K\1", b"2", b"h\0", b"0N"],
    ids=["None", "number", "twice", "recalled", "dropped"],
)
def test_steps_have_a_limit(monkeypatch: pytest.MonkeyPatch, instruction: bytes) -> None:
    start, end = b"\x80\x02Nq\0(N", b"t0."
    monkeypatch.setattr(machine, "MOST_STEPS", 1000)
    read(start + instruction * 490 + end)
    with pytest.raises(PickleError, match="takes more than 1000 steps: it is a trap"):
        read(start + instruction * 1000 + end)


@pytest.mark.parametrize(
    "instruction",
    [b"]", b"}", b"\x8f", b"(", b")\x85", b"N\x85", b"NNR", b"q\0", b"\x94", b"X\1\0\0\0a"],
)
def test_memory_has_a_limit(monkeypatch: pytest.MonkeyPatch, instruction: bytes) -> None:
    start = b"\x80\x04N"
    monkeypatch.setattr(machine, "MOST_BYTES", 10_000)
    with pytest.raises(PickleError, match="takes more than 10000 bytes: it is a trap"):
        read(start + instruction * 1000 + b".")


def test_pickles_of_a_file_share_their_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "MOST_STEPS", 1000)
    reader = PickleReader((b"(" + b"N" * 400 + b"t.") * 3)
    reader.read()
    reader.read()
    with pytest.raises(PickleError, match="1000 steps"):
        reader.read()


@pytest.mark.filterwarnings("ignore:invalid escape")
@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_damaged_pickle_is_read_or_refused(data: st.DataObject) -> None:
    content = bytearray(python2({"data": ROWS, "labels": [1, 2, 3], "name": "a"}))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(PickleError):
        read(bytes(content))
