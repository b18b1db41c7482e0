"""The ``flax.nnx`` backend."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from densespec.backends import DataFormat
from densespec.network.arrays import Arrays
from densespec.network.graph import Graph
from densespec.recipes.recipe import TrainingRecipe
from densespec_flax import arrays
from densespec_flax.layers import Precision
from densespec_flax.modules import DenseNet
from densespec_flax.running import forward
from densespec_flax.training import FlaxTrainer


@dataclass(frozen=True)
class FlaxBackend:
    """Networks as ``flax.nnx`` modules."""

    def data_format(self, requested: DataFormat | None) -> DataFormat:
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
    ) -> DenseNet:
        return DenseNet(
            graph,
            weights,
            precision=_precision(dtype or "float32"),
            data_format=data_format,
            rngs=nnx.Rngs(0),
        )

    def read_weights(self, model: nnx.Module, graph: Graph) -> Arrays:
        return arrays.read(model, graph)

    def write_weights(
        self, model: nnx.Module, graph: Graph, weights: Mapping[str, np.ndarray]
    ) -> None:
        arrays.write(model, graph, weights)

    def count_parameters(self, model: nnx.Module) -> tuple[int, int]:
        return arrays.count(model)

    def forward(
        self, model: DenseNet, graph: Graph, x: np.ndarray, taps: Sequence[str]
    ) -> Arrays:
        return forward(model, x, taps)

    def trainer(self, model: DenseNet, graph: Graph, recipe: TrainingRecipe) -> FlaxTrainer:
        return FlaxTrainer(model, graph, recipe)


def _precision(dtype: str) -> Precision:
    """The types that a name stands for: mixed ones keep arrays in float32.

    Raises:
        ValueError: There is no such type, or JAX is set to compute in float32.
    """
    mixed, narrow = dtype.startswith("mixed_"), dtype.removeprefix("mixed_")
    kind = getattr(jnp, narrow, None)
    if narrow not in _KINDS or kind is None:
        raise ValueError(
            f"dtype = {dtype!r}, but should be one of: {', '.join(_KINDS)}, or one of 16 bits "
            "behind 'mixed_'"
        )
    if narrow == "float64" and not jax.config.read("jax_enable_x64"):  # type: ignore[no-untyped-call]
        raise ValueError(
            "dtype = 'float64', but JAX computes in float32 unless told otherwise: set "
            "JAX_ENABLE_X64=1, or call jax.config.update('jax_enable_x64', True) first"
        )
    return Precision(jnp.dtype(kind), jnp.dtype(jnp.float32 if mixed else kind))


_KINDS = ("float16", "bfloat16", "float32", "float64")

BACKEND = FlaxBackend()
