"""Reads kinds of file, or of folder, that other packages know.

Any package can offer a reader under the entry-point group ``densespec.containers``, by the name of
the kind. It is asked about paths that are none of the kinds here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from densespec import published
from densespec.weights.containers.base import Opened

GROUP = "densespec.containers"


class ContainerReader(Protocol):
    """Reads the arrays of one kind of file or folder."""

    def files(self, path: Path) -> list[Path]:
        """List the files that hold what a path stands for; it need not be a file's own.

        Their contents decide, and no framework is needed to tell. The list is empty if the path
        is of another kind.
        """
        ...

    def read(self, opened: Opened) -> None:
        """Add every array of ``opened.path``, to be read when it is asked for.

        Raises:
            Refused: It is damaged, or can't be read; the path is put before what is said.
            PackageMissing: The framework that reads it is not installed; the message says what to
                install.
        """
        ...


def reader_of(path: Path) -> tuple[str, ContainerReader, list[Path]] | None:
    """Find the kind that a path is of, what reads it, and the files that hold it."""
    readers: dict[str, ContainerReader] = published.load_all(GROUP, "container")
    for name, reader in readers.items():
        if files := reader.files(path):
            return name, reader, files
    return None
