"""numpy's archives, and the zip archives that PyTorch and Keras share with it."""

from __future__ import annotations

import io
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from densespec.errors import WeightsError
from densespec.weights.containers import open_file, write_file, zips
from tests.containers.samples import (
    assert_holds,
    bits,
    keras_archive,
    network,
    read_all,
    refusal,
    tensors,
)
from tests.dtypes import DTYPES


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "net.npz"


ARRAYS = {f"a/{d}:{n}": bits(d, s) for d in DTYPES for n, s in enumerate([(), (0, 2), (2, 3)])}


def test_numpy_reads_what_is_written(path: Path) -> None:
    write_file(path, tensors(ARRAYS), {"spec": "{}"})
    with np.load(path) as file:
        assert file.files == list(ARRAYS)
        for name, array in ARRAYS.items():
            assert file[name].dtype.str[1:] == array.dtype.str[1:]
            assert file[name].shape == array.shape
            assert file[name].tobytes() == array.tobytes()


def test_what_numpy_writes_is_read(path: Path) -> None:
    for save in (np.savez, np.savez_compressed):
        save(path, **ARRAYS)
        with open_file(path) as opened:
            assert_holds(opened, ARRAYS)


def test_other_orders(path: Path) -> None:
    columns = np.asfortranarray(bits("float32", (3, 4)))
    swapped = bits("float32", (3, 4)).astype(">f4")
    np.savez(path, columns=columns, swapped=swapped)
    with open_file(path) as opened:
        assert_holds(opened, {"columns": columns, "swapped": swapped})


def npy(array: np.ndarray, **options: Any) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, **options)
    return buffer.getvalue()


def put(path: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def with_header(array: np.ndarray, before: str, after: str) -> bytes:
    """A ``.npy`` whose header says something else."""
    content = npy(array).replace(before.encode().ljust(len(after)), after.encode(), 1)
    return content.replace(before.encode(), after.encode(), 1)


def test_members_of_version_2_are_read(path: Path) -> None:
    put(path, {"a.npy": npy(np.arange(3), version=(2, 0))})
    assert read_all(path)["a"].tolist() == [0, 1, 2]


def test_other_members_are_named(path: Path) -> None:
    put(path, {"a.npy": npy(np.arange(3)), "readme.txt": b"hello"})
    with open_file(path) as opened:
        assert opened.metadata["skipped"] == '["readme.txt"]'


@pytest.mark.parametrize("comment", [b"hello", b"[1]", b'{"a": 1}', b"[" * 60_000])
def test_comments_of_others_are_no_metadata(path: Path, comment: bytes) -> None:
    put(path, {"a.npy": npy(np.arange(3))})
    with zipfile.ZipFile(path, "a") as archive:
        archive.comment = comment
    with open_file(path) as opened:
        assert not opened.metadata


def test_metadata_have_a_limit(path: Path) -> None:
    write_file(path, {}, {"a": "x" * 65_000})
    with pytest.raises(WeightsError, match=r"a \.npz file holds at most 65535; write a"):
        write_file(path, {}, {"a": "x" * 66_000})


def test_names_that_lead_out_of_the_archive(path: Path) -> None:
    for name in ("../a", "/a", "a/../../b", "..\\a"):
        with pytest.raises(WeightsError, match="can't be a name in a"):
            write_file(path, tensors({name: np.zeros(1)}))


class Trap:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.mark), "w")


