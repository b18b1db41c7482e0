"""What is written is what is read, to the bit, whatever the container."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import weakref
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from densespec.errors import WeightsError
from densespec.weights.containers import open_file, write_file
from densespec.weights.tensors import Tensor
from tests.containers.samples import (
    FOREIGN,
    SAMPLES,
    SHAPES,
    WRITTEN,
    assert_holds,
    bits,
    content,
    network,
    read_all,
    sample,
    tensors,
)
from tests.dtypes import DTYPES
from tests.strategies import unhurried

every_container = pytest.mark.parametrize("container", WRITTEN)


def types_in(container: str) -> tuple[str, ...]:
    """Keras can't read bfloat16 from a legacy file."""
    return DTYPES if container != "keras-legacy" else tuple(d for d in DTYPES if d != "bfloat16")


@pytest.mark.parametrize(("container", "dtype"), [(c, d) for c in WRITTEN for d in types_in(c)])
def test_every_type_and_shape_comes_back(tmp_path: Path, container: str, dtype: str) -> None:
    path = tmp_path / WRITTEN[container]
    arrays = {f"a/{n}": bits(dtype, shape, n) for n, shape in enumerate(SHAPES)}
    write_file(path, tensors(arrays))
    with open_file(path) as opened:
        assert opened.container == container
        assert_holds(opened, arrays)


@every_container
def test_types_may_be_mixed(tmp_path: Path, container: str) -> None:
    path = tmp_path / WRITTEN[container]
    arrays = {f"{dtype}/x": bits(dtype, (3,)) for dtype in types_in(container)}
    write_file(path, tensors(arrays))
    with open_file(path) as opened:
        assert_holds(opened, arrays)


NAMES = st.lists(
    st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1).filter(
        lambda part: part not in (".", "..") and "\\" not in part
    ),
    min_size=2,
    max_size=4,
).map("/".join)


@every_container
@settings(unhurried, max_examples=40)
@given(names=st.sets(NAMES, max_size=8), seed=st.integers(0, 1000))
def test_any_names_come_back(
    tmp_path_factory: pytest.TempPathFactory, container: str, names: set[str], seed: int
) -> None:
    path = tmp_path_factory.mktemp("any") / WRITTEN[container]
    arrays = {name: bits("float32", (2,), seed + n) for n, name in enumerate(sorted(names))}
    try:
        write_file(path, tensors(arrays))
    except WeightsError as error:
        reasons = ("is an array, and so is", "beside the others", "be the name of a folder")
        assert any(reason in str(error) for reason in reasons)  # noqa: PT017
        assert not path.exists()
        return
    with open_file(path) as opened:
        assert_holds(opened, arrays)


@every_container
def test_names_are_not_only_ascii(tmp_path: Path, container: str) -> None:
    path = tmp_path / WRITTEN[container]
    arrays = {"блок/слой.1:0": bits("float32", (2,)), "層/重み 😀": bits("float32", (3,))}
    write_file(path, tensors(arrays))
    with open_file(path) as opened:
        assert_holds(opened, arrays)


@every_container
def test_thousands_of_tensors_come_back_in_order(tmp_path: Path, container: str) -> None:
    path = tmp_path / WRITTEN[container]
    arrays = {f"l{n % 700:04}/w{n:05}": bits("float32", (n % 3, 2), n) for n in range(2000)}
    arrays = dict(sorted(arrays.items()))
    write_file(path, tensors(arrays))
    with open_file(path) as opened:
        assert_holds(opened, arrays)
        assert list(opened.tensors) == list(arrays)


@every_container
def test_there_may_be_no_tensors(tmp_path: Path, container: str) -> None:
    path = tmp_path / WRITTEN[container]
    write_file(path, {})
    with open_file(path) as opened:
        assert not opened.tensors


@every_container
def test_metadata_come_back(tmp_path: Path, container: str) -> None:
    path = tmp_path / WRITTEN[container]
    metadata = {"spec": json.dumps({"blocks": [6, 12]}), "ключ": "значение\n", "empty": ""}
    write_file(path, tensors(network()), metadata)
    with open_file(path) as opened:
        assert metadata.items() <= opened.metadata.items()
        assert_holds(opened, network())


@every_container
@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda array: array.astype(array.dtype.newbyteorder()), id="bytes swapped"),
        pytest.param(np.asfortranarray, id="column-major"),
        pytest.param(lambda array: np.repeat(array, 2, axis=-1)[..., ::2], id="strided"),
        pytest.param(lambda array: np.flip(np.flip(array).copy()), id="negative strides"),
    ],
)
def test_the_layout_of_arrays_in_memory_does_not_matter(
    tmp_path: Path, container: str, change: object
) -> None:
    path = tmp_path / WRITTEN[container]
    write_file(path, tensors({name: change(a) for name, a in network().items()}))
    with open_file(path) as opened:
        assert_holds(opened, network())


@pytest.mark.parametrize("name", SAMPLES)
@pytest.mark.parametrize("target", WRITTEN.values())
def test_any_file_converts_to_any_other(tmp_path: Path, name: str, target: str) -> None:
    source = sample(tmp_path, name, network())
    with open_file(source) as opened:
        write_file(tmp_path / f"out-{target}", opened.tensors)
    with open_file(tmp_path / f"out-{target}") as opened:
        assert_holds(opened, network())


