"""CIFAR in every form in which it was published, whole, damaged and hostile."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from densespec.data import DataError, Dataset, load
from densespec.data.sources import cifar
from tests.data.samples import (
    cifar_files,
    images,
    labels_of,
    python2,
    write_archive,
    write_folder,
)

FORMS = [(name, release) for name, data in cifar.PUBLISHED.items() for release in data.releases]
every_form = pytest.mark.parametrize(
    ("name", "release"), FORMS, ids=[release.folder for _, release in FORMS]
)
BINARY, PYTHON = cifar.CIFAR10.releases
COUNT = 6


def in_folder(release: cifar.Release, files: dict[str, bytes]) -> dict[str, bytes]:
    return {f"{release.folder}/{file}": content for file, content in files.items()}


def assert_is_the_sample(found: Dataset, name: str) -> None:
    x, y = images(2 * COUNT), labels_of(name, 2 * COUNT)
    for split, rows in ((found.train, slice(0, COUNT)), (found.test, slice(COUNT, None))):
        np.testing.assert_array_equal(split.x, x[rows])
        np.testing.assert_array_equal(split.y, y[rows])
        assert split.y.dtype == np.int64
    assert found.classes[:2] == ("class0", "class1")
    assert len(found.classes) == cifar.PUBLISHED[name].classes


@every_form
@pytest.mark.parametrize("place", ["folder", "folder above", "archive", "archive's folder"])
def test_every_published_form_is_read(
    tmp_path: Path, name: str, release: cifar.Release, place: str
) -> None:
    files = cifar_files(name, release)
    if place.startswith("folder"):
        path = write_folder(tmp_path / release.folder, files)
        path = path if place == "folder" else tmp_path
    else:
        file = tmp_path / (release.archive if "folder" in place else "renamed.tgz")
        write_archive(file, in_folder(release, files))
        path = tmp_path if "folder" in place else file
    assert_is_the_sample(load(f"{name}:{path}", check=False), name)


def test_the_cache_is_where_data_are_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(DataError) as caught:
        load("cifar10")
    for part in (str(tmp_path / "densespec"), BINARY.archive, PYTHON.archive, BINARY.folder):
        assert part in str(caught.value)
    assert cifar.PAGE in str(caught.value)
    write_folder(tmp_path / "densespec" / BINARY.folder, cifar_files("cifar10", BINARY))
    assert_is_the_sample(load("cifar10", check=False), "cifar10")


def test_the_labels_of_cifar100_are_the_fine_ones() -> None:
    record = bytes([19, 99]) + bytes(range(256)) * 12
    x, y = cifar.CIFAR100.releases[0].read_images(record, 2)
    assert y.tolist() == [99]
    assert x[0, 0, 0, :3].tolist() == [0, 1, 2]


def test_the_normalisation_is_that_of_the_papers_code() -> None:
    norm = cifar.CIFAR10.normalisation
    pixels = np.array([125.3, 123.0, 113.9]).reshape(1, 3, 1, 1)
    assert np.abs(norm.apply(pixels, np.dtype("float64"))).max() < 1e-14
    pixels += np.array([63.0, 62.1, 66.7]).reshape(1, 3, 1, 1)
    np.testing.assert_allclose(norm.apply(pixels, np.dtype("float64")), 1, rtol=1e-14)


# Absent and damaged


def refused(tmp_path: Path, release: cifar.Release, changes: dict[str, Any], **options: Any) -> str:
    """What is said of a folder some of whose files are others."""
    name = next(name for name, known in FORMS if known is release)
    files = {k: v for k, v in (cifar_files(name, release) | changes).items() if v is not None}
    folder = write_folder(tmp_path / "data", files)
    with pytest.raises(DataError) as caught:
        load(f"{name}:{folder}", **{"check": False} | options)
    return str(caught.value)


def test_a_file_that_is_missing_is_named(tmp_path: Path) -> None:
    assert "lacks data_batch_3.bin" in refused(tmp_path, BINARY, {"data_batch_3.bin": None})


@pytest.mark.parametrize("keep", [3072, 3074, 0])
def test_a_binary_file_that_is_cut_off_is_refused(tmp_path: Path, keep: int) -> None:
    content = cifar_files("cifar10", BINARY)["test_batch.bin"][:keep]
    message = refused(tmp_path, BINARY, {"test_batch.bin": content})
    assert "test_batch.bin" in message
    assert f"has {keep} bytes, but should have a multiple of 3073" in message


def test_a_wrong_label_is_told_with_its_place(tmp_path: Path) -> None:
    content = bytearray(cifar_files("cifar10", BINARY)["test_batch.bin"])
    content[2 * 3073] = 211
    message = refused(tmp_path, BINARY, {"test_batch.bin": bytes(content)})
    assert "test_batch.bin: image 2 has the label 211, but should have one from 0 to 9" in message


def test_too_few_images_are_refused_unless_they_are_meant(tmp_path: Path) -> None:
    message = refused(tmp_path, BINARY, {}, check=True)
    assert "data_batch_1.bin: has 2 images, but 10000 were published" in message


PICKLED = {
    "no pickle": (b"label", "damaged"),
    "a list": (python2([1]), "should be a table"),
    "no images": (python2({"labels": [1]}), "'data' should be an array of rows of 3072 bytes"),
    "narrow images": (
        python2({"data": np.zeros((1, 5), np.uint8), "labels": [1]}),
        "'data' should be an array of rows of 3072 bytes",
    ),
    "labels of texts": (
        python2({"data": np.zeros((1, 3072), np.uint8), "labels": ["1"]}),
        "'labels' should be a list of whole numbers",
    ),
    "a huge label": (
        python2({"data": np.zeros((1, 3072), np.uint8), "labels": [2**70]}),
        "no labels",
    ),
    "more labels": (
        python2({"data": np.zeros((1, 3072), np.uint8), "labels": [1, 2]}),
        "has 1 images and 2 labels",
    ),
    "a negative label": (
        python2({"data": np.zeros((1, 3072), np.uint8), "labels": [-1]}),
        "image 0 has the label -1",
    ),
    "code": (b"cposix\nsystem\n(S'false'\ntR.", "posix.system"),
}


@pytest.mark.parametrize(("content", "message"), PICKLED.values(), ids=PICKLED)
def test_a_pickle_of_something_else_is_refused(
    tmp_path: Path, content: bytes, message: str
) -> None:
    found = refused(tmp_path, PYTHON, {"test_batch": content})
    assert message in found
    assert "test_batch" in found


def test_other_class_names_are_refused_and_absent_ones_are_numbers(tmp_path: Path) -> None:
    message = refused(tmp_path, BINARY, {BINARY.names: b"cat\ndog\n"})
    assert "batches.meta.txt: names 2 classes, but there are 10" in message
    (tmp_path / "data" / BINARY.names).unlink()
    assert load(f"cifar10:{tmp_path / 'data'}", check=False).classes[:3] == ("0", "1", "2")


# Archives


def test_an_archive_with_another_digest_is_refused_unless_it_is_meant(tmp_path: Path) -> None:
    path = write_archive(tmp_path / BINARY.archive, in_folder(BINARY, {"a": b""}))
    with pytest.raises(DataError) as caught:
        load(f"cifar10:{path}")
    assert BINARY.md5 in str(caught.value)
    assert "download it again" in str(caught.value)


def test_an_archive_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    path = write_archive(tmp_path / "a.tgz", in_folder(BINARY, cifar_files("cifar10", BINARY)))
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(DataError, match="no readable archive, or cut off"):
        load(f"cifar10:{path}", check=False)


def test_an_archive_of_something_else_is_refused(tmp_path: Path) -> None:
    path = write_archive(tmp_path / "a.tgz", {"cifar-10-batches-bin/test_batch.bin": b""})
    with pytest.raises(DataError, match=r"should hold .*data_batch_1.*of these has test_batch.bin"):
        load(f"cifar10:{path}", check=False)
    (tmp_path / "b.tgz").write_bytes(b"<html>")
    with pytest.raises(DataError, match="no readable archive"):
        load(f"cifar10:{tmp_path / 'b.tgz'}", check=False)


def test_members_that_lead_out_of_an_archive_are_never_written(tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    files = in_folder(BINARY, cifar_files("cifar10", BINARY))
    path = write_archive(inside / "a.tgz", {"../outside": b"x", "/tmp/densespec-x": b"x"} | files)
    assert_is_the_sample(load(f"cifar10:{path}", check=False), "cifar10")
    assert sorted(tmp_path.rglob("*")) == [inside, path]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE])
def test_a_link_in_place_of_a_file_is_not_followed(tmp_path: Path, kind: bytes) -> None:
    files = in_folder(BINARY, cifar_files("cifar10", BINARY))
    wanted = f"{BINARY.folder}/test_batch.bin"
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            if name == wanted:
                member.type, member.linkname = kind, f"{BINARY.folder}/data_batch_1.bin"
                archive.addfile(member)
            else:
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    with pytest.raises(DataError, match="is no file"):
        load(f"cifar10:{path}", check=False)


def test_a_member_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        for _ in range(2):
            archive.addfile(tarfile.TarInfo(f"{BINARY.folder}/test_batch.bin"), io.BytesIO())
    with pytest.raises(DataError, match="is there twice"):
        load(f"cifar10:{path}", check=False)


def test_an_archive_that_claims_too_much_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    member = tarfile.TarInfo("bomb")
    member.size = 2**40
    path.write_bytes(member.tobuf() + bytes(1024))
    with pytest.raises(DataError, match="far more than was published"):
        load(f"cifar10:{path}", check=False)
