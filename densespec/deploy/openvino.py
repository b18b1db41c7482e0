"""Writes OpenVINO IR, which OpenVINO converts from our own ONNX graph: two files with one name."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from densespec.deploy import openvino_int8
from densespec.deploy.formats import ExportFormat, Int8Writer, Loader
from densespec.deploy.network import ExportedProgram, ExportOptions, optimized
from densespec.deploy.onnx import proto
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
    showing = functools.cache(functools.partial(_compiled_that_shows, path))

    def show(x: np.ndarray, names: Sequence[str]) -> dict[str, np.ndarray]:
        shown, given = showing(tuple(names))
        values = list(shown(x).values())[-len(given) :] if given else []
        return dict(zip(given, values, strict=True))

    return ExportedProgram(
        run=lambda x: list(compiled(x).values()),
        dtype=taken.get_element_type().to_dtype().name,
        shape=tuple(_length(place) for place in taken.partial_shape),
        show=show,
    )


def _compiled_that_shows(path: Path, names: Sequence[str]) -> tuple[Any, list[str]]:
    """Read a network again, let it give those values within it, and say which it has.

    In int8 it gives values as they are read, rounded: OpenVINO 2026.4 computes rubbish from there
    on if a convolution's value is also given as it was before.
    """
    import openvino

    model = openvino.Core().read_model(path)
    computed = {
        name: output
        for op in model.get_ops()
        if op.get_type_name() != "Result"
        for output in op.outputs()
        for name in output.names
    }
    found = [name for name in names if name in computed]
    model.add_results([openvino.opset13.result(_as_read(computed[name])) for name in found])
    return openvino.compile_model(model, "CPU", IN_FULL), found


def _as_read(output: Any) -> Any:
    """Return a value rounded to a few levels, where that is what its readers get."""
    readers = [place.get_node() for place in output.get_target_inputs()]
    rounding = (node for node in readers if node.get_type_name() == "FakeQuantize")
    rounded = next(rounding, None)
    return output if rounded is None else rounded.output(0)


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
    int8=Int8Writer(openvino_int8.write, openvino_int8.wrote, "nncf", "int8"),
)
