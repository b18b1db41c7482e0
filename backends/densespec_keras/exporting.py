"""SavedModels and StableHLO of Keras models, for ``densespec.export``."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from densespec.backends import get_backend
from densespec.deploy.formats import Loader
from densespec.deploy.network import SIZE_NAMES, Options, Runner, optimized, smallest_size
from densespec.network.arrays import Arrays
from densespec.network.graph import Graph

PLATFORMS = ("cpu", "cuda", "tpu")
"""That JAX may run a serialized network on."""


def _built(engine: str, graph: Graph, arrays: Arrays, options: Options) -> Any:
    """The network on an engine, layer by layer and channels last."""
    if options.optimize:
        graph, arrays = optimized(graph, arrays)
    return get_backend(engine).build(
        graph, arrays, dtype=options.dtype, data_format="channels_last", name="densenet"
    )


def _channels_first(run: Callable[[np.ndarray], Any]) -> Runner:
    """What runs channels-last inputs, as a runner."""

    def runner(x: np.ndarray) -> np.ndarray:
        y = np.asarray(run(np.ascontiguousarray(np.moveaxis(x, 1, -1))))
        return np.moveaxis(y, -1, 1)

    return runner


class SavedModel:
    """See :class:`densespec.deploy.formats.Exporter`."""

    def write(self, graph: Graph, arrays: Arrays, path: Path, options: Options) -> Loader:
        """What ``model.export`` writes, without its second copy of every variable."""
        import tensorflow as tf

        model = _built("tensorflow", graph, arrays, options)
        channels, *sizes = graph.input.shape
        wanted = tf.TensorSpec((options.batch, *sizes, channels), options.dtype, name="input")
        module = tf.Module()
        module.held = [variable.value for variable in model.variables]
        module.serve = tf.function(lambda x: model(x, training=False), input_signature=[wanted])
        tf.saved_model.save(module, path, signatures={"serving_default": module.serve})
        return lambda: _load_saved_model(path)


def _load_saved_model(path: Path) -> Runner:
    import tensorflow as tf

    loaded = tf.saved_model.load(path)  # to be kept: functions alone do not keep its variables
    return _channels_first(lambda x: loaded.serve(x))


class JaxExport:
    """See :class:`densespec.deploy.formats.Exporter`."""

    def write(self, graph: Graph, arrays: Arrays, path: Path, options: Options) -> Loader:
        from jax import export

        path.write_bytes(_exported(graph, arrays, options, platforms=PLATFORMS).serialize())

        def load() -> Runner:
            return _channels_first(export.deserialize(bytearray(path.read_bytes())).call)

        return load


class Mlir:
    """See :class:`densespec.deploy.formats.Exporter`."""

    def write(self, graph: Graph, arrays: Arrays, path: Path, options: Options) -> Loader:
        exported = _exported(graph, arrays, options, platforms=("cpu",))
        path.write_text(exported.mlir_module(), encoding="utf-8")

        def load() -> Runner:
            module = _parsed(path.read_text(encoding="utf-8"))
            return _channels_first(
                dataclasses.replace(exported, mlir_module_serialized=module).call
            )

        return load


def _exported(graph: Graph, arrays: Arrays, options: Options, *, platforms: Sequence[str]) -> Any:
    """The network as ``jax.export`` gives it, with its arrays as constants.

    For several platforms the module takes one more argument, which says on which it runs.
    """
    import jax
    from jax import export

    model = _built("jax", graph, arrays, options)
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
    call = jax.jit(lambda x: model(x, training=False))
    return export.export(call, platforms=platforms)(
        jax.ShapeDtypeStruct(shape, options.dtype)  # type: ignore[no-untyped-call]
    )


def _parsed(text: str) -> bytes:
    """StableHLO text as the portable bytes that JAX runs."""
    from jax._src.interpreters import mlir as jax_mlir
    from jaxlib.mlir import ir

    with jax_mlir.make_ir_context() as context, ir.Location.unknown(context):
        return jax_mlir.module_to_bytecode(ir.Module.parse(text))


SAVED_MODEL, JAX_EXPORT, MLIR = SavedModel(), JaxExport(), Mlir()
