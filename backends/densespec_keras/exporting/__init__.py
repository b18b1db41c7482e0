"""Holds the export formats of Keras's engines, one in each file, and what they share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from densespec.deploy.network import ExportOptions, Runner, optimized
from densespec.network.arrays import Arrays
from densespec.network.graph import Graph
from densespec_keras.axes import laid_out
from densespec_keras.backend import KerasBackend


def built(backend: KerasBackend, graph: Graph, arrays: Arrays, options: ExportOptions) -> Any:
    """Build a network on an engine, layer by layer and channels last."""
    if options.optimize:
        graph, arrays = optimized(graph, arrays)
    return backend.build(
        graph, arrays, dtype=options.dtype, data_format="channels_last", name="densenet"
    )


def channels_first(run: Callable[[np.ndarray], Any]) -> Runner:
    """Turn what runs channels-last inputs into a runner, which takes channels-first ones."""

    def runner(x: np.ndarray) -> list[np.ndarray]:
        given = run(laid_out(x, "channels_last"))
        values = given if isinstance(given, list | tuple) else [given]
        return [np.moveaxis(np.asarray(value), -1, 1) for value in values]

    return runner
