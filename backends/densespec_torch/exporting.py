"""Writes the modules as ``torch.export`` programs."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Any

from densespec.deploy.formats import ExportFormat, Loader
from densespec.deploy.network import ExportedProgram, ExportOptions, optimized, smallest_size
from densespec.network.arrays import Arrays
from densespec.network.graph import Graph, lower

if TYPE_CHECKING:
    import numpy as np

TRACED_BATCH, TRACED_SIZE = 2, 67
"""A network of any batch and size is traced at these: neither of them may be 0 or 1."""


def write(graph: Graph, arrays: Arrays, path: Path, options: ExportOptions) -> Loader:
    """Write a network as a program that takes any batch and size, or those that are given."""
    import torch
    from torch.export import Dim
    from torch.fx.experimental import _config

    from densespec_torch.backend import BACKEND
    from densespec_torch.images import OnImages
    from densespec_torch.layers import pool_in_two_dimensions

    least = least_size(graph)
    if options.optimize:
        graph, arrays = optimized(graph, arrays)
    model = BACKEND.build(
        graph, arrays, dtype=options.dtype, data_format="channels_first", name="densenet"
    )
    model.eval().requires_grad_(False)
    if graph.spatial_dims == 1:
        pool_in_two_dimensions(model, graph)
    channels, sizes, dtype = graph.spec.in_channels, graph.input_size, getattr(torch, options.dtype)
    wanted: tuple[int | None, ...] = (options.batch, channels, *sizes)
    if (said := options.preprocessing) is not None:
        model, least, dtype = OnImages(model, said), 1, torch.uint8
        wanted = (options.batch, None, None, channels)
    traced_size = max(TRACED_SIZE, least)
    batch, *places = wanted
    x = torch.zeros(batch or TRACED_BATCH, *(n or traced_size for n in places), dtype=dtype)
    dims = (
        Dim.STATIC if batch else Dim.AUTO,
        *(Dim.STATIC if n else Dim.AUTO(min=least) for n in places),
    )
    # PyTorch would take it that no map has one position alone, as those that it traces have more.
    config: Any = _config
    with torch.no_grad(), config.patch(backed_size_oblivious=True):
        program = torch.export.export(model, (x,), dynamic_shapes=(dims,))
    texts = {f"densespec.{name}": text for name, text in options.metadata.items()}
    with path.open("wb") as file:
        torch.export.save(program, file, extra_files=texts)
    return lambda: load(path).run


def least_size(graph: Graph) -> int:
    """Find the least size of an input that a program takes in each dimension of any size.

    In three dimensions PyTorch can't express that the last map may have one position alone.
    """
    least = smallest_size(graph)
    if graph.spatial_dims < 3:
        return least
    return next(n for n in itertools.count(least) if _last_map(graph, n)[0] != 1)


def _last_map(graph: Graph, size: int) -> tuple[int | None, ...]:
    features = lower(graph.spec, (size,) * graph.spatial_dims, include_top=False)
    return features.output.shape[1:]


def load(path: Path) -> ExportedProgram:
    """Read a program of one input."""
    import torch
    from torch.utils._pytree import tree_leaves

    with path.open("rb") as file:
        program = torch.export.load(file)
    module = program.module()
    (name,) = program.graph_signature.user_inputs
    (taken,) = (node.meta["val"] for node in program.graph.nodes if node.name == name)

    def run(x: np.ndarray) -> list[np.ndarray]:
        with torch.no_grad():
            return [y.numpy() for y in tree_leaves(module(torch.from_numpy(x)))]

    return ExportedProgram(
        run=run,
        dtype=str(taken.dtype).rpartition(".")[2],
        shape=tuple(n if isinstance(n, int) else None for n in taken.shape),
    )


FORMAT = ExportFormat(
    name="torch-export",
    about="torch.export",
    suffixes=(".pt2",),
    write=write,
    packages=("torch",),
    runtime="torch",
    extra="torch",
    least_size=least_size,
    takes_images=True,
    load=load,
)
