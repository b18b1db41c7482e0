"""Seeded inputs and weights: nothing is at its initial value, so that nothing can hide."""

from __future__ import annotations

import zlib

import numpy as np

from densespec import ops
from densespec.graph import Graph, lower
from densespec.initial import initial_weights
from densespec.recipe import TrainingRecipe
from densespec.spec import DenseNetSpec
from densespec.weights import Arrays
from densespec_conformance.requests import Batch


def stream(label: str) -> np.random.Generator:
    """The random stream of a label."""
    return np.random.default_rng(zlib.crc32(label.encode()))


def random_weights(graph: Graph, label: str) -> Arrays:
    """Weights as after some training: norms, biases and statistics are all away from 0 and 1."""
    arrays = initial_weights(graph, zlib.crc32(label.encode()))
    for name, array in arrays.items():
        draw = stream(f"{label} {name}")
        match name.rpartition(".")[2]:
            case "gamma" | "running_variance":
                arrays[name] = draw.uniform(0.5, 1.5, array.shape)
            case "beta" | "bias" | "running_mean":
                arrays[name] = 0.3 * draw.standard_normal(array.shape)
            case _:
                arrays[name] = array.astype(np.float64)
    return arrays


def images(spec: DenseNetSpec, size: tuple[int, ...], batch: int, label: str) -> np.ndarray:
    """Normal numbers of shape (batch, channels, *size)."""
    return stream(f"{label} images").standard_normal((batch, spec.in_channels, *size))


def batches(
    spec: DenseNetSpec,
    size: tuple[int, ...],
    recipe: TrainingRecipe,
    *,
    steps: int,
    batch: int,
    label: str,
) -> tuple[Batch, ...]:
    """Training batches, one an epoch of the recipe, with its learning rates and dropout masks."""
    draw, graph = stream(f"{label} batches"), lower(spec, size)
    return tuple(
        Batch(
            x=draw.standard_normal((batch, spec.in_channels, *size)),
            labels=draw.integers(0, spec.classes, batch),
            learning_rate=recipe.learning_rate_at(step),
            masks={
                node.name: (draw.random((batch, *_known(node.shape))) >= node.op.rate).astype(float)
                for node in graph.nodes
                if isinstance(node.op, ops.Dropout)
            },
        )
        for step in range(steps)
    )


def _known(shape: ops.Shape) -> tuple[int, ...]:
    return tuple(size for size in shape if size is not None)
