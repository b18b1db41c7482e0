"""Writes whole-model files, which only their framework can write.

Any package can offer a writer under the entry-point group ``densespec.model_writers``, by the name
of the layout whose models it writes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from densespec import published
from densespec.atomic import atomic_path, folder_beside
from densespec.errors import WeightsError
from densespec.network.arrays import Arrays
from densespec.network.graph import Graph
from densespec.weights.layouts import Layout

GROUP = "densespec.model_writers"


class ModelWriter(Protocol):
    """Writes the whole-model files of one layout."""

    def write(self, graph: Graph, arrays: Arrays, path: Path, *, name: str) -> None:
        """Build a network and write it to a path, which has the suffix of the user's.

        Args:
            arrays: By canonical name, with canonical axes; they fit the network.
            name: The model's, if the file has one.

        Raises:
            PackageMissing: The framework is not installed; the message says what to install.
        """
        ...


def writer_of(layout: Layout, target: Path) -> ModelWriter:
    """Find what writes whole models of a layout.

    Raises:
        WeightsError: No installed package does.
    """
    writers = published.names(GROUP)
    if layout.name not in writers:
        known = " or ".join(writers) or "none"
        raise WeightsError(
            f"{target}: a {target.suffix} file holds a whole model, which can be written of these "
            f"layouts: {known}; write a .weights.h5 in layout {layout.name!r}, and let its model "
            "load that"
        )
    writer: ModelWriter = published.load(GROUP, "writer of whole models", layout.name)
    return writer


def write_model(layout: Layout, target: Path, graph: Graph, arrays: Arrays, *, name: str) -> None:
    """Write a network as a whole model of a layout; the file appears whole or not at all.

    Raises:
        WeightsError: No installed package writes such models, or the file can't be written.
        PackageMissing: The framework is not installed; the message says what to install.
    """
    writer = writer_of(layout, target)
    try:
        with atomic_path(target) as temporary, folder_beside(target) as folder:
            written = folder / target.name
            writer.write(graph, arrays, written, name=name)
            written.replace(temporary)
    except OSError as error:
        raise WeightsError(f"{target}: can't be written: {error.strerror or error}") from error
