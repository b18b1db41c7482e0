"""Defines the ``flax.nnx`` backend."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

import numpy as np

from densespec.backends import (
    LAYERS,
    ComputingDevice,
    DataFormat,
    Origin,
    ProcessGroup,
    with_mode,
)
from densespec.errors import Untrainable
from densespec.network.arrays import Arrays
from densespec.network.graph import Graph
from densespec.recipes.recipe import TrainingRecipe
from densespec_flax import launching

if TYPE_CHECKING:
    from densespec_flax.training import FlaxTrainer


@dataclass(frozen=True)
class FlaxBackend:
    """Builds networks as ``flax.nnx`` modules, in one mode. It imports JAX on first use."""

    mode: str = LAYERS

    modes: ClassVar[tuple[str, ...]] = (LAYERS, "fast", "efficient", "inference")

    def in_mode(self, mode: str) -> FlaxBackend:
        """See :class:`densespec.backends.ModalBackend`."""
        return FlaxBackend(mode)

    def configure(self, recipe: TrainingRecipe) -> None:
        """See :class:`densespec.backends.ConfigurableBackend`."""
        if recipe.dtype == "float64" and "jax" not in sys.modules:
            os.environ.setdefault("JAX_ENABLE_X64", "1")

    def data_format(self, requested: DataFormat | None) -> DataFormat:
        import flax.nnx  # noqa: F401 (versions and devices can be asked for from here on)

        if requested not in (None, "channels_first", "channels_last"):
            raise ValueError(
                f"data_format = {requested!r}, but should be 'channels_first' or 'channels_last'"
            )
        return requested or "channels_last"

    def build(
        self,
        graph: Graph,
        weights: Mapping[str, np.ndarray],
        *,
        dtype: str | None,
        data_format: DataFormat,
        name: str,
    ) -> Any:
        from flax import nnx

        from densespec_flax.modes import MODELS
        from densespec_flax.precision import precision_of

        precision = precision_of(dtype or "float32")
        return MODELS[self.mode](
            graph, weights, precision=precision, data_format=data_format, rngs=nnx.Rngs(0)
        )

    def graph_of(self, model: Any, graph: Graph) -> Graph:
        """See :class:`densespec.backends.InspectableBackend`."""
        from densespec_flax.inspecting import graph_of
        from densespec_flax.modes import MODELS

        return graph_of(model, graph, MODELS[self.mode])

    def rebuild(
        self, source: Any, origin: Origin, weights: Mapping[str, np.ndarray], *, trainable: bool
    ) -> Any:
        """See :class:`densespec.backends.InspectableBackend`."""
        from densespec_flax.keeping import keep_state

        model = self.build(
            origin.graph,
            weights,
            dtype=origin.dtype,
            data_format=source.data_format,
            name=origin.name,
        )
        keep_state(model, source, origin.graph, trainable=trainable)
        return model

    def read_weights(self, model: Any, graph: Graph) -> Arrays:
        from densespec_flax import arrays

        return arrays.read(model, graph)

    def write_weights(self, model: Any, graph: Graph, weights: Mapping[str, np.ndarray]) -> None:
        from densespec_flax import arrays

        arrays.write(model, graph, weights)

    def count_parameters(self, model: Any) -> tuple[int, int]:
        from densespec_flax import arrays

        return arrays.count(model)

    def shapes(
        self, model: Any, graph: Graph, names: Sequence[str]
    ) -> Mapping[str, tuple[int | None, ...]]:
        """See :class:`densespec.backends.ShapingBackend`."""
        from densespec_flax.running import shapes

        sizes = [size for size in graph.input.shape if size is not None]
        return shapes(model, sizes, names)

    def forward(self, model: Any, graph: Graph, x: np.ndarray, taps: Sequence[str]) -> Arrays:
        from densespec_flax.running import forward

        return forward(model, x, taps)

    def trainer(self, model: Any, graph: Graph, recipe: TrainingRecipe) -> FlaxTrainer:
        from densespec_flax.distributed import DistributedFlaxTrainer, world
        from densespec_flax.training import FlaxTrainer

        self._require_trainable()
        kind = FlaxTrainer if world().size == 1 else DistributedFlaxTrainer
        return kind(model, graph, recipe)

    def parallel_trainer(
        self,
        graph: Graph,
        weights: Mapping[str, np.ndarray],
        recipe: TrainingRecipe,
        *,
        replicas: int,
        dtype: str | None,
    ) -> FlaxTrainer:
        """See :class:`densespec.backends.ParallelBackend`."""
        from densespec_flax.parallel import ParallelFlaxTrainer
        from densespec_jax.devices import devices

        self._require_trainable()
        devices(replicas)  # before anything runs
        model = self.build(
            graph, weights, dtype=dtype, data_format="channels_last", name="densenet"
        )
        return ParallelFlaxTrainer(model, graph, recipe, replicas)

    def launcher(self, *, devices: int, nodes: int, endpoint: str | None) -> Sequence[str] | None:
        """See :class:`densespec.backends.LaunchableBackend`."""
        if nodes == 1:
            return None
        if endpoint is None:
            raise ValueError(
                f"{nodes} machines need the address of one of them, such as 'host:29400'"
            )
        return launching.command(devices, nodes, endpoint)

    def launched(self) -> tuple[int, int] | None:
        place = launching.Place.of_this_process()
        return None if place is None else (place.rank, place.size)

    def join(self) -> ProcessGroup:
        from densespec_flax.distributed import join

        return join()

    def leave(self) -> NoReturn:
        from densespec_flax.distributed import leave

        leave()

    def device(self) -> ComputingDevice:
        """See :class:`densespec.backends.TimeableBackend`."""
        from densespec_jax.devices import FirstDevice

        return FirstDevice()

    def place(self, model: Any) -> Any:
        return model

    def caller(self, model: Any, x: np.ndarray) -> Callable[[], object]:
        from densespec_flax.running import caller

        return caller(model, x)

    def _require_trainable(self) -> None:
        if self.mode == "inference":
            raise Untrainable(with_mode("flax.nnx", self.mode))


BACKEND = FlaxBackend()
