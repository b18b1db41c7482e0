"""Reads CIFAR-10 and CIFAR-100 as published: archives or folders, binary or pickled by Python.

An archive is read as it is, in memory, and only the members that are needed. Nothing is extracted
and nothing in a file is run. The normalisation is that of the paper's code.
"""

from __future__ import annotations

import hashlib
import os
import tarfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from densespec.data.dataset import BYTE, DataError, Dataset, Normalisation, Split
from densespec.errors import shown
from densespec.weights.pickles.arrays import array_of
from densespec.weights.pickles.instructions import PickleError
from densespec.weights.pickles.machine import PickleReader
from densespec.weights.pickles.standins import Dict, described, text_of

PAGE = "https://www.cs.toronto.edu/~kriz/cifar.html"
IMAGE = (3, 32, 32)
PIXELS = 3 * 32 * 32
LARGEST = 256 * 2**20
"""A file may have at most this many bytes; the largest published one has 154 million."""
MOST_MEMBERS = 1000

Labelled = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Release:
    """Describes one of the two forms in which a data set was published.

    Attributes:
        archive: The file name of the archive.
        md5: The digest of the archive, from the page. It detects damage, but makes no file trusted.
        folder: The folder that the archive unpacks to.
        train: The names of the files to train on.
        test: The name of the file to test on.
        names: The name of the file that names the classes.
        read_images: The function that reads images and labels from the content of a file, given
            ``labels``.
        labels: The place of the labels, as ``read_images`` takes it.
        names_key: The key of the names of the classes; None if their file is a text.
    """

    archive: str
    md5: str
    folder: str
    train: tuple[str, ...]
    test: str
    names: str
    read_images: Callable[[bytes, Any], Labelled]
    labels: Any
    names_key: str | None

    @property
    def needed(self) -> tuple[str, ...]:
        """Return the names of the files without which there is no data set."""
        return (*self.train, self.test)


@dataclass(frozen=True)
class Published:
    """Describes a data set as it was published.

    Attributes:
        title: Its name in messages.
        classes: The number of classes.
        counts: The number of images in each file to train on, and in the one to test on.
        releases: The forms in which it was published.
        normalisation: The normalisation that turns pixels into numbers.
    """

    title: str
    classes: int
    counts: tuple[int, int]
    releases: tuple[Release, ...]
    normalisation: Normalisation


def _binary(content: bytes, label_bytes: int) -> Labelled:
    """Read records of labels, the last of which counts, and 3,072 pixels."""
    size = label_bytes + PIXELS
    count, left = divmod(len(content), size)
    if left or not count:
        raise DataError(
            f"has {len(content)} bytes, but should have a multiple of {size}; {left} are left "
            f"over after {count} records: it is cut off or another file"
        )
    records = np.frombuffer(content, np.uint8).reshape(count, size)
    return records[:, label_bytes:].reshape(-1, *IMAGE), records[:, label_bytes - 1].astype(int)


def _pickled(content: bytes, key: str) -> Labelled:
    table = _table(content)
    pixels, labels = array_of(table.get("data")), table.get(key)
    if pixels is None or pixels.dtype != "uint8" or pixels.shape[1:] != (PIXELS,):
        raise DataError(f"its 'data' should be an array of rows of {PIXELS} bytes")
    if not isinstance(labels, list) or any(type(label) is not int for label in labels):
        raise DataError(f"its {key!r} should be a list of whole numbers")
    if len(labels) != pixels.shape[0] or not labels:
        raise DataError(f"has {pixels.shape[0]} images and {len(labels)} labels")
    try:
        return pixels.read().reshape(-1, *IMAGE), np.array(labels, np.int64)
    except OverflowError as error:
        raise DataError(f"its {key!r} has numbers that are no labels") from error


def _table(content: bytes) -> dict[str, Any]:
    """Read what a pickled dict has under texts, which Python 2 wrote as bytes."""
    value = PickleReader(content).read()
    if not isinstance(value, Dict):
        raise DataError(f"it should be a table, but is {described(value)}")
    named = ((text_of(key, "latin1"), item) for key, item in value.pairs)
    return {name: item for name, item in named if name is not None}