def test_objects_are_not_unpickled(tmp_path: Path, path: Path) -> None:
    mark = tmp_path / "executed"
    np.savez(path, a=np.array([Trap(mark)], dtype=object), allow_pickle=True)
    with np.load(path, allow_pickle=True) as file:
        file["a"]
    assert mark.exists(), "the trap should work where code is run"
    mark.unlink()
    assert "'a' holds Python objects, which can run code" in refusal(path)
    assert not mark.exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        pytest.param(npy(np.zeros(2))[:-1], "but by its header", id="short"),
        pytest.param(npy(np.zeros(2)) + b"x", "but by its header", id="long"),
        pytest.param(with_header(np.zeros(2), "(2,)", "(9,)"), "but by its header", id="shape"),
        pytest.param(with_header(np.zeros(2), "(2,)", "(-2,)"), "whole numbers", id="negative"),
        pytest.param(with_header(np.zeros(2), "(2,)", "(2.,)"), "ValueError", id="fraction"),
        pytest.param(with_header(np.zeros(2), "(2,)", "(10**9,)"), "ValueError", id="formula"),
        pytest.param(
            with_header(np.zeros(0), "(0,), }        ", "(0,99999999999999999999), }"),
            "too large",
            id="huge and empty",
        ),
        pytest.param(
            with_header(np.zeros(2), "(2,), }         ", "(99999999999999999,), }"),
            "claims",
            id="huge",
        ),
        pytest.param(npy(np.array([b"text"])), "is of type 'bytes32'", id="texts"),
        pytest.param(npy(np.zeros(2, "i4,f4")), "is of type 'void64'", id="records"),
        pytest.param(npy(np.zeros(2, "M8[s]")), "is of type 'datetime64[s]'", id="times"),
        pytest.param(npy(np.zeros(2, "V7")), "is of type 'void56'", id="bytes"),
        pytest.param(npy(np.zeros(2), version=(3, 0)), "version (3, 0)", id="version 3"),
        pytest.param(b"", "ValueError", id="nothing"),
        pytest.param(b"hello", "ValueError", id="something else"),
        pytest.param(b"\x93NUMPY\x02\x00\xff\xff\xff\xff{}", "ValueError", id="long header"),
    ],
)
def test_members_that_lie(path: Path, content: bytes, said: str) -> None:
    assert said in refusal(put(path, {"a.npy": content}))


# Archives that are traps, whatever reads them


def archives(folder: Path) -> dict[str, Path]:
    """Archives that become .npz, .keras and PyTorch files by what is in them."""
    import torch

    keras_archive(folder / "net.keras", network())
    write_file(folder / "net.npz", tensors(network()))
    torch.save({"a": torch.ones(3)}, folder / "net.pth")
    return {path.name: path for path in folder.iterdir()}


KINDS = ("net.npz", "net.keras", "net.pth")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["../../evil.npy", "/evil.npy", "a/../../evil", "..\\evil.npy"])
def test_members_that_point_out_of_the_archive(tmp_path: Path, kind: str, name: str) -> None:
    path = archives(tmp_path)[kind]
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, npy(np.zeros(1)))
    before = sorted(tmp_path.rglob("*"))
    assert "points out of the archive" in refusal(path)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("kind", KINDS)
def test_members_that_are_there_twice(tmp_path: Path, kind: str) -> None:
    path = archives(tmp_path)[kind]
    with zipfile.ZipFile(path, "a") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        archive.writestr(archive.namelist()[0], b"other")
    assert "a member is there twice" in refusal(path)


@pytest.mark.parametrize("kind", KINDS)
def test_members_that_swell(tmp_path: Path, kind: str) -> None:
    path = archives(tmp_path)[kind]
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("swollen/data.npy", bytes(100 * 2**20))
    said = refusal(path)
    assert "claims 104857600 bytes, but only" in said
    assert "a trap" in said


@pytest.mark.parametrize("kind", KINDS)
def test_members_have_a_limit_whatever_is_stored(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zips, "MOST_UNPACKED", 1000)
    path = archives(tmp_path)[kind]
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.npy", np.random.default_rng(0).bytes(1001))
    assert "claims 1001 bytes" in refusal(path)


@pytest.mark.parametrize("kind", KINDS)
def test_members_that_overlap(tmp_path: Path, kind: str) -> None:
    """Many entries of the directory that share one member's bytes."""
    path = archives(tmp_path)[kind]
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("x/0.npy", npy(np.zeros(1000)))
        info = archive.getinfo("x/0.npy")
        for number in range(1, 10):
            other = zipfile.ZipInfo(f"x/{number}.npy")
            other.file_size = other.compress_size = info.file_size
            other.CRC, other.header_offset = info.CRC, info.header_offset
            archive.filelist.append(other)
            archive.NameToInfo[other.filename] = other
    assert "its members overlap" in refusal(path)


