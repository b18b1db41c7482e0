"""Reads files that hold an image each. Their content decides what kind they are, not their name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from densespec.data.dataset import DataError, Normalisation, Split, measured
from densespec.data.reading import dicom, nifti, npy, pictures
from densespec.data.reading.reader import ImageForm, ImageReader
from densespec.errors import DensespecError, bare

READERS: tuple[ImageReader, ...] = (npy.READER, nifti.READER, dicom.READER, pictures.READER)
"""The first reader that claims a file reads it; pictures claim what no other does."""

NORMALISATIONS = {
    1: Normalisation((0.449,), (0.226,), source="mean of the channels of ImageNet's"),
    3: Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), source="ImageNet, published"),
}

HEAD = 4096
"""A file is recognised by this many bytes: its first ones, or those that they unpack to."""


def reader_of(file: BinaryIO) -> ImageReader:
    """Find what reads an open file, which then stands at its start."""
    file.seek(0)
    head = file.read(HEAD)
    file.seek(0)
    return next(reader for reader in READERS if reader.claims(head))


def read_image(
    file: BinaryIO, name: str, form: ImageForm, *, kind: ImageReader | None = None
) -> np.ndarray:
    """Read the image of an open file, of shape (channels, *sizes), uint8 or floats.

    Args:
        name: What messages call the file.
        kind: What the file should be; None for whatever it is.

    Raises:
        DataError: It can't be read as such an image, or has a value that is not finite.
    """
    found = reader_of(file)
    reader = kind or found
    try:
        if found is not reader and reader.full is None:
            raise ValueError(f"it is another kind of file than the first one, {found.name}")
        image = reader.read(file, form)
        if image.dtype.kind == "f" and not np.isfinite(image).all():
            raise ValueError("it has a value that is not finite (NaN or infinity)")
    except DensespecError:
        raise
    except Exception as error:  # parsers of other packages have errors that share no base
        raise DataError(f"{name}: not a readable {reader.name}: {_reason(error)}") from error
    return image


@dataclass(frozen=True, eq=False)
class ReadImages:
    """Reads images of one kind, in one form.

    Attributes:
        form: The form in which each image is read.
        reader: The reader of the first image, which should read all.
        dims: The number of sizes of an image.
    """

    form: ImageForm
    reader: ImageReader
    dims: int

    def image(self, file: BinaryIO, name: str) -> np.ndarray:
        """Read the image of an open file, (channels, *sizes).

        Raises:
            DataError: It is no such image; the message has the name.
        """
        image = read_image(file, name, self.form, kind=self.reader)
        if image.ndim - 1 != self.dims:
            raise DataError(
                f"{name}: an image of size {image.shape[1:]}, but should have {self.dims} sizes, "
                "as the first one has"
            )
        return image


def kind_of(file: BinaryIO, name: str, form: ImageForm) -> tuple[ImageReader, int]:
    """Return the reader of a set's images, and how many sizes they have, by the first file.

    Raises:
        DataError: It can't be read, or can't have so many channels.
    """
    reader = reader_of(file)
    if reader.channels is not None and form.channels not in reader.channels:
        raise DataError(
            f"{name}: an {reader.name}, which is converted to "
            f"{', '.join(map(str, reader.channels))} channels, but the network takes "
            f"{form.channels}"
        )
    return reader, reader.dims or read_image(file, name, form).ndim - 1


def normalisation_of(train: Split) -> Normalisation:
    """Return ImageNet's normalisation of grey or coloured pictures, and measure that of others."""
    assert isinstance(train.x, ReadImages), "they are read from files"
    full, channels = train.x.reader.full, train.x.form.channels
    if full is not None and channels in NORMALISATIONS:
        return NORMALISATIONS[channels]
    return measured(train, full or 1.0)


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return bare(str(error)) or type(error).__name__