def _names(content: bytes, key: str | None) -> tuple[str, ...]:
    """Read the names of classes: lines of a text, or a list in a pickled dict."""
    if key is None:
        return tuple(content.decode("latin1").split())
    listed = _table(content).get(key)
    names = [text_of(name, "latin1") for name in listed] if isinstance(listed, list) else [None]
    if None in names:
        raise DataError(f"its {key!r} should be a list of names")
    return tuple(filter(None, names))


BATCHES = tuple(f"data_batch_{number}" for number in range(1, 6))

CIFAR10 = Published(
    title="CIFAR-10",
    classes=10,
    counts=(10_000, 10_000),
    releases=(
        Release(
            archive="cifar-10-binary.tar.gz",
            md5="c32a1d4ab5d03f1284b67883e8d87530",
            folder="cifar-10-batches-bin",
            train=tuple(f"{name}.bin" for name in BATCHES),
            test="test_batch.bin",
            names="batches.meta.txt",
            read_images=_binary,
            labels=1,
            names_key=None,
        ),
        Release(
            archive="cifar-10-python.tar.gz",
            md5="c58f30108f718f92721af3b95e74349a",
            folder="cifar-10-batches-py",
            train=BATCHES,
            test="test_batch",
            names="batches.meta",
            read_images=_pickled,
            labels="labels",
            names_key="label_names",
        ),
    ),
    normalisation=Normalisation(
        mean=(125.3 / BYTE, 123.0 / BYTE, 113.9 / BYTE),
        std=(63.0 / BYTE, 62.1 / BYTE, 66.7 / BYTE),
        source="the paper's code, datasets/cifar10.lua",
    ),
)

CIFAR100 = Published(
    title="CIFAR-100",
    classes=100,
    counts=(50_000, 10_000),
    releases=(
        Release(
            archive="cifar-100-binary.tar.gz",
            md5="03b5dce01913d631647c71ecec9e9cb8",
            folder="cifar-100-binary",
            train=("train.bin",),
            test="test.bin",
            names="fine_label_names.txt",
            read_images=_binary,
            labels=2,  # the coarse one, then the fine one
            names_key=None,
        ),
        Release(
            archive="cifar-100-python.tar.gz",
            md5="eb9058c3a382ffc7106e4002c42a8d85",
            folder="cifar-100-python",
            train=("train",),
            test="test",
            names="meta",
            read_images=_pickled,
            labels="fine_labels",
            names_key="fine_label_names",
        ),
    ),
    normalisation=Normalisation(
        mean=(129.3 / BYTE, 124.1 / BYTE, 112.4 / BYTE),
        std=(68.2 / BYTE, 65.4 / BYTE, 70.4 / BYTE),
        source="the paper's code, datasets/cifar100.lua",
    ),
)

PUBLISHED = {"cifar10": CIFAR10, "cifar100": CIFAR100}


