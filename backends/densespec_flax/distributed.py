"""Training on several processes, each of which has one device and holds the whole network."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from densespec.network.graph import Graph
from densespec.recipes.recipe import TrainingRecipe
from densespec_flax.launching import Place
from densespec_flax.modules import DenseNet
from densespec_flax.parts import AXIS, Batch
from densespec_flax.training import FlaxTrainer


@dataclass(frozen=True)
class World:
    """This process among all: a :class:`densespec.backends.ProcessGroup`.

    Attributes:
        rank: Its number, from 0.
        size: How many there are.
    """

    rank: int
    size: int

    def part(self, count: int) -> slice:
        """Say which samples of a batch are this process's: consecutive ones, the first processes'
        parts larger by one where they do not divide."""
        share, left = divmod(count, self.size)
        start = self.rank * share + min(self.rank, left)
        return slice(start, start + share + (self.rank < left))

    def any(self, wish: bool) -> bool:
        return bool(_gathered(np.array(wish)).any())

    def place(self, model: Any) -> Any:
        return model


def join() -> World:
    """Join the processes that the launcher started; without one, this process is alone.

    On CPUs they speak by Gloo. May be called again.
    """
    place = Place.of_this_process()
    if place is not None and not jax.distributed.is_initialized():
        jax.config.update("jax_cpu_collectives_implementation", "gloo")  # type: ignore[no-untyped-call]
        jax.distributed.initialize(
            place.coordinator, place.size, place.rank, local_device_ids=[place.local]
        )
    return world()


def world() -> World:
    """Say who this process is among those that it has joined."""
    if not jax.distributed.is_initialized():
        return World(0, 1)
    return World(jax.process_index(), jax.process_count())


def leave() -> NoReturn:
    """End this process, which the launcher started, when all are done."""
    multihost_utils.sync_global_devices("the end")
    jax.distributed.shutdown()  # type: ignore[no-untyped-call]
    sys.exit(0)


class DistributedFlaxTrainer(FlaxTrainer):
    """Training steps of a process that has joined others, each with its part of the batch.

    Arrays of the network and of the optimizer are this process's own between steps. A step takes
    them as arrays of all devices, which all hold the same, and gives the result of the whole batch.

    Raises:
        ValueError: The network gives no logits.
    """

    def __init__(self, model: DenseNet, graph: Graph, recipe: TrainingRecipe) -> None:
        firsts = {device.process_index: device for device in reversed(jax.devices())}
        self._device = firsts[jax.process_index()]
        mesh = Mesh(np.array([firsts[index] for index in sorted(firsts)]), (AXIS,))
        self._split, self._whole = (
            NamedSharding(mesh, PartitionSpec(*axes))  # type: ignore[no-untyped-call]
            for axes in ((AXIS,), ())
        )
        if recipe.batch_norm == "per-replica":
            self._mesh = mesh
        super().__init__(model, graph, recipe)

    def shard(self, count: int) -> slice:
        """Say which samples of a batch are this process's."""
        return world().part(count)

    def _network(self) -> tuple[Any, ...]:
        return tuple(jax.tree.map(self._everywhere, super()._network()))

    def _placed(self, batch: Batch) -> Batch:
        counts = _gathered(np.array(len(batch.labels)))
        if len(set(counts)) == 1:
            return Batch(*jax.tree.map(self._joined, batch))
        whole = jax.tree.map(lambda part: _concatenated(np.asarray(part), counts), batch)
        return Batch(*jax.tree.map(self._everywhere, whole))

    def _taken_from(self, found: Any) -> Any:
        return jax.tree.map(lambda array: array.addressable_data(0), found)

    def _joined(self, part: Any) -> Any:
        own = np.asarray(part)
        return jax.make_array_from_process_local_data(self._split, own)  # type: ignore[no-untyped-call]

    def _everywhere(self, array: Any) -> Any:
        own = [jax.device_put(jnp.asarray(array), self._device)]
        return jax.make_array_from_single_device_arrays(own[0].shape, self._whole, own)


def _gathered(array: np.ndarray) -> np.ndarray:
    """Return the arrays of all processes, one behind the other along a new axis."""
    gathered: Any = multihost_utils.process_allgather(array[None], tiled=True)
    return np.asarray(gathered)


def _concatenated(part: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return the parts of all processes as one array, however many samples each has."""
    room = [(0, max(counts) - len(part)), *[(0, 0)] * (part.ndim - 1)]
    parts = _gathered(np.pad(part, room))
    return np.concatenate([one[:count] for one, count in zip(parts, counts, strict=True)])
