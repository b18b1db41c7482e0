"""Pickles: plain data and arrays of bytes are read, everything else is refused, nothing is run."""

from __future__ import annotations

import contextlib
import os
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from densespec.data import pickles
from densespec.data.pickles import PickleError
from tests.data.samples import python2

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
    assert pickles.read(pickle.dumps(PLAIN, protocol)) == PLAIN


@pytest.mark.parametrize("array", ARRAYS.values(), ids=ARRAYS)
@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_of_bytes_are_read(array: np.ndarray, protocol: int) -> None:
    found = pickles.read(pickle.dumps({"data": array}, protocol))["data"]
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize("array", ARRAYS.values(), ids=ARRAYS)
def test_what_python_2_pickled_is_read_as_pickle_itself_does(array: np.ndarray) -> None:
    content = python2({"data": array, "labels": [3, 4], "batch_label": b"\xe9 of 5"})
    found, expected = pickles.read(content), pickle.loads(content, encoding="bytes")
    np.testing.assert_array_equal(found.pop(b"data"), expected.pop(b"data"))
    assert found == expected == {b"labels": [3, 4], b"batch_label": b"\xe9 of 5"}


def test_escaped_texts_of_python_2_are_bytes() -> None:
    made = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n(I2\nI2\nt"
    kind = b"cnumpy\ndtype\n(S'u1'\nI0\nI1\ntR(I3\nS'|'\nNNNI-1\nI-1\nI0\ntb"
    content = b"(dp1\nS'names'\np2\n(lp3\nS'caf\\xe9'\nasS'data'\n" + made + kind
    content += b"I00\nS'\\x00\\xff\\n\\''\ntbs."
    found, expected = pickles.read(content), pickle.loads(content, encoding="bytes")
    assert found[b"data"].tolist() == expected[b"data"].tolist() == [[0, 255], [10, 39]]
    assert found[b"names"] == expected[b"names"] == [b"caf\xe9"]


class Runs:
    """Runs a command when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_that_runs_code_is_refused_and_not_run(tmp_path: Path, protocol: int) -> None:
    mark = tmp_path / "ran"
    content = pickle.dumps({"labels": [1], "data": Runs(mark)}, protocol)
    with pytest.raises(PickleError, match=r"posix\.mkdir|nt\.mkdir"):
        pickles.read(content)
    assert not mark.exists()
    pickle.loads(content)
    assert mark.exists()  # it would have


def array_of(state: Any, kind: bytes = b"cnumpy\ndtype\n(U\x02u1K\x00K\x01tR") -> bytes:
    made = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR"
    shape, content = state
    rest = pickle.dumps(shape, 2)[2:-1] + kind + b"\x89" + b"C" + bytes([len(content)]) + content
    return b"\x80\x02" + made + b"(K\x01" + rest + b"tb."


def test_the_array_that_the_cases_below_change_is_read() -> None:
    assert pickles.read(array_of(((2, 3), b"abcdef"))).tolist() == [[97, 98, 99], [100, 101, 102]]


HOSTILE = {
    "objects as elements": array_of(((1,), b"abcdefgh"), b"cnumpy\ndtype\n(U\x02O8K\x00K\x01tR"),
    "a type of its own": array_of(((1,), b"abcdefgh"), b"cnumpy\ndtype\n(U\x02V8K\x00K\x01tR"),
    "fewer elements than its shape": array_of(((100, 100), b"abcdef")),
    "a negative size": array_of(((-1, 3), b"abcdef")),
    "a size that overflows": array_of(((2**62, 2**62), b"")),
    "a size that is a truth value": array_of(((True, 6), b"abcdef")),
    "no state": b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\0tU\x01btR.",
    "a call of an array": b"\x80\x02cnumpy\nndarray\n(J\xff\xff\xff\x7ftR.",
    "another codec": b"\x80\x02c_codecs\nencode\n(X\1\0\0\0aX\3\0\0\0hextR.",
    "a persistent id": b"\x80\x02U\x01aQ.",
    "an extension": b"\x80\x02\x82\x01.",
    "an object": b"\x80\x02cnumpy\nndarray\n)\x81.",
    "an instance": b"(S'a'\niposix\nsystem\n.",
    "a name from the stack": b"\x80\x04\x8c\x02os\x8c\x06system\x93.",
    "a call of a text": b"\x80\x02U\x01a)R.",
    "memory it never wrote": b"\x80\x02j\xff\xff\xff\x7f.",
    "keys of tuples": b"\x80\x02})K\x01s.",
    "an odd number of items": b"\x80\x02}(K\x01u.",
    "an empty stack": b"\x80\x02.",
    "a mark for a value": b"\x80\x02(.",
    "items for a number": b"\x80\x02K\x01K\x02a.",
    "no end": b"\x80\x02]",
    "no start": b"",
    "no pickle": b"label\xff\xfe",
    "a text that is cut off": b"\x80\x02T" + struct.pack("<i", 2**31 - 1) + b"abc",
    "a text of negative length": b"\x80\x02T" + struct.pack("<i", -1) + b"abc",
    "a number of ten thousand digits": b"L" + b"9" * 10_000 + b"L\n.",
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_what_is_no_data_is_refused(content: bytes) -> None:
    with pytest.raises(PickleError):
        pickles.read(content)


def test_lists_within_lists_many_times_over_take_no_time() -> None:
    nested = b"\x80\x02}U\x01a(" + b"]q\0" + b"](h\0h\0eq\0" * 60 + b"ts."
    assert set(pickles.read(nested)) == {b"a"}


def test_memory_at_a_far_place_takes_no_room() -> None:
    assert pickles.read(b"\x80\x02K\x07r\xff\xff\xff\xff.") == 7


@pytest.mark.filterwarnings("ignore:invalid escape")
@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_damaged_pickle_is_read_or_refused(data: st.DataObject) -> None:
    content = bytearray(python2({"data": ROWS, "labels": [1, 2, 3], "name": "a"}))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(PickleError):
        pickles.read(bytes(content))