def cache() -> Path:
    """Say where data are looked for if no place is given: ``$XDG_CACHE_HOME/densespec``."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "densespec"


def load(name: str, place: str = "", *, check: bool = True) -> Dataset:
    """Load CIFAR-10 or CIFAR-100.

    Args:
        name: ``"cifar10"`` or ``"cifar100"``.
        place: An archive, the folder it unpacks to, or a folder that either is in; the cache if
            none is given.
        check: Whether the archive's digest and the number of images must be those published.

    Raises:
        DataError: The data are absent, damaged or not those that were published.
    """
    published = PUBLISHED[name]
    path = Path(place).expanduser() if place else cache()
    found, release = _find(published, path)
    files = _archived(published, found, check) if release is None else _unpacked(found, release)
    release = release or _release_of(published, found, files)
    train = [_labelled(published, release, found, files, file, check) for file in release.train]
    test = _labelled(published, release, found, files, release.test, check)
    return Dataset(
        name=name,
        classes=_class_names(published, release, found, files),
        train=Split(*(np.concatenate(parts) for parts in zip(*train, strict=True))),
        test=Split(*test),
        normalisation=published.normalisation,
    )


def _find(published: Published, path: Path) -> tuple[Path, Release | None]:
    """Find the folder of a release, or an archive, which tells its release once it is read."""
    if path.is_file():
        return path, None
    for release in published.releases:
        for folder in (path, path / release.folder):
            if all((folder / name).is_file() for name in release.needed):
                return folder, release
    for release in published.releases:
        if (path / release.archive).is_file():
            return path / release.archive, None
    raise DataError(_missing(published, path))


def _missing(published: Published, path: Path) -> str:
    archives = " or ".join(release.archive for release in published.releases)
    folders = " or ".join(f"{release.folder}/" for release in published.releases)
    partly = [
        f"; {folder} lacks {', '.join(lacking)}"
        for release in published.releases
        for folder in (path, path / release.folder)
        if len(lacking := [n for n in release.needed if not (folder / n).is_file()]) > 0
        and len(lacking) < len(release.needed)
    ]
    return (
        f"{published.title} is not in {path}{''.join(partly)}. Download {archives} from {PAGE} and "
        f"put it there as it is, or unpacked, as {folders}; or name another place after a colon"
    )


def _unpacked(folder: Path, release: Release) -> dict[str, bytes]:
    files = {}
    for name in (*release.needed, release.names):
        path = folder / name
        if not path.is_file():
            continue
        if path.stat().st_size > LARGEST:
            raise DataError(f"{path}: has {path.stat().st_size} bytes, far more than was published")
        files[name] = path.read_bytes()
    return files


def _archived(published: Published, path: Path, check: bool) -> dict[str, bytes]:
    """Read the files of an archive that are needed, by name."""
    if check:
        _check_digest(published, path)
    wanted = {
        PurePosixPath(release.folder, name): name
        for release in published.releases
        for name in (*release.needed, release.names)
    }
    files: dict[str, bytes] = {}
    try:
        with tarfile.open(path, "r:*") as archive:
            for member in _members(path, archive):
                name = wanted.get(PurePosixPath(member.name))
                if name is None:
                    continue
                if not member.isreg() or name in files:
                    raise DataError(f"{path}: {shown(member.name)} is there twice or is no file")
                file = archive.extractfile(member)
                files[name] = file.read() if file else b""
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: no readable archive, or cut off: {error}") from error
    return files


def _members(path: Path, archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    for number, member in enumerate(archive):
        if member.size > LARGEST or number >= MOST_MEMBERS:
            raise DataError(
                f"{path}: {shown(member.name)} has {member.size} bytes and is member {number}, far "
                "more than was published"
            )
        yield member


def _check_digest(published: Published, path: Path) -> None:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "md5").hexdigest()
    expected = {release.md5: release.archive for release in published.releases}
    if found not in expected:
        known = ", ".join(f"{md5} ({archive})" for md5, archive in expected.items())
        raise DataError(
            f"{path}: has the MD5 digest {found}, but those published are {known}: download it "
            f"again from {PAGE}, or leave out the check (check=False) if it is meant to differ"
        )


def _release_of(published: Published, path: Path, files: dict[str, bytes]) -> Release:
    for release in published.releases:
        if all(name in files for name in release.needed):
            return release
    needed = " or ".join(
        ", ".join(f"{release.folder}/{name}" for name in release.needed)
        for release in published.releases
    )
    raise DataError(f"{path}: should hold {needed}, but of these has {', '.join(files) or 'none'}")


def _labelled(
    published: Published,
    release: Release,
    place: Path,
    files: dict[str, bytes],
    name: str,
    check: bool,
) -> Labelled:
    """Read and check the images and labels of a file."""
    where = f"{place}, {name}"
    try:
        images, labels = release.read_images(files[name], release.labels)
    except (DataError, PickleError) as error:
        raise DataError(f"{where}: {error}") from error
    wrong = np.flatnonzero((labels < 0) | (labels >= published.classes))
    if len(wrong):
        raise DataError(
            f"{where}: image {wrong[0]} has the label {labels[wrong[0]]}, but should have one from "
            f"0 to {published.classes - 1}: it is damaged or another file"
        )
    expected = published.counts[name == release.test]
    if check and len(labels) != expected:
        raise DataError(
            f"{where}: has {len(labels)} images, but {expected} were published; leave out the "
            "check (check=False) if it is meant to differ"
        )
    return images, labels


def _class_names(
    published: Published, release: Release, place: Path, files: dict[str, bytes]
) -> tuple[str, ...]:
    """Read the names of the classes; if their file is absent, they are numbers."""
    if release.names not in files:
        return tuple(map(str, range(published.classes)))
    try:
        names = _names(files[release.names], release.names_key)
    except (DataError, PickleError) as error:
        raise DataError(f"{place}, {release.names}: {error}") from error
    if len(names) != published.classes:
        raise DataError(
            f"{place}, {release.names}: names {len(names)} classes, but there are "
            f"{published.classes}"
        )
    return names