@pytest.mark.parametrize("comment", [b"", b"{}", b"x" * 65_535])
def test_large_archives_end_in_another_way(
    path: Path, comment: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 1)
    np.savez(path, a=np.arange(3), b=np.arange(4))
    with zipfile.ZipFile(path, "a") as archive:
        archive.comment = comment
    assert b"PK\6\6" in path.read_bytes()
    assert {name: len(array) for name, array in read_all(path).items()} == {"a": 3, "b": 4}


def damage(path: Path, before: bytes, at: int, after: bytes) -> None:
    """Change bytes that lie so far behind the last place of others."""
    content = bytearray(path.read_bytes())
    start = content.rindex(before) + at
    content[start : start + len(after)] = after
    path.write_bytes(content)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("end", "at", "said"),
    [
        (b"PK\6\6", 32, "members, but says that it has 64"),
        (b"PK\6\6", 40, "its directory should take"),
        (b"PK\6\6", 48, "its directory should take"),
        (b"PK\5\6", 10, "members, but says that it has 64"),
        (b"PK\5\6", 12, "its directory should take"),
        (b"PK\5\6", 16, "its directory should take"),
        (b"PK\1\2", 42, "is not where the archive's directory says"),
        (b"PK\1\2", 46, "is not where the archive's directory says"),
        (b"PK\3\4", 0, "is not where the archive's directory says"),
    ],
)
def test_directories_that_lie(tmp_path: Path, kind: str, end: bytes, at: int, said: str) -> None:
    """PyTorch's archives end as large ones do, whatever their size."""
    path = archives(tmp_path)[kind]
    if end in (b"PK\5\6", b"PK\6\6") and (end == b"PK\6\6") != (kind == "net.pth"):
        pytest.skip("the archive ends in the other way")
    damage(path, end, at, b"\x40")
    assert said in refusal(path)


@pytest.mark.parametrize("kind", KINDS)
def test_values_are_compared_with_their_checksums(tmp_path: Path, kind: str) -> None:
    path = archives(tmp_path)[kind]
    kernel = network()["layers/conv0/kernel"]
    damage(path, b"\0\0\x80\x3f" if kind == "net.pth" else kernel.tobytes(), 2, b"\x81")
    said = refusal(path)
    assert "the checksum of" in said or "Bad CRC-32" in said


@pytest.mark.parametrize("kind", KINDS)
def test_members_that_are_encrypted(tmp_path: Path, kind: str) -> None:
    path = archives(tmp_path)[kind]
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\1\2") + 8] |= 1
    path.write_bytes(content)
    assert "is encrypted" in refusal(path)


@pytest.mark.parametrize("kind", KINDS)
def test_links_in_archives_are_not_followed(tmp_path: Path, kind: str) -> None:
    path = archives(tmp_path)[kind]
    with zipfile.ZipFile(path, "a") as archive:
        link = zipfile.ZipInfo(f"{kind.removesuffix('.pth')}/link.npy")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    if kind == "net.npz":
        assert "ValueError" in refusal(path)
    else:
        assert read_all(path)


# Keras's archives


def test_keras_archives_are_read(tmp_path: Path) -> None:
    for compression in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        keras_archive(tmp_path / "net.keras", network(), compression)
        with open_file(tmp_path / "net.keras") as opened:
            assert opened.container == "keras"
            assert_holds(opened, network())
            assert opened.metadata["config"] == '{"class_name": "Functional"}'
            assert opened.metadata["keras_version"] == "3.15.1"
            assert opened.metadata["date_saved"] == "today"


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ({"config.json": b"{}"}, "should have model.weights.h5"),
        ({"config.json": b"{}", "model.weights.npz": b""}, "should have model.weights.h5"),
        ({"model.weights.h5": b""}, "should have config.json"),
        ({"config.json": b"{}", "model.weights.h5": b""}, "it ends at 0 bytes"),
        ({"config.json": b"{}", "model.weights.h5": b"x" * 99}, "does not start as HDF5 does"),
    ],
)
def test_keras_archives_that_lack_something(
    tmp_path: Path, members: dict[str, bytes], said: str
) -> None:
    assert said in refusal(put(tmp_path / "net.keras", members))
