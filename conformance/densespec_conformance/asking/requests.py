"""What a target can be asked, and what it answers: plain data that crosses to the worker and back.

All arrays are canonical: numpy, channels first, by canonical name and shape.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from densespec.network.arrays import Arrays
from densespec.network.ops import Shape
from densespec.network.spec import DenseNetSpec
from densespec.recipes.recipe import TrainingRecipe

Arrayed = Mapping[str, np.ndarray]


class Unsupported(Exception):
    """A case's question is one that the target says it can't be asked; the message says why."""


@dataclass(frozen=True)
class NetworkToBuild:
    """A network to build.

    Attributes:
        input_size: spatial size it is built for; None for any size.
        weights: by canonical name; None for the initial weights of ``seed``.
        options: further arguments of ``densespec.build``, such as ``include_top``.
    """

    spec: DenseNetSpec
    input_size: tuple[int, ...] | None = None
    dtype: str = "float64"
    weights: Arrayed | None = None
    seed: int = 0
    options: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class About:
    """What does the target run on, and what is it? Only constructors have to build the network."""

    network: NetworkToBuild


@dataclass(frozen=True)
class Description:
    """A target as its own process sees it.

    Attributes:
        versions: of the frameworks that it imported, by package.
        device: that it computes on.
        threads: of its kernels; None where the framework does not say.
        tensor_float_32: whether float32 products may be rounded to TF32 where the device can.
        options: of ``densespec.build`` with which it is the network: ``include_top`` is false of a
            backbone, say.
        notes: how the target was understood, where that is not obvious.
    """

    versions: Mapping[str, str]
    device: str
    threads: int | None
    tensor_float_32: bool
    options: Mapping[str, object] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Inspect:
    """What does the framework itself say of the network?

    Where it does not tell shapes, stages are probed with one sample.
    """

    network: NetworkToBuild
    sample_size: tuple[int, ...]


@dataclass(frozen=True)
class Inspected:
    """Trainable and other parameters as the framework counts them, and shapes by node."""

    trainable: int
    non_trainable: int
    shapes: Mapping[str, Shape]


@dataclass(frozen=True)
class Forward:
    """What do these nodes compute in inference mode?"""

    network: NetworkToBuild
    x: np.ndarray
    taps: tuple[str, ...]


@dataclass(frozen=True)
class ReadWeights:
    """Which arrays does the network hold once it is built?"""

    network: NetworkToBuild


@dataclass(frozen=True)
class Batch:
    """One training step's input.

    Attributes:
        x: (batch, channels, *spatial).
        labels: (batch,) integers.
        masks: by dropout node: 1 keeps a value, 0 drops it.
    """

    x: np.ndarray
    labels: np.ndarray
    learning_rate: float
    masks: Arrayed


@dataclass(frozen=True)
class Train:
    """What does each of these training steps do?

    Attributes:
        velocity: momentum to go on from; None to start without any.
        replicas: devices among which each batch is split.
    """

    network: NetworkToBuild
    recipe: TrainingRecipe
    batches: tuple[Batch, ...]
    velocity: Arrayed | None = None
    replicas: int = 1


@dataclass(frozen=True)
class ReadVelocity:
    """Which momentum does a trainer hold that has taken no step yet?

    Attributes:
        velocity: the momentum that it is to take up; None to start without any.
    """

    network: NetworkToBuild
    recipe: TrainingRecipe
    velocity: Arrayed | None = None


@dataclass(frozen=True)
class StepTrace:
    """All there is to see of one training step.

    Attributes:
        loss: before the step.
        gradients: of the loss alone, by trainable weight.
        velocity: the optimizer's momentum after the step, by trainable weight.
        weights: after the step, running statistics included.
    """

    loss: float
    gradients: Arrays
    velocity: Arrays
    weights: Arrays


Request = About | Inspect | Forward | ReadWeights | ReadVelocity | Train
Answer = Description | Inspected | Arrays | list[StepTrace]
