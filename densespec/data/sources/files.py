"""Images in files of their own, which are read when they are needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from densespec.data.dataset import DataError, Normalisation, Split, measured
from densespec.data.reading import reader_of
from densespec.data.reading.reader import ImageForm, ImageReader
from densespec.errors import DensespecError, bare

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
        form: In which form each is read.
        reader: What reads the first one, and should read all.
        dims: How many sizes an image has.
    """

    root: Path
    paths: tuple[str, ...]
    form: ImageForm
    reader: ImageReader
    dims: int

    @property
    def shape(self) -> tuple[int | None, ...]:
        """The shape (count, channels, None, ...): images may differ in size."""
        return (len(self.paths), self.form.channels, *[None] * self.dims)

    def read(self, index: int) -> np.ndarray:
        """Read one image, of shape (channels, *sizes).

        Raises:
            DataError: The file can't be read as such an image; the message names it.
        """
        path = self.root / self.paths[index]
        image = _image(path, self.reader, self.form)
        if image.ndim - 1 != self.dims:
            raise DataError(
                f"{path}: an image of size {image.shape[1:]}, but should have {self.dims} sizes, "
                "as the first one has"
            )
        return image

    def take(self, rows: np.ndarray) -> ImageFiles:
        """Give some of the images, by their indices (count,)."""
        return replace(self, paths=tuple(self.paths[row] for row in rows))


def image_files(root: Path, paths: Sequence[str], form: ImageForm) -> ImageFiles:
    """Give the images of files, whose kind the first one tells.

    Raises:
        DataError: The first one can't be read, or can't have so many channels.
    """
    first = root / paths[0]
    try:
        reader = reader_of(first)
    except OSError as error:
        raise DataError(f"{first}: {error.strerror or error}") from error
    if reader.channels is not None and form.channels not in reader.channels:
        raise DataError(
            f"{first}: an {reader.name}, which is converted to "
            f"{', '.join(map(str, reader.channels))} channels, but the network takes "
            f"{form.channels}"
        )
    dims = reader.dims or _image(first, reader, form).ndim - 1
    return ImageFiles(root, tuple(paths), form, reader, dims)


def _image(path: Path, reader: ImageReader, form: ImageForm) -> np.ndarray:
    try:
        found = reader_of(path)
        if found is not reader and reader.full is None:
            raise ValueError(f"it is another kind of file than the first one, {found.name}")
        image = reader.read(path, form)
        if image.dtype.kind == "f" and not np.isfinite(image).all():
            raise ValueError("it has a value that is not finite (NaN or infinity)")
    except DensespecError:
        raise
    except Exception as error:  # parsers of other packages have errors that share no base
        raise DataError(f"{path}: not a readable {reader.name}: {_reason(error)}") from error
    return image


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return bare(str(error)) or type(error).__name__


def normalisation_of(train: Split) -> Normalisation:
    """Give ImageNet's normalisation of grey or coloured pictures, and measure that of others."""
    assert isinstance(train.x, ImageFiles), "they are files"
    full, channels = train.x.reader.full, train.x.form.channels
    if full is not None and channels in NORMALISATIONS:
        return NORMALISATIONS[channels]
    return measured(train, full or 1.0)
