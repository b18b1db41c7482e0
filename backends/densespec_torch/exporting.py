"""``torch.export`` programs of the modules."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING

from densespec.deploy.formats import ExportFormat, Loader
from densespec.deploy.network import ExportOptions, Runner, optimized, smallest_size
from densespec.network.arrays import Arrays
from densespec.network.graph import Graph
from densespec.network.ops import MaxPool

if TYPE_CHECKING:
    import numpy as np

TRACED_BATCH, TRACED_SIZE = 2, 67
"""The batch and size at which a network of any batch and size is traced: not 0 or 1."""


def write(graph: Graph, arrays: Arrays, path: Path, options: ExportOptions) -> Loader:
    """Write a network as a program that takes any batch and size, or those that are given.

    Raises:
        ValueError: PyTorch can't express the network for any size.
    """
    import torch
    from torch.export import Dim

    from densespec_torch.backend import BACKEND

    _require_size(graph)
    if options.optimize:
        graph, arrays = optimized(graph, arrays)
    model = BACKEND.build(
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
    return functools.partial(_load, path)


def _require_size(graph: Graph) -> None:
    """Refuse what PyTorch traces with guards that no size meets: a padded pool in one dimension.

    Raises:
        ValueError: The network is one of those.
    """
    pads = [node.op.padding for node in graph.nodes if isinstance(node.op, MaxPool)]
    if graph.spatial_dims == 1 and "same" in pads:
        raise ValueError(
            "torch.export can't express a pool with padding 'same' in one dimension for any size: "
            "give the size (--size)"
        )


def _load(path: Path) -> Runner:
    import torch

    with path.open("rb") as file:
        module = torch.export.load(file).module()

    def run(x: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return module(torch.from_numpy(x)).numpy()

    return run


FORMAT = ExportFormat(
    name="torch-export",
    about="torch.export",
    suffixes=(".pt2",),
    write=write,
    packages=("torch",),
    runtime="torch",
    extra="torch",
)
