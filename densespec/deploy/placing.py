"""Puts exported files and folders in their places, whole or not at all."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterator
from pathlib import Path

from densespec.atomic import atomic_folder, atomic_path, folder_beside, is_replaceable
from densespec.deploy.formats import ExportFormat
from densespec.errors import DensespecError


@contextlib.contextmanager
def placed(path: Path, chosen: ExportFormat) -> Iterator[Path]:
    """Return a temporary file or folder that takes its place on success and vanishes on failure."""
    if chosen.beside:
        with _placed_together(path, chosen) as temporary:
            yield temporary
        return
    if chosen.marker is None:
        with atomic_path(path) as temporary:
            yield temporary
        return
    if not is_replaceable(path, chosen.marker):
        raise DensespecError(
            f"{path} is there and no {chosen.about}: give another name, or remove it"
        )
    with atomic_folder(path) as temporary:
        yield temporary


@contextlib.contextmanager
def _placed_together(path: Path, chosen: ExportFormat) -> Iterator[Path]:
    """Return a temporary path, from which a file and those beside it take their places on success.

    The file itself comes last: where there was none, it is there only once the others are.
    """
    target = Path(os.path.realpath(path))
    with folder_beside(path) as outer:
        temporary = outer / target.name
        yield temporary
        for other, place in zip(_beside(temporary, chosen), _beside(target, chosen), strict=True):
            other.replace(place)
        temporary.replace(target)


def _beside(path: Path, chosen: ExportFormat) -> list[Path]:
    return [path.with_suffix(suffix) for suffix in chosen.beside]


def bytes_of(path: Path, chosen: ExportFormat) -> int:
    """Count the bytes of an exported file and of those beside it, or of all files in a folder."""
    paths = (path, *_beside(path, chosen))
    files = itertools.chain.from_iterable(
        path.rglob("*") if path.is_dir() else [path] for path in paths
    )
    return sum(file.stat().st_size for file in files if file.is_file())
