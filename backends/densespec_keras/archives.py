"""Writes ``.keras`` archives, which hold a whole model: Keras has to build it and save it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from densespec.errors import PackageMissing
from densespec.installed import is_installed
from densespec.network.arrays import Arrays
from densespec.network.graph import Graph
from densespec_keras.backend import JAX, TENSORFLOW, TORCH, KerasBackend

BACKENDS = {backend.engine: backend for backend in (TORCH, JAX, TENSORFLOW)}
"""Maps engines to backends; the first installed one writes."""


class ArchiveWriter:
    """Writes archives; see :class:`densespec.weights.whole_models.ModelWriter`."""

    def write(self, graph: Graph, arrays: Arrays, path: Path, *, name: str) -> None:
        backend = _any_backend()
        data_format = backend.data_format(None)
        model = backend.build(graph, arrays, dtype=None, data_format=data_format, name=name)
        model.save(path)


def _any_backend() -> KerasBackend:
    """Return Keras on the engine that this process has or will have, or else on any engine.

    Raises:
        PackageMissing: No engine is installed.
    """
    if "keras" in sys.modules:
        import keras

        chosen = keras.config.backend()
    else:
        chosen = os.environ.get("KERAS_BACKEND")
    if chosen in BACKENDS:
        return BACKENDS[chosen]
    for engine, backend in BACKENDS.items():
        if is_installed(engine):
            return backend
    raise PackageMissing("writing a .keras file", "keras", "torch")


WRITER = ArchiveWriter()
