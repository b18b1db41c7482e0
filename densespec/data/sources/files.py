"""Reads images in files of their own when they are needed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np

from densespec.data.dataset import DataError
from densespec.data.reading import ReadImages, kind_of
from densespec.data.reading.reader import ImageForm
from densespec.texts import check_regular


@dataclass(frozen=True)
class ImageFiles(ReadImages):
    """Decodes images when they are read.

    Attributes:
        root: The folder that the paths start from.
        paths: The path of each image.
    """

    root: Path
    paths: tuple[str, ...]

    @property
    def shape(self) -> tuple[int | None, ...]:
        """Return the shape (count, channels, None, ...): images may differ in size."""
        return (len(self.paths), self.form.channels, *[None] * self.dims)

    def read(self, index: int) -> np.ndarray:
        """Read one image, of shape (channels, *sizes).

        Raises:
            DataError: The file can't be read as such an image; the message names it.
        """
        path = self.root / self.paths[index]
        with opened(path) as file:
            return self.image(file, str(path))

    def take(self, rows: np.ndarray) -> ImageFiles:
        """Return some of the images, by their indices (count,)."""
        return replace(self, paths=tuple(self.paths[row] for row in rows))


def image_files(root: Path, paths: Sequence[str], form: ImageForm) -> ImageFiles:
    """Return the images of files, whose kind the first one tells.

    Raises:
        DataError: The first one can't be read, or can't have so many channels.
    """
    first = root / paths[0]
    with opened(first) as file:
        reader, dims = kind_of(file, str(first), form)
    return ImageFiles(form, reader, dims, root, tuple(paths))


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """Open a regular file.

    Raises:
        DataError: It is none, or can't be read.
    """
    try:
        check_regular(path)
        file = path.open("rb")
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error
    with file:
        yield file
