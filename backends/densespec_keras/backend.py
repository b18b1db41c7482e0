"""Defines the ``tensorflow``, ``torch`` and ``jax`` backends: Keras 3 on each of its engines."""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from densespec.backends import LAYERS, ComputingDevice, DataFormat, Origin, Trainer, with_mode
from densespec.errors import Untrainable
from densespec.network.arrays import Arrays
from densespec.network.graph import Graph
from densespec.recipes.recipe import TrainingRecipe
from densespec_keras.engine import keras_on, widen

if TYPE_CHECKING:
    from densespec_keras.training import KerasTrainer


@dataclass(frozen=True)
class KerasBackend:
    """Builds Keras models on one engine, in one mode. It imports Keras on first use, not before."""

    engine: str
    mode: str = LAYERS

    modes: ClassVar[tuple[str, ...]] = (LAYERS, "fast", "efficient", "inference")

    def in_mode(self, mode: str) -> KerasBackend:
        """See :class:`densespec.backends.ModalBackend`."""
        return replace(self, mode=mode)

    def configure(self, recipe: TrainingRecipe) -> None:
        """See :class:`densespec.backends.ConfigurableBackend`."""
        if recipe.dtype == "float64":
            widen(self.engine)

    def devices(self) -> list[str]:
        """See :class:`densespec.backends.DeviceBackend`."""
        keras_on(self.engine)
        from densespec_keras.devices import NAMES

        return NAMES[self.engine]()

    def device(self) -> ComputingDevice:
        """See :class:`densespec.backends.TimeableBackend`."""
        keras_on(self.engine)
        from densespec_keras.devices import FIRST

        return FIRST[self.engine]()

    def place(self, model: Any) -> Any:
        return model  # which stands there from the start

    def caller(self, model: Any, x: np.ndarray) -> Callable[[], object]:
        from densespec_keras.running import caller

        return caller(model, x)

    def data_format(self, requested: DataFormat | None) -> DataFormat:
        keras = keras_on(self.engine)
        if requested not in (None, "channels_first", "channels_last"):
            raise ValueError(
                f"data_format = {requested!r}, but should be 'channels_first' or 'channels_last'"
            )
        default: DataFormat = keras.config.image_data_format()
        return requested or default

    def build(
        self,
        graph: Graph,
        weights: Mapping[str, np.ndarray],
        *,
        dtype: str | None,
        data_format: DataFormat,
        name: str,
    ) -> Any:
        return self._model(graph, weights, dtype=dtype, data_format=data_format, name=name)

    def _model(
        self,
        graph: Graph,
        weights: Mapping[str, np.ndarray],
        *,
        dtype: str | None,
        data_format: DataFormat,
        name: str,
        synchronised: bool = False,
        policies: Mapping[str, Any] | None = None,
    ) -> Any:
        keras = keras_on(self.engine)
        from densespec_keras import variables
        from densespec_keras.emitter import Emitter
        from densespec_keras.planned import KINDS

        policy = keras.dtype_policies.get(dtype) if dtype else keras.config.dtype_policy()
        if policy.compute_dtype == "float64":
            _prepare_float64(self.engine)
        planned = self.mode != LAYERS
        last = planned or _needs_channels_last(self.engine)
        inner = "channels_last" if last else data_format
        model = Emitter(
            graph,
            data_format=data_format,
            inner_format=inner,
            dtype=dtype,
            policies=policies,
            weights=weights,
            synchronised=synchronised,
            kind=KINDS[self.mode],
        ).model(name)
        variables.state_initializers(model, graph)
        return model

    def recognise(self, model: Any) -> Origin | None:
        """See :class:`densespec.backends.RecognisingBackend`."""
        keras = sys.modules.get("keras")
        if keras is None or not isinstance(model, keras.Model):
            return None
        if keras.config.backend() != self.engine:
            return None
        from densespec_keras.states import recognised

        return recognised(model)

    def graph_of(self, model: Any, graph: Graph) -> Graph:
        """See :class:`densespec.backends.InspectableBackend`."""
        from densespec_keras.inspecting import graph_of

        return graph_of(model, graph)

    def rebuild(
        self, source: Any, origin: Origin, weights: Mapping[str, np.ndarray], *, trainable: bool
    ) -> Any:
        """See :class:`densespec.backends.InspectableBackend`."""
        keras_on(self.engine)
        from densespec_keras import keeping

        with keeping.on_device_of(source):
            model = self._model(
                origin.graph,
                weights,
                dtype=keeping.policy_of(source),
                data_format=origin.data_format,
                name=origin.name,
                policies=keeping.policies_of(source, origin.graph),
            )
        keeping.keep_state(model, source, origin.graph, trainable=trainable)
        return model

    def read_weights(self, model: Any, graph: Graph) -> Arrays:
        from densespec_keras import variables

        return variables.read(model, graph)

    def write_weights(self, model: Any, graph: Graph, weights: Mapping[str, np.ndarray]) -> None:
        from densespec_keras import variables

        variables.write(model, graph, weights)

    def count_parameters(self, model: Any) -> tuple[int, int]:
        groups = (model.trainable_weights, model.non_trainable_weights)
        trainable, non_trainable = (sum(math.prod(v.shape) for v in group) for group in groups)
        return trainable, non_trainable

    def shapes(
        self, model: Any, graph: Graph, names: Sequence[str]
    ) -> dict[str, tuple[int | None, ...]]:
        """See :class:`densespec.backends.ShapingBackend`."""
        from densespec_keras.running import shapes

        return shapes(model, names)

    def forward(self, model: Any, graph: Graph, x: np.ndarray, taps: Sequence[str]) -> Arrays:
        from densespec_keras.running import forward

        return forward(model, graph, x, taps)

    def trainer(self, model: Any, graph: Graph, recipe: TrainingRecipe) -> KerasTrainer:
        from densespec_keras.training import KerasTrainer

        self._require_trainable()
        return KerasTrainer(model, graph, recipe)

    def parallel_trainer(
        self,
        graph: Graph,
        weights: Mapping[str, np.ndarray],
        recipe: TrainingRecipe,
        *,
        replicas: int,
        dtype: str | None,
    ) -> Trainer:
        """See :class:`densespec.backends.ParallelBackend`.

        Raises:
            ValueError: the engine has no such trainer, or there are fewer devices.
        """
        self._require_trainable()
        data_format = self.data_format(None)
        from densespec_keras.parallel import PARALLEL

        if self.engine not in PARALLEL:
            raise ValueError(
                f"Keras trains on one device with {self.engine}: on several, backend='torch.nn' "
                "trains the same network with PyTorch's DistributedDataParallel"
            )
        build = functools.partial(
            self._model, graph, weights, dtype=dtype, data_format=data_format, name="densenet"
        )
        trainer: Trainer = PARALLEL[self.engine](build, graph, recipe, replicas)
        return trainer

    def _require_trainable(self) -> None:
        if self.mode == "inference":
            raise Untrainable(with_mode(self.engine, self.mode))


def _needs_channels_last(engine: str) -> bool:
    """Say whether convolutions need channels_last: TensorFlow's do, except on GPUs.

    See keras issues 20414 and 23650.
    """
    if engine != "tensorflow":
        return False
    import tensorflow as tf

    return not tf.config.list_physical_devices("GPU")


def _prepare_float64(engine: str) -> None:
    """Make an engine compute float64 where it is asked for float64.

    Raises:
        ValueError: JAX is set to compute in float32.
    """
    if engine == "jax":
        import jax

        if not jax.config.read("jax_enable_x64"):  # type: ignore[no-untyped-call]
            raise ValueError(
                "dtype = 'float64', but JAX computes in float32 unless told otherwise: set "
                "JAX_ENABLE_X64=1, or call jax.config.update('jax_enable_x64', True) first"
            )
    from densespec_keras.float64 import keep_float64

    keep_float64()


TENSORFLOW = KerasBackend("tensorflow")
TORCH = KerasBackend("torch")
JAX = KerasBackend("jax")
