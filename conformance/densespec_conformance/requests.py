"""What a target can be asked, and what it answers: plain data that crosses to the worker and back.

All arrays are canonical: numpy, channels first, by canonical name and shape.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from densespec.recipe import TrainingRecipe
from densespec.spec import DenseNetSpec
from densespec.weights import Arrays

Arrayed = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Network:
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
class Inspect:
    """What does the framework itself say of the network? Stages are probed with one sample."""

    network: Network
    sample_size: tuple[int, ...]


@dataclass(frozen=True)
class Inspected:
    """Trainable and other parameters as the framework counts them, and shapes by node."""

    trainable: int
    non_trainable: int
    shapes: Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Forward:
    """What do these nodes compute in inference mode?"""

    network: Network
    x: np.ndarray
    taps: tuple[str, ...]


@dataclass(frozen=True)
class ReadWeights:
    """Which arrays does the network hold once it is built?"""

    network: Network


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
    """What does each of these training steps do?"""

    network: Network
    recipe: TrainingRecipe
    batches: tuple[Batch, ...]


@dataclass(frozen=True)
class Step:
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


Request = Inspect | Forward | ReadWeights | Train
Answer = Inspected | Arrays | list[Step]
