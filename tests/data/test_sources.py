"""Sources: digits, folders of images and files of arrays, and what is said where they fail."""

from __future__ import annotations

import importlib.util
import io
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from densespec.data import SOURCES, Batches, DataError, fits, load
from densespec.data.dataset import Split
from densespec.data.reading.pictures import pixels_of
from densespec.data.sources import DEFAULT
from densespec.errors import PackageMissing, UnknownName
from tests.data.samples import images


def test_the_digits_are_kept_exact_and_are_the_default() -> None:
    from sklearn.datasets import load_digits

    found = load()
    assert found.name == DEFAULT == "digits"
    assert (len(found.train), len(found.test)) == (1438, 359)
    assert found.classes == tuple("0123456789")
    pixels, labels = load_digits(return_X_y=True)
    ours = sorted(
        (bytes(image), int(label))
        for split in (found.train, found.test)
        for image, label in zip(split.x, split.y, strict=True)  # type: ignore[arg-type]
    )
    assert ours == sorted(
        (bytes(image.astype(np.uint8)), int(label))
        for image, label in zip(pixels, labels, strict=True)
    )
    x, _ = Batches.for_test(found, dtype="float64")[0]
    norm = found.normalisation
    exact = (np.asarray(found.test.x[:64]) / 16 - norm.mean[0]) / norm.std[0]  # type: ignore[index]
    np.testing.assert_array_equal(x, exact)


@pytest.mark.parametrize("text", ["digits:", "digits:/tmp", "folder", "folder:", "arrays"])
def test_a_place_is_given_where_one_is_needed(text: str) -> None:
    with pytest.raises(DataError, match="should be written as"):
        load(text)


def test_an_unknown_source_suggests_a_near_one() -> None:
    with pytest.raises(UnknownName, match="Did you mean cifar10"):
        load("cifar-10")


@pytest.mark.parametrize("name", SOURCES)
def test_every_source_says_how_it_is_written(name: str) -> None:
    assert SOURCES[name].usage.startswith(name)


@pytest.mark.parametrize(("module", "text"), [("sklearn", "digits"), ("PIL", "folder:{}")])
def test_a_package_that_is_missing_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, text: str
) -> None:
    write_images(tmp_path, {"a": 5})
    find = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: None if name == module else find(name)
    )
    with pytest.raises(PackageMissing, match="pip install"):
        load(text.format(tmp_path)).train.image(0)


