"""Gets the file of a row from where it already lies, or from where it is published.

A file's digest is computed whenever the file is asked for, and tells whether it is the right one.
Only one process fetches a file at a time, and the file takes its place once it is whole.
"""

from __future__ import annotations

import contextlib
import shutil
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from densespec.atomic import atomic_path
from densespec.errors import WeightsError
from densespec.installed import require
from densespec.pretrained import hub_files
from densespec.pretrained.accompaniment import Accompaniment, Provenance
from densespec.pretrained.checksums import file_digest
from densespec.pretrained.downloading import TransferFailed, download
from densespec.pretrained.places import archive_place, other_places, own_place
from densespec.pretrained.row import PretrainedWeights


@dataclass(frozen=True)
class FetchedWeights:
    """Describes a local file of trained weights with the digest that it should have.

    Attributes:
        row: The row that describes it.
        path: Where it lies.
        address: Where it is published.
        name: Its exact name, with its commit on the Hub.
    """

    row: PretrainedWeights
    path: Path
    address: str
    name: str

    def accompaniment(self) -> Accompaniment:
        """Return what goes with it; this computes its SHA-256."""
        return Accompaniment(
            preprocessing=self.row.preprocessing,
            labels=self.row.labels,
            provenance=Provenance(
                name=self.name,
                address=self.address,
                digest=f"sha256:{file_digest(self.path)}",
                licence=self.row.licence,
            ),
            outputs=self.row.activation,
        )

    @property
    def assumptions(self) -> tuple[str, ...]:
        """Say in sentences what is assumed of the file."""
        if self.row.digest is not None or self.row.repository is not None:
            return ()
        return (
            f"its publisher states no digest of {self.name}, so that a damaged or exchanged file "
            "would not be noticed",
        )


def local(row: PretrainedWeights) -> FetchedWeights | None:
    """Return a file that is here, in densespec's cache or in another program's; None if none is.

    Raises:
        WeightsError: A file in densespec's cache has a wrong digest; it is deleted.
    """
    if row.repository is not None:
        return _on_hub(row, hub_files.cached(row))
    own, archive = own_place(row), archive_place(row)
    if archive != own and archive.exists():
        _unpack(archive, own)
    if own.exists():
        _check(own, row)
        return FetchedWeights(row, own, row.source, row.name)
    right = (place for place in other_places(row) if place.is_file() and _is_right(place, row))
    found = next(right, None)
    return FetchedWeights(row, found, row.source, row.name) if found else None


def is_here(row: PretrainedWeights) -> bool:
    """Say whether a file of this name is here, without looking into it."""
    if row.repository is not None:
        return hub_files.place(row) is not None
    places = (own_place(row), archive_place(row), *other_places(row))
    return any(place.is_file() for place in places)


def fetch(row: PretrainedWeights) -> FetchedWeights:
    """Return a file that is here, or fetch it. A terminal shows how far it is.

    Raises:
        WeightsError: It can't be fetched; the message says from where, and where to put it by hand.
            Or it has a wrong digest; it is deleted then.
        PackageMissing: What fetches files is not installed; the message says what to install.
    """
    if (found := local(row)) is not None:
        return found
    if row.repository is not None:
        return _of_hub(row, hub_files.fetched(row))
    with _alone(own_place(row)):
        return local(row) or _downloaded(row)  # another process may have fetched it by now


def _downloaded(row: PretrainedWeights) -> FetchedWeights:
    place = archive_place(row)
    try:
        went_on = download(row.source, place, resumes=row.digest is not None)
    except TransferFailed as error:
        raise WeightsError(_by_hand(row, place, str(error))) from error
    try:
        found = local(row)
    except WeightsError:
        if not went_on:
            raise
        return _downloaded(row)  # what had been brought before was of another file
    assert found is not None, "it has just been fetched"
    return found


def _by_hand(row: PretrainedWeights, place: Path, reason: str) -> str:
    digest = f" Its digest, {row.digest}, is checked then." if row.digest else ""
    return (
        f"{row.name} is not here, and can't be fetched from {row.source}: {reason}. Where there is "
        f"a network, download that address, and put it here at {place}.{digest}"
    )


def _on_hub(row: PretrainedWeights, found: hub_files.HubFile | None) -> FetchedWeights | None:
    return None if found is None else _of_hub(row, found)


def _of_hub(row: PretrainedWeights, found: hub_files.HubFile) -> FetchedWeights:
    return FetchedWeights(row, found.path, found.address, f"{row.name}@{found.commit}")


def _is_right(path: Path, row: PretrainedWeights) -> bool:
    return row.digest is None or row.digest.fits(path)


def _check(path: Path, row: PretrainedWeights) -> None:
    if not _is_right(path, row):
        assert row.digest is not None, "it would be right"
        found = file_digest(path, row.digest.algorithm)
        path.unlink(missing_ok=True)
        raise WeightsError(
            f"{row.name}: {path} has the digest {row.digest.algorithm}:{found}, but should have "
            f"{row.digest}: it is not the file that was published, and has been deleted"
        )


@contextlib.contextmanager
def _alone(place: Path) -> Iterator[None]:
    """Hold the lock of a file to fetch, so that only one process fetches it."""
    require("fetching trained weights", "filelock", extra="pretrained")
    import filelock

    lock = filelock.FileLock(place.with_name(f".{place.name}.lock"))
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError as error:
        raise WeightsError(f"{place.parent}: can't be written into: {error.strerror}") from error
    try:
        yield
    finally:
        lock.release()


def _unpack(archive: Path, place: Path) -> None:
    """Take the file out of an archive, which is then deleted.

    Raises:
        WeightsError: It is no archive, or the file is not in it.
    """
    try:
        with (
            zipfile.ZipFile(archive) as opened,
            opened.open(place.name) as source,
            atomic_path(place) as temporary,
            temporary.open("wb") as target,
        ):
            shutil.copyfileobj(source, target)
    except (zipfile.BadZipFile, KeyError) as error:
        raise WeightsError(
            f"{archive}: no archive with {place.name} in it ({error}); it has been deleted"
        ) from error
    finally:
        archive.unlink(missing_ok=True)
