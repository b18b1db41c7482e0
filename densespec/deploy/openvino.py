"""Writes OpenVINO IR, which OpenVINO converts from our own ONNX graph: two files with one name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from densespec.deploy.formats import ExportFormat, Int8Writer, Loader
from densespec.deploy.network import ExportedProgram, ExportOptions, optimized
from densespec.deploy.onnx import proto
from densespec.deploy.openvino_int8 import write as write_int8
from densespec.network.arrays import Arrays
from densespec.network.graph import Graph

IN_FULL = {"INFERENCE_PRECISION_HINT": "f32"}
"""With this setting float32 is computed in float32; some processors would take bfloat16."""


def write(graph: Graph, arrays: Arrays, path: Path, options: ExportOptions) -> Loader:
    """Write a network, its arrays in a file beside it.

    Raises:
        ValueError: The network is too large for an ONNX graph.
    """
    import openvino

    if options.optimize:
        graph, arrays = optimized(graph, arrays)
    model = proto(graph, arrays, batch=options.batch)
    converted = openvino.Core().read_model(model.SerializeToString(deterministic=True))
    for name, text in options.metadata.items():
        converted.set_rt_info(text, ["densespec", name])
    openvino.save_model(converted, path, compress_to_fp16=False)
    return lambda: load(path).run


def load(path: Path) -> ExportedProgram:
    """Read a network of one input, and compile it for CPUs."""
    import openvino

    model = openvino.Core().read_model(path)
    compiled = openvino.compile_model(model, "CPU", IN_FULL)
    (taken,) = model.inputs
    return ExportedProgram(
        run=lambda x: list(compiled(x).values()),
        dtype=taken.get_element_type().to_dtype().name,
        shape=tuple(_length(place) for place in taken.partial_shape),
    )


def _length(place: Any) -> int | None:
    return place.get_length() if place.is_static else None


FORMAT = ExportFormat(
    name="openvino",
    about="OpenVINO IR",
    suffixes=(".xml",),
    write=write,
    packages=("onnx", "openvino"),
    runtime="openvino",
    extra="openvino",
    beside=(".bin",),
    load=load,
    int8=Int8Writer(write_int8, "nncf", "int8"),
)
