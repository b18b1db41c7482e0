"""Names what is timed: a backend in a mode, an exported file, or a format to export to first."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from densespec.backends import (
    LAYERS,
    REFERENCE,
    ModalBackend,
    backends,
    get_backend,
    split_mode,
    with_mode,
)
from densespec.deploy.formats import ExportFormat, format_of, formats
from densespec.errors import BackendUnavailable, DensespecError, PackageMissing, UnknownName
from densespec.installed import is_installed

Work = Literal["inference", "training"]

BEST: dict[Work, str] = {"inference": "inference", "training": "fast"}
"""A backend does some work in this mode, if it has the mode."""


@dataclass(frozen=True)
class Candidate:
    """Describes something to be timed.

    Attributes:
        name: The user's name for it.
        backend: The backend, with its mode; None for a file.
        path: The exported file; None for a backend, and for a format.
        format: The name of the file's format, or of the format to export to; None for a backend.
    """

    name: str
    backend: str | None = None
    path: str | None = None
    format: str | None = None


def candidate_of(name: str) -> Candidate:
    """Find what a user means by the name of a backend or of a format, or by the path of a file.

    Raises:
        UnknownName: It is neither; the message suggests near names.
        DensespecError: It is a file of a format that can't be run.
    """
    if ":" in name or split_mode(name)[0] in backends():
        return Candidate(name, backend=name)
    if name in formats():
        return Candidate(name, format=_runnable(formats()[name]).name)
    if Path(name).exists():
        found = _runnable(format_of(Path(name), None))
        return Candidate(name, path=name, format=found.name)
    raise UnknownName("backend, format or exported file", name, [*backends(), *formats()])


def is_exported(path: str) -> bool:
    """Tell whether there is a file or folder that has the form of an exported one."""
    place = Path(path)
    if place.is_dir():
        markers = [each.marker for each in formats().values() if each.marker]
        return any((place / marker).exists() for marker in markers)
    suffixes = [suffix for each in formats().values() for suffix in each.suffixes if suffix]
    return place.is_file() and place.suffix in suffixes


def candidates_of(names: Sequence[str], work: Work) -> tuple[Candidate, ...]:
    """Find what to time: what is named, or else every backend and format.

    Of every backend but the reference it is the mode that is meant for the work. Whether what they
    need is installed, their processes tell.

    Raises:
        UnknownName: A name is no backend, no format and no file.
        DensespecError: A file can't be run, or can't be trained.
    """
    if not names:
        return (*_backends(work), *(_formats() if work == "inference" else ()))
    found = tuple(map(candidate_of, dict.fromkeys(names)))
    files = [each.name for each in found if each.backend is None]
    if work == "training" and files:
        raise DensespecError(f"{files[0]}: exported files can't be trained, backends can")
    return found


def _backends(work: Work) -> Iterator[Candidate]:
    for name in backends():
        if name == REFERENCE:
            continue
        with contextlib.suppress(PackageMissing, BackendUnavailable):
            backend = get_backend(name)
            modes = backend.modes if isinstance(backend, ModalBackend) else (LAYERS,)
            best = with_mode(name, BEST[work] if BEST[work] in modes else LAYERS)
            yield Candidate(best, backend=best)


def _formats() -> Iterator[Candidate]:
    for each in formats().values():
        if each.load is not None and all(map(is_installed, (*each.packages, each.runtime))):
            yield Candidate(each.name, format=each.name)


def _runnable(chosen: ExportFormat) -> ExportFormat:
    if chosen.load is None:
        raise DensespecError(f"a file of the format {chosen.name} can't be run by itself")
    return chosen