def test_importing_data_imports_no_framework_and_nothing_slow() -> None:
    code = (
        "import sys, densespec.data\n"
        "slow = {'torch', 'tensorflow', 'keras', 'jax', 'PIL', 'sklearn', 'scipy', 'matplotlib'}\n"
        "sys.exit(str(slow & set(sys.modules)) if slow & set(sys.modules) else 0)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


# Folders


def _of_format(name: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, name)
    return buffer.getvalue()


def _first_image_replaced(folder: Path, content: bytes) -> tuple[Path, Split]:
    write_images(folder, {"a": 5})
    images = load(f"folder:{folder}").train
    path = folder / images.x.paths[0]  # type: ignore[union-attr]
    path.write_bytes(content)
    return path, images


@pytest.mark.parametrize("name", ["EPS", "GIF", "TIFF", "PDF", "TGA"])
def test_an_image_of_another_format_is_not_opened_whatever_its_suffix(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pillow starts Ghostscript for EPS, which is what a folder of images must not do."""
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("started a program"))
    path, images = _first_image_replaced(tmp_path, _of_format(name))
    with pytest.raises(DataError, match=rf"{re.escape(str(path))}: .* of the formats PNG, JPEG"):
        images.image(0)


@pytest.mark.parametrize("name", ["PNG", "JPEG", "BMP", "WEBP", "PPM"])
def test_every_format_that_is_documented_is_opened_by_its_content(
    tmp_path: Path, name: str
) -> None:
    _, images = _first_image_replaced(tmp_path, _of_format(name))
    assert images.image(0).shape == (3, 8, 8)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes with names are POSIX's")
@pytest.mark.parametrize("text", ["folder:{0}", "arrays:{0}/a/0.png", "cifar10:{0}/a/0.png"])
def test_what_is_no_regular_file_is_refused_and_not_waited_for(tmp_path: Path, text: str) -> None:
    write_images(tmp_path, {"a": 5})
    for path in (tmp_path / "a").iterdir():
        path.unlink()
        os.mkfifo(path)
    with pytest.raises(DataError, match=r"pipe|is not in"):
        load(text.format(tmp_path)).train.image(0)


def test_a_link_to_an_image_is_an_image(tmp_path: Path) -> None:
    write_images(tmp_path, {"a": 5})
    (tmp_path / "a" / "linked.png").symlink_to(tmp_path / "a" / "0.png")
    found = load(f"folder:{tmp_path}")
    for split in (found.train, found.test):
        for index in range(len(split)):
            assert split.image(index).size


# Arrays


@pytest.mark.parametrize(
    ("y", "classes"),
    [
        ([0, 2**40], None),
        ([0, 2**62], None),
        ([0, 1], 2**40),
        ([0, 1], 0),
        ([0, 1], -3),
        ([0, 1], np.nan),
        ([0, 1], []),
        ([0, 1], [2, 2]),
    ],
)
def test_impossible_numbers_of_classes_are_refused_at_once(
    tmp_path: Path, y: list[int], classes: object
) -> None:
    path = tmp_path / "data.npz"
    given = {} if classes is None else {"classes": np.array(classes)}
    x = np.zeros((10, 1, 5, 5), np.float32)
    np.savez(path, x=x, y=np.array(y * 5), **given)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=rf"^{re.escape(str(path))}: .*(\[S6\]|one whole number)"):
        load(f"arrays:{path}")


# Layouts of folders


def write_images(root: Path, classes: dict[str, int], suffix: str = ".png") -> None:
    for seed, (name, count) in enumerate(classes.items()):
        (root / name).mkdir(parents=True)
        for number in range(count):
            size = (10 + number, 14)
            pixels = images(1 + seed, size=size)[0].transpose(1, 2, 0)
            Image.fromarray(pixels).save(root / name / f"{number}{suffix}")


def test_a_folder_with_train_and_test_is_read(tmp_path: Path) -> None:
    write_images(tmp_path / "train", {"cat": 3, "dog": 2})
    write_images(tmp_path / "test", {"dog": 1, "cat": 1})
    found = load(f"folder:{tmp_path}")
    assert found.classes == ("cat", "dog")
    assert found.train.y.tolist() == [0, 0, 0, 1, 1]
    assert found.test.y.tolist() == [0, 1]
    assert (found.size, found.channels) == (None, 3)
    expected = np.asarray(Image.open(tmp_path / "train" / "cat" / "1.png")).transpose(2, 0, 1)
    np.testing.assert_array_equal(found.train.image(1), expected)


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_other_names_of_the_test_folder_are_known(tmp_path: Path, name: str) -> None:
    write_images(tmp_path / "train", {"a": 1})
    write_images(tmp_path / name, {"a": 2})
    assert len(load(f"folder:{tmp_path}").test) == 2


def test_a_folder_in_one_piece_keeps_a_fifth_of_each_class(tmp_path: Path) -> None:
    write_images(tmp_path, {"a": 10, "b": 5}, ".jpg")
    found = load(f"folder:{tmp_path}", channels=1)
    assert np.bincount(found.train.y).tolist() == [8, 4]
    paths = {*found.train.x.paths, *found.test.x.paths}  # type: ignore[union-attr]
    assert len(paths) == 15
    x, _ = Batches(found.train, found.normalisation, size=(6, 6), augmentation="imagenet")[0]
    assert x.shape == (12, 1, 6, 6)


def test_images_that_differ_in_size_need_one_to_be_brought_to(tmp_path: Path) -> None:
    from densespec import DenseNetSpec

    write_images(tmp_path, {"a": 5, "b": 5})
    found = load(f"folder:{tmp_path}")
    spec = DenseNetSpec(blocks=(1,), growth_rate=2, classes=2)
    with pytest.raises(DataError, match="give the size to bring them to"):
        fits(found, spec)
    assert fits(found, spec, (8, 8)).input.shape == (3, 8, 8)
    with pytest.raises(DataError, match="these have"):
        Batches(found.train, found.normalisation)


def test_files_deeper_in_a_class_are_found_and_others_are_not(tmp_path: Path) -> None:
    write_images(tmp_path / "train", {"a": 1, "a/deep": 1})
    write_images(tmp_path / "test", {"a": 1})
    (tmp_path / "train" / "a" / "notes.txt").write_text("x")
    (tmp_path / "train" / "a" / ".hidden.png").write_text("x")
    found = load(f"folder:{tmp_path}").train.x
    assert found.paths == ("a/0.png", "a/deep/0.png")  # type: ignore[union-attr]


def test_folders_that_are_laid_out_otherwise_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        load(f"folder:{tmp_path / 'absent'}")
    with pytest.raises(DataError, match="should have one for each class"):
        load(f"folder:{tmp_path}")
    write_images(tmp_path / "train", {"a": 1})
    with pytest.raises(DataError, match="has the folder train, but none of test, val"):
        load(f"folder:{tmp_path}")
    write_images(tmp_path / "test", {"b": 1})
    with pytest.raises(DataError, match="class 'b' is not among those"):
        load(f"folder:{tmp_path}")
    (tmp_path / "train" / "empty").mkdir()
    with pytest.raises(DataError, match="empty: has no images"):
        load(f"folder:{tmp_path}")


def test_a_file_that_is_no_image_is_named(tmp_path: Path) -> None:
    write_images(tmp_path, {"a": 5})
    found = load(f"folder:{tmp_path}")
    path = tmp_path / found.train.x.paths[1]  # type: ignore[union-attr]
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(DataError, match=f"{path.name}: not a readable image"):
        found.train.image(1)


@pytest.mark.parametrize("channels", [1, 3])
def test_sixteen_bits_are_kept(tmp_path: Path, channels: int) -> None:
    write_images(tmp_path, {"a": 5})
    values = np.array([[0, 257], [25700, 65535], [300, 40_000]], np.uint16)
    found = load(f"folder:{tmp_path}", channels=channels)
    Image.fromarray(values).save(tmp_path / found.train.x.paths[1])  # type: ignore[union-attr]
    image = found.train.image(1)
    assert (image.shape, image.dtype) == ((channels, 3, 2), np.float32)
    np.testing.assert_allclose(image[-1], values / 257, rtol=1e-6)


def test_pixels_whose_full_intensity_nothing_tells_are_refused(tmp_path: Path) -> None:
    write_images(tmp_path, {"a": 5})
    found = load(f"folder:{tmp_path}")
    for array, message in (
        (np.full((4, 4), 1 << 17, np.int32), "more than sixteen bits"),
        (np.full((4, 4), 0.5, np.float32), "its pixels are floats"),
    ):
        with pytest.raises(ValueError, match=message):
            pixels_of(Image.fromarray(array), found.channels)


# Arrays


def test_arrays_to_train_and_to_test_on_are_read(tmp_path: Path) -> None:
    x, y = images(10, size=(8, 8)), np.arange(10) % 3
    path = tmp_path / "a.npz"
    np.savez(path, x_train=x.transpose(0, 2, 3, 1), y_train=y, x_test=x[:3], y_test=y[:3, None])
    found = load(f"arrays:{path}")
    np.testing.assert_array_equal(found.train.x, x)
    np.testing.assert_array_equal(found.test.x, x[:3])
    assert found.test.y.tolist() == [0, 1, 2]
    assert (found.name, found.classes) == ("a.npz", ("0", "1", "2"))


def test_arrays_in_one_piece_are_parted(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez_compressed(path, x=np.zeros((20, 6, 6), np.float32), y=np.arange(20) % 2, classes=4)
    found = load(f"arrays:{path}")
    assert (len(found.train), len(found.test), len(found.classes)) == (16, 4, 4)


def test_files_without_the_arrays_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    with pytest.raises(DataError, match=r"a\.npz: no such file"):
        load(f"arrays:{path}")
    np.savez(path, x_train=np.zeros((2, 1, 4, 4)), z=np.zeros(1))
    with pytest.raises(DataError, match=r"has x_train, z, .* y_train, x_test, y_test is"):
        load(f"arrays:{path}")
    np.savez(path, x=np.array([{}], object), y=np.zeros(1, int))
    with pytest.raises(DataError, match="Python objects, which can run code"):
        load(f"arrays:{path}")
    np.savez(path, x=np.full((2, 1, 5, 5), np.nan), y=np.zeros(2, int))
    with pytest.raises(DataError, match=r"a\.npz: image 0 of x has a value"):
        load(f"arrays:{path}")
