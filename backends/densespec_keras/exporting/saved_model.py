"""Writes TensorFlow's SavedModels."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from densespec.deploy.formats import ExportFormat, Loader
from densespec.deploy.network import ExportedProgram, ExportOptions
from densespec.network.arrays import Arrays
from densespec.network.graph import Graph
from densespec.pretrained.preprocessing import Preprocessing
from densespec_keras.backend import TENSORFLOW
from densespec_keras.devices import TensorFlowDevice
from densespec_keras.exporting import built, channels_first
from densespec_keras.exporting.tf_images import IMAGES, prepared


def write(graph: Graph, arrays: Arrays, path: Path, options: ExportOptions) -> Loader:
    """Write what ``model.export`` writes, without its second copy of every variable."""
    model = built(TENSORFLOW, graph, arrays, options)
    import tensorflow as tf

    channels, *sizes = graph.input.shape
    wanted = tf.TensorSpec((options.batch, *sizes, channels), options.dtype, name="input")
    run = functools.partial(model, training=False)
    if (said := options.preprocessing) is not None:
        wanted = tf.TensorSpec((options.batch, None, None, channels), tf.uint8, name=IMAGES)
        run = functools.partial(_on_images, model, said)
    module = tf.Module()
    module.held = [variable.value for variable in model.variables]
    module.serve = tf.function(run, input_signature=[wanted])
    for name, text in options.metadata.items():
        setattr(module, name, tf.Variable(text, trainable=False))
    tf.saved_model.save(module, path, signatures={"serving_default": module.serve})
    return lambda: load(path).run


def _on_images(model: Any, preprocessing: Preprocessing, images: Any) -> Any:
    return model(prepared(images, preprocessing), training=False)


def load(path: Path) -> ExportedProgram:
    """Read a SavedModel that has ``serve`` and the signature of that, of one input."""
    import tensorflow as tf

    loaded = tf.saved_model.load(path)  # to be kept: functions alone do not keep its variables
    _, taken = loaded.signatures["serving_default"].structured_input_signature
    (spec,) = taken.values()
    batch, *sizes, channels = spec.shape
    if spec.dtype == tf.uint8:
        shape = (batch, *sizes, channels)
        return ExportedProgram(lambda images: loaded.serve(images).numpy(), "uint8", shape)
    run = channels_first(lambda x: loaded.serve(x))
    device = TensorFlowDevice().name
    return ExportedProgram(run, spec.dtype.name, (batch, channels, *sizes), device)


FORMAT = ExportFormat(
    name="saved-model",
    about="TensorFlow SavedModel",
    suffixes=("",),
    write=write,
    packages=("keras", "tensorflow"),
    runtime="tensorflow",
    extra="tensorflow",
    layout="channels last",
    takes_images=True,
    marker="saved_model.pb",
    load=load,
)
