"""What the planned modes compute with: a module for each engine, all with the same functions.

``load(engine)`` gives the module. Every array in it is (batch, *spatial, channels), and kernels are
(*window, in, out), as Keras's channels_last layers have them:

- ``norm(x, norm, relu)``: a batch norm, and the ReLU behind it if there is one
- ``conv(x, kernel, bias, op)``, ``max_pool(x, op)``, ``avg_pool(x, op)``
- ``block(x, layers, recompute)``: dense layers one after another, each of which puts its features
  behind those it reads; with ``recompute`` the backward pass computes activations again

``x`` is :class:`Features`, except for ``conv`` and the pools, which take an array.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from densespec.network import ops


class Features(NamedTuple):
    """A feature map, and its mean and biased variance of each channel where they are known."""

    x: Any
    mean: Any = None
    variance: Any = None


@dataclass(frozen=True)
class Norm:
    """A batch norm in one step or inference.

    Attributes:
        mean, variance: running ones.
        batch: whether it normalises with the statistics of the batch.
        record: is then given their mean, biased variance and number of values.
    """

    gamma: Any
    beta: Any
    mean: Any
    variance: Any
    epsilon: float
    batch: bool
    record: Callable[[Any, Any, Any], None] = field(compare=False)


@dataclass(frozen=True)
class Unit:
    """A norm, a ReLU, a convolution that keeps the size, and dropout as a factor, or None."""

    norm: Norm
    relu: bool
    kernel: Any
    bias: Any
    op: ops.Conv
    scale: Any


Layers = Sequence[Sequence[Unit]]


def load(engine: str) -> Any:
    """The functions of an engine, which is imported with them."""
    return importlib.import_module(f"{__name__}.{engine}")
