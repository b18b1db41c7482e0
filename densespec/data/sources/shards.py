"""Reads shards: tar files of many images each, as webdataset writes them, for very large sets.

``PATH/train/*.tar`` and ``PATH/test/*.tar`` (or ``val``, ``valid``, ``validation``), or
``PATH/*.tar`` alone. In that case a fixed fifth is kept for the test; see
:func:`densespec.data.dataset.held_out`. A sample consists of the files in a shard with the same
name before the first dot: an image, by any suffix that images have in folders, and ``cls``, a text
with a whole number, the name of a class, or several numbers, one for each class.

Only the headers and the labels are read at first. Images are read by their places, in an order that
goes through a few shards at a time: see :func:`densespec.data.draws.by_groups`. The reader is our
own: webdataset's gives a stream, in which an order can't name the place of a sample. Tar files say
where each of their members lies.
"""

from __future__ import annotations

import io
import tarfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np

from densespec.data.dataset import DataError, Dataset, Split, parted
from densespec.data.label_names import numbered, told
from densespec.data.reading import ReadImages, kind_of, normalisation_of
from densespec.data.reading.reader import ImageForm
from densespec.data.sources.files import opened
from densespec.data.sources.folder import SUFFIXES, TRAIN, test_folder
from densespec.errors import bare, shown

SUFFIX = ".tar"
LABEL = ".cls"
LONGEST_LABEL = 1 << 16
"""A label, which is a few numbers, has at most this many bytes."""
LARGEST = 1 << 31
"""An image has to have fewer bytes than this."""

Places = np.ndarray
"""Holds int64 (count, 3): each image's shard, the place of its first byte, and its size."""


@dataclass(frozen=True, eq=False)
class ShardImages(ReadImages):
    """Reads images within tar files.

    Attributes:
        shards: The path of each shard.
        places: The place of each image.
    """

    shards: tuple[Path, ...]
    places: Places

    @property
    def shape(self) -> tuple[int | None, ...]:
        """Return the shape (count, channels, None, ...): images may differ in size."""
        return (len(self.places), self.form.channels, *[None] * self.dims)

    @property
    def groups(self) -> np.ndarray:
        """Return the shard of each image, (count,)."""
        return np.asarray(self.places[:, 0])

    def read(self, index: int) -> np.ndarray:
        """Read one image, of shape (channels, *sizes).

        Raises:
            DataError: It can't be read as such an image; the message names its shard and place.
        """
        file, name = _member(self.shards, self.places[index])
        return self.image(file, name)

    def take(self, rows: np.ndarray) -> ShardImages:
        """Return some of the images, by their indices (count,)."""
        return replace(self, places=self.places[rows])


def load(place: str, form: ImageForm) -> Dataset:
    """Load the data set in a folder of shards.

    Args:
        place: The path of the folder.
        form: In which form images are read.

    Raises:
        DataError: There is no such folder, or its shards are not as they should be.
    """
    root = Path(place).expanduser()
    if not root.is_dir():
        raise DataError(f"{root}: no such folder")
    folders = [root / TRAIN, test_folder(root)] if (root / TRAIN).is_dir() else [root]
    listed = [_listed(folder) for folder in folders]
    classes = told([labels for _, _, labels in listed])
    splits = [
        Split(_images(shards, places, form), numbered(labels, classes, f"{folder}: sample"))
        for folder, (shards, places, labels) in zip(folders, listed, strict=True)
    ]
    train, test = splits if len(splits) > 1 else parted(splits[0])
    return Dataset(root.name, tuple(classes), train, test, normalisation_of(train))


def _images(shards: tuple[Path, ...], places: Places, form: ImageForm) -> ShardImages:
    reader, dims = kind_of(*_member(shards, places[0]), form)
    return ShardImages(form, reader, dims, shards, places)


def _member(shards: tuple[Path, ...], place: np.ndarray) -> tuple[io.BytesIO, str]:
    """Read what lies at a place, and say where that is."""
    shard, start, size = map(int, place)
    with opened(shards[shard]) as file:
        file.seek(start)
        content = file.read(size)
    if len(content) < size:
        raise DataError(f"{shards[shard]}: ends before byte {start + size}, where an image does")
    return io.BytesIO(content), f"{shards[shard]}, image at byte {start}"


def _listed(folder: Path) -> tuple[tuple[Path, ...], Places, np.ndarray]:
    """List the shards of a folder, and of every sample in them its place and its label."""
    shards = tuple(sorted(path for path in folder.iterdir() if path.suffix == SUFFIX))
    if not shards:
        raise DataError(f"{folder}: has no shards, which end in {SUFFIX}")
    found = [_samples(path) for path in shards]
    places = [(shard, *s.place) for shard, part in enumerate(found) for s in part if s.place]
    labels = [sample.label for part in found for sample in part]
    return shards, np.array(places, np.int64), _labels(folder, labels)


@dataclass
class _Sample:
    """Holds what is found of a sample: where its image lies, and its label."""

    place: tuple[int, int] | None = None
    label: str = ""


def _samples(path: Path) -> list[_Sample]:
    """List the samples of a shard."""
    found: defaultdict[str, _Sample] = defaultdict(_Sample)
    with opened(path) as file:
        try:
            with tarfile.open(fileobj=file, mode="r:") as archive:
                for member in archive:
                    _add(path, found, member, file)
                file.seek(archive.offset)
                if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                    raise ValueError("it lacks the mark of its end, so something is cut off")
        except (tarfile.TarError, ValueError, OSError) as error:
            if isinstance(error, DataError):
                raise
            raise DataError(f"{path}: not a readable tar file: {bare(str(error))}") from error
    for name, sample in found.items():
        if sample.place is None or not sample.label:
            lacking = "no image" if sample.place is None else f"no text {LABEL}, or nothing in it"
            raise DataError(f"{path}: sample {shown(name)} has {lacking}")
    if not found:
        raise DataError(f"{path}: has no samples")
    return list(found.values())


def _add(path: Path, found: Mapping[str, _Sample], member: tarfile.TarInfo, file: BinaryIO) -> None:
    """Add to its sample what a member of a shard says, if the member is an image or a label."""
    folder, _, name = member.name.rpartition("/")
    stem, dot, rest = name.partition(".")
    suffix = dot + rest.lower()
    if not member.isreg() or member.sparse or suffix not in (LABEL, *SUFFIXES):
        return
    sample, what = found[f"{folder}/{stem}"], f"{path}: {shown(member.name)}"
    if sample.label if suffix == LABEL else sample.place:
        raise DataError(f"{what} is there twice, or in two formats")
    if member.size > (LONGEST_LABEL if suffix == LABEL else LARGEST):
        raise DataError(f"{what} has {member.size} bytes, which is too much")
    if suffix != LABEL:
        sample.place = (member.offset_data, member.size)
        return
    file.seek(member.offset_data)
    sample.label = file.read(member.size).decode().strip()


def _labels(folder: Path, texts: Sequence[str]) -> np.ndarray:
    """Return labels: whole numbers, several numbers each, or names."""
    try:
        rows = [[float(word) for word in text.replace(",", " ").split()] for text in texts]
    except ValueError:
        return np.array(texts)
    if len({len(row) for row in rows}) > 1:
        raise DataError(f"{folder}: labels of several samples have not as many numbers as others")
    numbers = np.array(rows)
    if numbers.shape[1] == 1 and (numbers == np.floor(numbers)).all():
        return np.array([int(text) for text in texts])
    return numbers
