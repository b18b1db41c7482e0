"""``torch.export`` programs of the modules, for ``densespec.export``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch.export import Dim

from densespec.backends import get_backend
from densespec.deploy.formats import Loader
from densespec.deploy.network import Options, Runner, optimized, smallest_size
from densespec.network.arrays import Arrays
from densespec.network.graph import Graph
from densespec.network.ops import MaxPool

TRACED_BATCH, TRACED_SIZE = 2, 67
"""Of inputs of any batch and size while the network is traced: any but 0 and 1 would do."""


class TorchExport:
    """See :class:`densespec.deploy.formats.Exporter`."""

    def write(self, graph: Graph, arrays: Arrays, path: Path, options: Options) -> Loader:
        _require_size(graph)
        if options.optimize:
            graph, arrays = optimized(graph, arrays)
        model = get_backend("torch.nn").build(
            graph, arrays, dtype=options.dtype, data_format="channels_first", name="densenet"
        )
        model.eval().requires_grad_(False)
        channels, sizes = graph.spec.in_channels, graph.input_size
        wanted = (options.batch, channels, *sizes)
        traced_size = max(TRACED_SIZE, smallest_size(graph))
        traced = (options.batch or TRACED_BATCH, channels, *(n or traced_size for n in sizes))
        x = torch.zeros(traced, dtype=getattr(torch, options.dtype))
        dims = tuple(Dim.AUTO if n is None else Dim.STATIC for n in wanted)
        with torch.no_grad():
            program = torch.export.export(model, (x,), dynamic_shapes=(dims,))
        with path.open("wb") as file:
            torch.export.save(program, file)
        return lambda: _load(path)


def _require_size(graph: Graph) -> None:
    """Refuse what PyTorch traces with guards that no size meets: a padded pool in one dimension.

    Raises:
        ValueError: the network is one of those.
    """
    pads = [node.op.padding for node in graph.nodes if isinstance(node.op, MaxPool)]
    if graph.spatial_dims == 1 and "same" in pads:
        raise ValueError(
            "torch.export can't express a pool with padding 'same' in one dimension for any size: "
            "give the size (--size)"
        )


def _load(path: Path) -> Runner:
    with path.open("rb") as file:
        module = torch.export.load(file).module()

    def run(x: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return module(torch.from_numpy(x)).numpy()

    return run


FORMAT = TorchExport()
