"""Trains on several devices: one program, whose batch is split among them."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from densespec.network.graph import Graph
from densespec.recipes.recipe import TrainingRecipe
from densespec_flax.modules import DenseNet
from densespec_flax.parts import AXIS, Batch
from densespec_flax.training import FlaxTrainer
from densespec_jax.devices import devices


class ParallelFlaxTrainer(FlaxTrainer):
    """Takes training steps on several devices, which all hold the whole network.

    With synchronised norms every op sees the whole batch, and JAX splits the work. With norms of
    each device, each computes its part by itself, and loss, gradients and statistics are joined.

    Raises:
        ValueError: There are fewer devices, or the network gives no logits.
    """

    def __init__(
        self, model: DenseNet, graph: Graph, recipe: TrainingRecipe, replicas: int
    ) -> None:
        self._replicas = replicas
        mesh = Mesh(np.array(devices(replicas)), (AXIS,))
        self._split, self._whole = (
            NamedSharding(mesh, PartitionSpec(*axes))  # type: ignore[no-untyped-call]
            for axes in ((AXIS,), ())
        )
        if recipe.batch_norm == "per-replica":
            self._mesh = mesh
        super().__init__(model, graph, recipe)

    def _network(self) -> tuple[Any, ...]:
        return tuple(jax.device_put(super()._network(), self._whole))

    def _placed(self, batch: Batch) -> Batch:
        count = len(batch.labels)
        if count < self._replicas:
            raise ValueError(f"{count} samples can't be split among {self._replicas} devices")
        even = count % self._replicas == 0
        return Batch(*jax.device_put(batch, self._split if even else self._whole))
