"""Writes StableHLO as ``jax.export`` serializes it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from densespec.deploy.formats import ExportFormat, Loader
from densespec.deploy.network import (
    SIZE_NAMES,
    ExportedProgram,
    ExportOptions,
    optimized,
    smallest_size,
)
from densespec.network.arrays import Arrays
from densespec.network.graph import Graph
from densespec_jax.exporting import channels_first
from densespec_jax.exporting.images import exported_on_images, on_images

PLATFORMS = ("cpu", "cuda", "tpu")
"""JAX may run a serialized network on these platforms."""


def write(graph: Graph, arrays: Arrays, path: Path, options: ExportOptions) -> Loader:
    """Write a network with its arrays as constants, lowered for every platform."""
    path.write_bytes(exported(graph, arrays, options, platforms=PLATFORMS).serialize())
    return lambda: load(path).run


def load(path: Path) -> ExportedProgram:
    """Read what was serialized, of one input."""
    from jax import export

    from densespec_jax.devices import FirstDevice

    found = export.deserialize(bytearray(path.read_bytes()))
    (taken,) = found.in_avals
    batch, *sizes, channels = (n if isinstance(n, int) else None for n in taken.shape)
    if taken.dtype == "uint8":
        return ExportedProgram(on_images(found.call), "uint8", (batch, *sizes, channels))
    run = channels_first(found.call)
    shape = (batch, channels, *sizes)
    return ExportedProgram(run, taken.dtype.name, shape, FirstDevice().name)


def exported(
    graph: Graph, arrays: Arrays, options: ExportOptions, *, platforms: Sequence[str]
) -> Any:
    """Return a network as ``jax.export`` does, with its arrays as constants.

    For several platforms the module takes one more argument, which says on which it runs.
    """
    import jax
    import jax.numpy as jnp
    from jax import export

    from densespec_jax.inference import infer

    if options.optimize:
        graph, arrays = optimized(graph, arrays)
    constants = {name: jnp.asarray(array, options.dtype) for name, array in arrays.items()}

    run = jax.jit(lambda x: infer(graph, constants, x))
    if options.preprocessing is not None:
        return exported_on_images(run, options.preprocessing, options.batch, platforms)
    channels, *sizes = graph.input.shape
    names = ("batch", *SIZE_NAMES[len(sizes)])
    known = (options.batch, *sizes)
    places = [str(n or name) for n, name in zip(known, names, strict=True)]
    least = smallest_size(graph)
    open_sizes = [name for name, size in zip(names[1:], sizes, strict=True) if size is None]
    shape = export.symbolic_shape(
        ", ".join([*places, str(channels)]),
        constraints=[f"{name} >= {least}" for name in open_sizes],
    )
    return export.export(run, platforms=platforms)(
        jax.ShapeDtypeStruct(shape, options.dtype)  # type: ignore[no-untyped-call]
    )


FORMAT = ExportFormat(
    name="jax-export",
    about="StableHLO, serialized by jax.export",
    suffixes=(".stablehlo",),
    write=write,
    packages=("jax",),
    runtime="jax",
    extra="jax",
    layout="channels last",
    takes_images=True,
    load=load,
)
