"""Defines requests and answers: plain data that crosses to a target's process and back.

All arrays are canonical: numpy, channels first, by canonical name and shape.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from densespec.network.arrays import Arrays
from densespec.network.ops import Shape
from densespec.network.spec import DenseNetSpec
from densespec.recipes.moments import OptimizerMoments
from densespec.recipes.recipe import TrainingRecipe

Arrayed = Mapping[str, np.ndarray]


class Unsupported(Exception):
    """The target says that it can't be asked a case's question; the message says why."""


@dataclass(frozen=True)
class NetworkToBuild:
    """Describes a network to build.

    Attributes:
        input_size: The spatial size that it is built for; None stands for any size.
        weights: The arrays by canonical name; None stands for the initial weights of ``seed``.
        options: Further arguments of ``densespec.build``, such as ``include_top``.
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
    """Describes a target as its own process sees it.

    Attributes:
        versions: The versions of the frameworks that it imported, by package.
        device: The device that it computes on.
        threads: The number of threads of its kernels; None if the framework does not say.
        tensor_float_32: Whether float32 products may be rounded to TF32 where the device can.
        options: The options of ``densespec.build`` with which it is the network: ``include_top`` is
            false for a backbone, say.
        notes: Sentences that say how the target was understood, if that is not obvious.
        dtype: The one dtype that it computes in; None for any.
        input_size: The spatial size that it takes, in which None stands for any size; None if it is
            built for the size that is asked for.
    """

    versions: Mapping[str, str]
    device: str
    threads: int | None
    tensor_float_32: bool
    options: Mapping[str, object] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    dtype: str | None = None
    input_size: tuple[int | None, ...] | None = None


@dataclass(frozen=True)
class Inspect:
    """What does the framework itself say of the network?

    Where it does not tell shapes, stages are probed with one sample.
    """

    network: NetworkToBuild
    sample_size: tuple[int, ...]


@dataclass(frozen=True)
class Inspected:
    """Holds the framework's counts of trainable and other parameters, and shapes by node."""

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
    """Holds the input of one training step.

    Attributes:
        x: Images of shape (batch, channels, *spatial).
        labels: Integers of shape (batch,). If the recipe mixes images, they are shares of classes
            of shape (batch, classes), and with a loss of several labels, numbers of that shape.
        learning_rate: The learning rate of the step.
        masks: A mask for each dropout node, by name: 1 keeps a value, 0 drops it.
    """

    x: np.ndarray
    labels: np.ndarray
    learning_rate: float
    masks: Arrayed


@dataclass(frozen=True)
class Train:
    """What does each of these training steps do?

    Attributes:
        moments: The optimizer's moments to go on from; None starts without any.
        steps_before: The number of steps that the run had taken by then.
        replicas: The number of devices among which each batch is split.
    """

    network: NetworkToBuild
    recipe: TrainingRecipe
    batches: tuple[Batch, ...]
    moments: OptimizerMoments | None = None
    steps_before: int = 0
    replicas: int = 1


@dataclass(frozen=True)
class ReadMoments:
    """Which moments does a trainer hold that has taken no step yet?

    It answers by names such as ``velocity/stem.conv.kernel``.

    Attributes:
        moments: The moments that it is to take up; None starts without any.
    """

    network: NetworkToBuild
    recipe: TrainingRecipe
    moments: OptimizerMoments | None = None
    steps_before: int = 0


@dataclass(frozen=True)
class StepTrace:
    """Holds all that can be seen of one training step.

    Attributes:
        loss: The loss before the step.
        gradients: The gradients of the loss alone, by trainable weight.
        moments: The arrays that the optimizer keeps after the step, by moment and trainable weight.
        weights: All arrays after the step, including running statistics.
    """

    loss: float
    gradients: Arrays
    moments: OptimizerMoments
    weights: Arrays


Request = About | Inspect | Forward | ReadWeights | ReadMoments | Train
Answer = Description | Inspected | Arrays | list[StepTrace]
