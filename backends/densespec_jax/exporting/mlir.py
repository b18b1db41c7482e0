"""Writes StableHLO as text."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from densespec.deploy.formats import ExportFormat, Loader
from densespec.deploy.network import ExportOptions, Runner
from densespec.network.arrays import Arrays
from densespec.network.graph import Graph
from densespec_jax.exporting import channels_first
from densespec_jax.exporting.images import on_images
from densespec_jax.exporting.jax_export import exported


def write(graph: Graph, arrays: Arrays, path: Path, options: ExportOptions) -> Loader:
    """Write a network with its arrays as constants, lowered for CPUs."""
    network = exported(graph, arrays, options, platforms=("cpu",))
    path.write_text(_comments(options.metadata) + network.mlir_module(), encoding="utf-8")

    def load() -> Runner:
        module = _parsed(path.read_text(encoding="utf-8"))
        run = dataclasses.replace(network, mlir_module_serialized=module).call
        return channels_first(run) if options.preprocessing is None else on_images(run)

    return load


def _comments(texts: Mapping[str, str]) -> str:
    """Write what goes with the network as comments, as StableHLO has no other place for it."""
    return "".join(f"// densespec.{name}: {text}\n" for name, text in texts.items())


def _parsed(text: str) -> bytes:
    """Turn StableHLO text into the portable bytes that JAX runs."""
    from jax._src.interpreters import mlir
    from jaxlib.mlir import ir

    with mlir.make_ir_context() as context, ir.Location.unknown(context):
        return mlir.module_to_bytecode(ir.Module.parse(text))


FORMAT = ExportFormat(
    name="mlir",
    about="StableHLO text",
    suffixes=(".mlir",),
    write=write,
    packages=("jax",),
    runtime="jax",
    extra="jax",
    layout="channels last",
    takes_images=True,
)
