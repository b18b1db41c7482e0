"""Image files in folders, one for each class, as ImageNet is commonly laid out.

``PATH/train/CLASS/...`` and ``PATH/test/CLASS/...`` (or ``val``, ``valid``, ``validation``), or
``PATH/CLASS/...`` alone, of which a fixed fifth of each class is kept for the test; see
:func:`densespec.data.dataset.held_out`. Classes and files are taken in the order of their names,
by code points. Images are read when they are needed.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from densespec.data.dataset import DataError, Dataset, Normalisation, Split, parted
from densespec.errors import shown
from densespec.installed import require_pillow
from densespec.texts import check_regular

FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "PPM")
"""What is opened, by its content and Pillow's names: other formats start programs, such as EPS."""
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm", ".pgm")
TRAIN = "train"
TESTS = ("test", "val", "valid", "validation")

MODES = {1: "L", 3: "RGB"}
WIDE = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")
"""Pillow's modes of more than eight bits, which it would clip."""

NORMALISATIONS = {
    1: Normalisation((0.449,), (0.226,), source="mean of the channels of ImageNet's"),
    3: Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), source="ImageNet, published"),
}


@dataclass(frozen=True)
class ImageFiles:
    """Images that are decoded when they are read.

    Attributes:
        root: The folder that the paths start from.
        paths: The path of each image.
        channels: How many channels each is converted to.
    """

    root: Path
    paths: tuple[str, ...]
    channels: int

    @property
    def shape(self) -> tuple[int | None, ...]:
        """The shape (count, channels, None, None): images may differ in size."""
        return (len(self.paths), self.channels, None, None)

    def read(self, index: int) -> np.ndarray:
        """Read one image, uint8 of shape (channels, height, width).

        Raises:
            DataError: The file can't be read as an image; the message names it.
        """
        pillow = require_pillow("reading image files")
        path = self.root / self.paths[index]
        try:
            check_regular(path)
            with pillow.open(path, formats=FORMATS) as picture:
                if picture.mode in WIDE:
                    raise DataError(
                        f"{path}: has more than eight bits a channel ({picture.mode}), but should "
                        "have eight; convert it"
                    )
                pixels = np.array(picture.convert(MODES[self.channels]))
        except (OSError, ValueError, SyntaxError, pillow.DecompressionBombError) as error:
            if isinstance(error, DataError):
                raise
            raise DataError(
                f"{path}: not a readable image of the formats {', '.join(FORMATS)}: "
                f"{_reason(error)}"
            ) from error
        return pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1))

    def take(self, rows: np.ndarray) -> ImageFiles:
        """Give some of the images, by their indices (count,)."""
        return ImageFiles(self.root, tuple(self.paths[row] for row in rows), self.channels)


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return shown(str(error))


def load(place: str, *, channels: int = 3) -> Dataset:
    """Load the data set in a folder.

    Args:
        place: The path of the folder.
        channels: How many channels images are converted to, 1 or 3.

    Raises:
        DataError: There is no such folder, or it is laid out in another way.
    """
    if channels not in MODES:
        raise DataError(f"channels = {channels}, but images are converted to 1 or 3")
    root = Path(place).expanduser()
    if not root.is_dir():
        raise DataError(f"{root}: no such folder")
    if (root / TRAIN).is_dir():
        classes, train = _images(root / TRAIN, channels)
        _, test = _images(_test_folder(root), channels, classes)
    else:
        classes, whole = _images(root, channels)
        train, test = parted(whole)
    return Dataset(root.name, classes, train, test, NORMALISATIONS[channels])


def _test_folder(root: Path) -> Path:
    for name in TESTS:
        if (root / name).is_dir():
            return root / name
    raise DataError(f"{root}: has the folder train, but none of {', '.join(TESTS)} to test on")


def _images(
    root: Path, channels: int, classes: tuple[str, ...] | None = None
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
    return classes, Split(ImageFiles(root, tuple(paths), channels), np.array(labels))


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
