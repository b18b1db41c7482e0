"""Writes LiteRT's files, which were TensorFlow Lite's."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from densespec.deploy.formats import ExportFormat, Int8Writer, Loader
from densespec.deploy.network import ExportedProgram, ExportOptions
from densespec.network.arrays import Arrays
from densespec.network.graph import Graph
from densespec_keras.backend import TENSORFLOW
from densespec_keras.exporting import built, channels_first, litert_int8

MOST_DIMS = 2
"""LiteRT's operators have at most this many spatial dimensions."""


def write(graph: Graph, arrays: Arrays, path: Path, options: ExportOptions) -> Loader:
    """Write a network with its arrays as constants.

    Raises:
        ValueError: It has three spatial dimensions.
    """
    if graph.spatial_dims > MOST_DIMS:
        raise ValueError(
            f"the network has {graph.spatial_dims} spatial dimensions, but LiteRT pools in "
            f"{MOST_DIMS} at most: ONNX and OpenVINO IR hold such networks"
        )
    model = built(TENSORFLOW, graph, arrays, options)
    channels, *sizes = graph.input.shape
    path.write_bytes(_converted(model, (options.batch, *sizes, channels), options.dtype))
    return lambda: load(path).run


def _converted(model: Any, shape: tuple[int | None, ...], dtype: str) -> bytes:
    """Convert a model by way of a SavedModel, which names the file's inputs."""
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import (
        convert_variables_to_constants_v2 as with_constants,
    )

    wanted = tf.TensorSpec(shape, dtype, name="input")
    call = tf.function(functools.partial(model, training=False), input_signature=[wanted])
    frozen = with_constants(call.get_concrete_function())
    module = tf.Module()
    module.serve = tf.function(lambda x: frozen(x), input_signature=[wanted])
    with tempfile.TemporaryDirectory() as folder:
        tf.saved_model.save(module, folder, signatures={"serving_default": module.serve})
        converted: bytes = tf.lite.TFLiteConverter.from_saved_model(folder).convert()
    return converted


def load(path: Path) -> ExportedProgram:
    """Read a file that has one signature, of one input."""
    from ai_edge_litert.interpreter import Interpreter

    runner = Interpreter(str(path)).get_signature_runner()
    ((name, taken),) = runner.get_input_details().items()
    batch, *sizes, channels = (None if n < 0 else int(n) for n in taken["shape_signature"])

    def run(x: np.ndarray) -> list[np.ndarray]:
        given = runner(**{name: x})
        return [given[key] for key in sorted(given, key=lambda key: (len(key), key))]

    dtype = np.dtype(taken["dtype"]).name
    return ExportedProgram(channels_first(run), dtype, (batch, channels, *sizes))


FORMAT = ExportFormat(
    name="litert",
    about="LiteRT",
    suffixes=(".tflite",),
    write=write,
    packages=("keras", "tensorflow"),
    runtime="ai_edge_litert",
    extra="litert",
    layout="channels last",
    load=load,
    int8=Int8Writer(litert_int8.write, litert_int8.wrote, "ai_edge_quantizer", "litert"),
)
