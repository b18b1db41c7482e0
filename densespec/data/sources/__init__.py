"""Finds the source of data by what stands before the colon."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from densespec.data.dataset import DataError, Dataset
from densespec.data.reading.reader import ImageForm
from densespec.data.sources import arrays, cifar, digits, folder, hugging_face, shards, table
from densespec.errors import UnknownName


@dataclass(frozen=True)
class ReadingOptions:
    """Says how data are read.

    Attributes:
        check: Whether published sizes and digests must be met.
        form: The form in which images in files are read.
    """

    check: bool
    form: ImageForm


@dataclass(frozen=True)
class Source:
    """Describes a source, as a row of the table of sources.

    Attributes:
        usage: The way users write it.
        summary: The data that it gives.
        needs_place: Whether a path must follow the name; None if it may.
        load: The function that loads the data from the path, which is empty if none is given.
    """

    usage: str
    summary: str
    needs_place: bool | None
    load: Callable[[str, ReadingOptions], Dataset]


SOURCES: dict[str, Source] = {
    "digits": Source(
        "digits",
        "scikit-learn's 1,797 handwritten digits, 8x8, grey; nothing to download",
        False,
        lambda place, options: digits.load(),
    ),
    "cifar10": Source(
        "cifar10[:PATH]",
        "CIFAR-10: 60,000 images of 32x32 in 10 classes",
        None,
        lambda place, options: cifar.load("cifar10", place, check=options.check),
    ),
    "cifar100": Source(
        "cifar100[:PATH]",
        "CIFAR-100: 60,000 images of 32x32 in 100 classes",
        None,
        lambda place, options: cifar.load("cifar100", place, check=options.check),
    ),
    "folder": Source(
        "folder:PATH",
        "image files, a folder for each class: PATH/train/CLASS and PATH/test/CLASS, or PATH/CLASS",
        True,
        lambda place, options: folder.load(place, options.form),
    ),
    "table": Source(
        "table:FILE",
        "image files by a CSV or parquet table of paths and labels, one or several an image",
        True,
        lambda place, options: table.load(place, options.form),
    ),
    "shards": Source(
        "shards:PATH",
        "tar files of images and labels, as webdataset writes them, a few of them at a time",
        True,
        lambda place, options: shards.load(place, options.form),
    ),
    "huggingface": Source(
        "huggingface:NAME",
        "a set of the Hugging Face Hub, or a folder of its parquet files, a few shards at a time",
        True,
        lambda place, options: hugging_face.load(place, options.form.channels),
    ),
    "arrays": Source(
        "arrays:FILE",
        "arrays x_train, y_train, x_test, y_test, or x and y, of a .npz or .safetensors file",
        True,
        lambda place, options: arrays.load(place),
    ),
}

DEFAULT = "digits"


def load(
    text: str = DEFAULT, *, check: bool = True, channels: int = 3, window: bool = False
) -> Dataset:
    """Load a data set.

    Args:
        text: The name of a source, and after a colon where its data are; see :data:`SOURCES`.
        check: Whether files must have the sizes and digests that were published.
        channels: How many channels images in files are to have: 1 for grey, 3 for colours, 4 for
            colours and how opaque they are.
        window: Whether DICOM images are seen through the window that they state, from 0 to 255;
            otherwise they have the values that were measured.

    Raises:
        UnknownName: There is no such source.
        DataError: The data are absent, damaged or not as they should be; the message says what to
            do.
    """
    name, colon, place = text.partition(":")
    if name not in SOURCES:
        raise UnknownName("data", name, SOURCES)
    source = SOURCES[name]
    if bool(place) != bool(colon) or source.needs_place not in (None, bool(place)):
        raise DataError(f"data = {text!r}, but should be written as {source.usage}")
    return source.load(place, ReadingOptions(check, ImageForm(channels, window)))
