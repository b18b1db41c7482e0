"""TensorFlow SavedModels."""

from __future__ import annotations

import functools
from pathlib import Path

from densespec.deploy.formats import ExportFormat, Loader
from densespec.deploy.network import ExportOptions, Runner
from densespec.network.arrays import Arrays
from densespec.network.graph import Graph
from densespec_keras.backend import TENSORFLOW
from densespec_keras.exporting import built, channels_first


def write(graph: Graph, arrays: Arrays, path: Path, options: ExportOptions) -> Loader:
    """Write what ``model.export`` writes, without its second copy of every variable."""
    model = built(TENSORFLOW, graph, arrays, options)
    import tensorflow as tf

    channels, *sizes = graph.input.shape
    wanted = tf.TensorSpec((options.batch, *sizes, channels), options.dtype, name="input")
    module = tf.Module()
    module.held = [variable.value for variable in model.variables]
    module.serve = tf.function(lambda x: model(x, training=False), input_signature=[wanted])
    tf.saved_model.save(module, path, signatures={"serving_default": module.serve})
    return functools.partial(_load, path)


def _load(path: Path) -> Runner:
    import tensorflow as tf

    loaded = tf.saved_model.load(path)  # to be kept: functions alone do not keep its variables
    return channels_first(lambda x: loaded.serve(x))


FORMAT = ExportFormat(
    name="saved-model",
    about="TensorFlow SavedModel",
    suffixes=("",),
    write=write,
    packages=("keras", "tensorflow"),
    runtime="tensorflow",
    extra="tensorflow",
    layout="channels last",
    marker="saved_model.pb",
)