@pytest.mark.parametrize("name", FOREIGN)
def test_files_by_others_are_read(tmp_path: Path, name: str) -> None:
    arrays = network() | {"layers/scalar": bits("float64", ()), "layers/none": bits("int64", (0,))}
    with open_file(sample(tmp_path, name, arrays)) as opened:
        assert opened.container == FOREIGN[name][0]
        assert_holds(opened, arrays)


@pytest.mark.parametrize("name", SAMPLES)
def test_a_closed_file_is_not_read(tmp_path: Path, name: str) -> None:
    path = sample(tmp_path, name, network())
    with open_file(path) as opened:
        tensor = opened.tensors["layers/conv0/kernel"]
        before = tensor.read()
    with pytest.raises(WeightsError, match="was closed before") as failure:
        tensor.read()
    assert str(failure.value).startswith(f"{path}: ")
    np.testing.assert_array_equal(before, network()["layers/conv0/kernel"])


@pytest.mark.parametrize("name", SAMPLES)
def test_arrays_read_stay_when_the_file_is_replaced(tmp_path: Path, name: str) -> None:
    path = sample(tmp_path, name, network())
    with open_file(path) as opened:
        arrays = {name: tensor.read() for name, tensor in opened.tensors.items()}
        zeros = {name: np.zeros_like(array) for name, array in arrays.items()}
        container = "keras-weights" if opened.container == "keras" else opened.container
        write_file(path, tensors(zeros), container=container)
    for key, array in network().items():
        np.testing.assert_array_equal(arrays[key], array)


# Writing: one by one, whole or not at all


@every_container
def test_no_more_than_two_arrays_are_in_memory(tmp_path: Path, container: str) -> None:
    alive: list[weakref.ref[np.ndarray]] = []

    def read() -> np.ndarray:
        assert sum(ref() is not None for ref in alive) <= 1
        array = np.ones((100, 100), np.float32)
        alive.append(weakref.ref(array))
        return array

    named = {f"l{n}/w": Tensor((100, 100), "float32", read) for n in range(10)}
    write_file(tmp_path / WRITTEN[container], named)
    assert len(alive) == 10


@every_container
def test_progress_is_told_the_bytes_of_each_array(tmp_path: Path, container: str) -> None:
    told: list[int] = []
    write_file(tmp_path / WRITTEN[container], tensors(network()), progress=told.append)
    assert sorted(told) == sorted(array.nbytes for array in network().values())


@every_container
def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path, container: str) -> None:
    path = tmp_path / WRITTEN[container]
    write_file(path, tensors(network(1)))
    old = content(path)

    def fail() -> np.ndarray:
        raise ZeroDivisionError

    named = tensors(network()) | {"layers/bad": Tensor((2,), "float32", fail)}
    with pytest.raises(ZeroDivisionError):
        write_file(path, named)
    assert content(path) == old
    assert list(tmp_path.iterdir()) == [path]


@every_container
@pytest.mark.parametrize("found", [np.zeros(3, np.float32), np.zeros(2, np.float64)])
def test_an_array_must_be_what_its_tensor_says(
    tmp_path: Path, container: str, found: np.ndarray
) -> None:
    path = tmp_path / WRITTEN[container]
    with pytest.raises(WeightsError, match="should have shape") as failure:
        write_file(path, {"a/b": Tensor((2,), "float32", lambda: found)})
    assert str(failure.value).startswith(f"{path}: 'a/b' ")
    assert list(tmp_path.iterdir()) == []


FULL_DISK = """
import resource, sys
import numpy as np
from densespec.errors import WeightsError
from densespec.weights.containers import write_file
from densespec.weights.tensors import Tensor

named = {f"l{n}/w": Tensor.of(np.ones(5000, np.float32)) for n in range(10)}
import h5py, ml_dtypes
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
for path in sys.argv[1:]:
    try:
        write_file(path, named)
    except WeightsError as error:
        assert str(error) == f"{path}: can't be written: File too large", error
    else:
        raise AssertionError(path)
"""


def test_a_full_disk_is_an_error_and_leaves_the_old_files(tmp_path: Path) -> None:
    """In a process of its own: a library that can't bear it would end the process."""
    pytest.importorskip("resource", reason="the system has no limits on file sizes")
    paths = [tmp_path / name for name in WRITTEN.values()]
    for path in paths:
        write_file(path, tensors(network(1)))
    old = [content(path) for path in paths]
    command = [sys.executable, "-c", FULL_DISK, *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert sorted(tmp_path.iterdir()) == sorted(paths)
    assert [content(path) for path in paths] == old


@pytest.mark.parametrize("name", SAMPLES)
def test_a_file_that_is_cut_off_after_it_was_opened_is_an_error(tmp_path: Path, name: str) -> None:
    """Unless it has been read by then. Of a mapped file, the system would end the process."""
    path = sample(tmp_path, name, network())
    whole = read_all(path)
    with open_file(path) as opened:
        for part in (path / one for one in content(path)):
            os.truncate(part, part.stat().st_size // 8)
        if name not in ("archive.keras", "packed.keras", "packed.npz"):  # which were read by then
            with pytest.raises(WeightsError, match=re.escape(str(path))):
                print([tensor.read() for tensor in opened.tensors.values()])
            return
        for key, tensor in opened.tensors.items():
            np.testing.assert_array_equal(tensor.read(), whole[key])
