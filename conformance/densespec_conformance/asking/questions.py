"""Makes seeded inputs, weights and questions. No value is an initial one, so errors can't hide."""

from __future__ import annotations

import zlib

import numpy as np

from densespec.network.arrays import Arrays
from densespec.network.graph import Graph, lower
from densespec.network.initial import initial_weights
from densespec.network.ops import Shape
from densespec.network.spec import DenseNetSpec
from densespec.recipes.recipe import TrainingRecipe
from densespec_conformance.asking.requests import Batch, Forward, NetworkToBuild, Train


def stream(label: str) -> np.random.Generator:
    """Return the random stream of a label."""
    return np.random.default_rng(zlib.crc32(label.encode()))


def random_weights(graph: Graph, label: str) -> Arrays:
    """Draw weights as after some training: norms, biases and statistics are away from 0 and 1."""
    arrays = initial_weights(graph, zlib.crc32(label.encode()))
    for weight in graph.weights:
        draw, name = stream(f"{label} {weight.name}"), weight.name
        match weight.initial:
            case "ones":
                arrays[name] = draw.uniform(0.5, 1.5, weight.shape)
            case "zeros":
                arrays[name] = 0.3 * draw.standard_normal(weight.shape)
            case _:
                arrays[name] = arrays[name].astype(np.float64)
    return arrays


def with_variances(arrays: Arrays, factor: float) -> Arrays:
    """Multiply running variances by a factor, and have gammas make up for it."""
    factors = {"running_variance": factor, "gamma": factor**0.5}
    return {
        name: array * factors.get(name.rpartition(".")[2], 1.0) for name, array in arrays.items()
    }


def with_signs(arrays: Arrays) -> Arrays:
    """Give gammas either sign, and make every fifth 0: then norms turn values over, or give the
    same for all."""
    signs = np.array([1.0, -1.0, 1.0, -1.0, 0.0])
    return {
        name: array * np.resize(signs, array.shape) if name.endswith(".gamma") else array
        for name, array in arrays.items()
    }


def images(spec: DenseNetSpec, size: tuple[int, ...], batch: int, label: str) -> np.ndarray:
    """Draw normal numbers of shape (batch, channels, *size)."""
    return stream(f"{label} images").standard_normal((batch, spec.in_channels, *size))


def batches(
    graph: Graph, recipe: TrainingRecipe, *, steps: int, batch: int, label: str
) -> tuple[Batch, ...]:
    """Draw training batches, one an epoch of the recipe, with its learning rates and dropout
    masks."""
    draw = stream(f"{label} batches")
    return tuple(
        Batch(
            x=draw.standard_normal((batch, *_known(graph.input.shape))),
            labels=_labels(draw, recipe, batch, graph.spec.classes),
            learning_rate=recipe.learning_rate_at(step),
            masks={
                node.name: (draw.random((batch, *_known(node.shape))) >= node.drop_rate).astype(
                    float
                )
                for node in graph.dropouts
            },
        )
        for step in range(steps)
    )


def _labels(
    draw: np.random.Generator, recipe: TrainingRecipe, batch: int, classes: int
) -> np.ndarray:
    """Draw labels such as the recipe's loss takes; some of several are not known."""
    if recipe.has_shares:
        shares = draw.random((batch, classes)) ** 4
        return shares / shares.sum(1, keepdims=True)
    if recipe.loss == "softmax":
        return draw.integers(0, classes, batch)
    numbers = draw.standard_normal((batch, classes))
    if recipe.loss == "sigmoid":
        numbers = np.where(numbers > 1, -1.0, numbers > 0)
    return np.where(draw.random((batch, classes)) < 0.1, np.nan, numbers)


def _known(shape: Shape) -> tuple[int, ...]:
    return tuple(size for size in shape if size is not None)


SIDES = ((64, 32), (64, 32), (32, 16))
"""Inputs with these sides are quick to compute, for networks that shrink early and for others.

They are given for 1 to 3 dimensions. The last block still has more than one position.
"""


def natural_size(spec: DenseNetSpec) -> tuple[int, ...]:
    """Return a size of inputs that the network accepts, and that is quick to compute."""
    shrinking, others = SIDES[spec.spatial_dims - 1]
    return ((shrinking if spec.shrinks_early else others),) * spec.spatial_dims


SAMPLES, STEPS = 2, 2
"""Questions for any network have this many samples in a batch and steps of training."""


def forward_request(spec: DenseNetSpec, size: tuple[int, ...]) -> Forward:
    """Ask for the value of every op of any network, in float64."""
    graph = lower(spec, size)
    network = NetworkToBuild(spec, input_size=size, weights=random_weights(graph, "network"))
    taps = tuple(node.name for node in graph.nodes[1:])
    return Forward(network, images(spec, size, SAMPLES, "network"), taps)


def training_request(spec: DenseNetSpec, size: tuple[int, ...]) -> Train:
    """Ask for float64 training steps of any network; the learning rate drops after the first."""
    recipe = TrainingRecipe(epochs=STEPS, milestones=(1 / STEPS,), learning_rate=0.05)
    graph = lower(spec, size)
    network = NetworkToBuild(spec, input_size=size, weights=random_weights(graph, "network"))
    given = batches(graph, recipe, steps=STEPS, batch=SAMPLES, label="network")
    return Train(network, recipe, given)
