"""Holds what the planned modes compute with: a module for each engine, with the same functions.

``load(engine)`` returns the module. Every array in it is (batch, *spatial, channels), and kernels
are (*window, in, out), as Keras's channels_last layers have them:

- ``norm(x, norm, relu)``: a batch norm, and the ReLU behind it if there is one
- ``relu(x)``, which keeps NaN; a ReLU within a block need not, whose input passes it by
- ``conv(x, kernel, bias, op)``, ``max_pool(x, op)``, ``avg_pool(x, op)``
- ``block(x, layers, recompute)``: dense layers one after another, each of which puts its features
  behind those it reads; with ``recompute`` the backward pass computes activations again
- ``whole(graph, layers)``: what computes a network of layers, by name, as a whole in inference;
  None where nothing does it better than its steps

``x`` is :class:`FeatureMaps`, except for ``conv`` and the pools, which take an array.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from densespec.network import ops


class FeatureMaps(NamedTuple):
    """Holds feature maps, and the mean and biased variance of each channel if they are known."""

    x: Any
    mean: Any = None
    variance: Any = None


@dataclass(frozen=True)
class NormOperands:
    """Holds what a batch norm computes with, in a step of training or in inference.

    Attributes:
        mean, variance: The running statistics.
        batch: Whether it normalises with the statistics of the batch.
        record: The function that takes their mean, biased variance and number of values in that
            case.
    """

    gamma: Any
    beta: Any
    mean: Any
    variance: Any
    epsilon: float
    batch: bool
    record: Callable[[Any, Any, Any], None] = field(compare=False)


@dataclass(frozen=True)
class UnitOperands:
    """Holds what a unit of a dense layer computes with: a norm, a ReLU, and a convolution.

    The convolution keeps the size.

    Attributes:
        relu: Whether there is a ReLU.
        bias: The convolution's bias; None if there is none.
        scale: The dropout behind the convolution, as a factor; None if nothing is dropped.
        folded: Whether the norm becomes part of the convolution of the unit before.
    """

    norm: NormOperands
    relu: bool
    kernel: Any
    bias: Any
    op: ops.Conv
    scale: Any
    folded: bool


class WholeNetwork(Protocol):
    """Computes a whole network at a time in inference."""

    def __call__(self, x: Any, names: Sequence[str] | None) -> Any:
        """Compute values, channels last.

        Args:
            names: The nodes whose values are wanted by name, as far as it computes them; None for
                what the network gives: a value, or a tuple of its outputs.

        Returns:
            None if the steps of the network have to compute what is wanted.
        """
        ...


BlockOperands = Sequence[Sequence[UnitOperands]]


def load(engine: str) -> Any:
    """Return the functions of an engine, which is imported with them."""
    return importlib.import_module(f"{__name__}.{engine}")
