"""Reads image files in folders, one for each class, as ImageNet is commonly laid out.

``PATH/train/CLASS/...`` and ``PATH/test/CLASS/...`` (or ``val``, ``valid``, ``validation``), or
``PATH/CLASS/...`` alone. In that case a fixed fifth of each class is kept for the test; see
:func:`densespec.data.dataset.held_out`. Classes and files are taken in the order of their names, by
code points. Images are read when they are needed.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from densespec.data.dataset import DataError, Dataset, Split, parted
from densespec.data.reading import READERS, normalisation_of
from densespec.data.reading.reader import ImageForm
from densespec.data.sources.files import image_files
from densespec.errors import shown

TRAIN = "train"
TESTS = ("test", "val", "valid", "validation")
SUFFIXES = tuple(suffix for reader in READERS for suffix in reader.suffixes)


def load(place: str, form: ImageForm) -> Dataset:
    """Load the data set in a folder.

    Args:
        place: The path of the folder.
        form: In which form images are read.

    Raises:
        DataError: There is no such folder, or it is laid out in another way.
    """
    root = Path(place).expanduser()
    if not root.is_dir():
        raise DataError(f"{root}: no such folder")
    if (root / TRAIN).is_dir():
        classes, train = _images(root / TRAIN, form)
        _, test = _images(test_folder(root), form, classes)
    else:
        classes, whole = _images(root, form)
        train, test = parted(whole)
    return Dataset(root.name, classes, train, test, normalisation_of(train))


def test_folder(root: Path) -> Path:
    """Find the folder of what to test on.

    Raises:
        DataError: There is none.
    """
    for name in TESTS:
        if (root / name).is_dir():
            return root / name
    raise DataError(f"{root}: has the folder train, but none of {', '.join(TESTS)} to test on")


def _images(
    root: Path, form: ImageForm, classes: tuple[str, ...] | None = None
) -> tuple[tuple[str, ...], Split]:
    """List the names of the classes, and every image below a folder."""
    found = tuple(sorted(entry.name for entry in root.iterdir() if _is_class(entry)))
    if not found:
        raise DataError(f"{root}: has no folders, but should have one for each class")
    unknown = [name for name in found if name not in (classes or found)]
    if unknown:
        raise DataError(f"{root}: class {shown(unknown[0])} is not among those to train on")
    classes = classes or found
    paths: list[str] = []
    labels: list[int] = []
    for name in found:
        files = _files(root / name)
        if not files:
            raise DataError(
                f"{root / name}: has no images; they end in {', '.join(SUFFIXES)}, and a class "
                "needs some"
            )
        paths += [f"{name}/{file}" for file in files]
        labels += [classes.index(name)] * len(files)
    return classes, Split(image_files(root, paths, form), np.array(labels))


def _is_class(entry: Path) -> bool:
    return entry.is_dir() and not entry.name.startswith(".")


def _files(folder: Path) -> list[str]:
    """List the image files below a folder by their paths in it, in the order of their names."""
    return sorted(
        (Path(parent) / name).relative_to(folder).as_posix()
        for parent, _, names in os.walk(folder)
        for name in names
        if name.lower().endswith(SUFFIXES) and not name.startswith(".")
    )
