"""Initial weights of another kind are told by their spread: no two streams of numbers are alike."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from densespec.network.arrays import Arrays
from densespec.network.graph import Graph
from densespec.network.ops import Conv
from densespec_conformance.deviations.deviation import Deviation

Shape = tuple[int, ...]
Form = Literal["normal", "uniform", "truncated"]

ABSOLUTE_MEAN: dict[Form, float] = {"normal": 0.7979, "truncated": 0.8217, "uniform": 0.8660}
"""Gives the mean magnitude by the deviation, for each form; truncated at two deviations."""

SURE = 5.0
"""An estimate may be off by this many deviations: one in a million is further off."""


@dataclass(frozen=True)
class Scheme:
    """Says how convolution kernels are drawn.

    Attributes:
        deviation: The function that returns the deviation of a kernel's values, for its shape.
        form: The form of the distribution.
    """

    deviation: Callable[[Shape], float]
    form: Form

    def recognises(self, arrays: Arrays, graph: Graph) -> bool:
        """Tell whether every kernel has the scheme's spread, and all together have its form."""
        kernels = [arrays.get(f"{node.name}.kernel") for node in graph.nodes_of(Conv)]
        scaled = [k.astype(np.float64) / self.deviation(k.shape) for k in kernels if k is not None]
        if not scaled:
            return False
        off = (abs(k.std() - 1) * math.sqrt(2 * k.size) for k in scaled)
        together = np.concatenate([k.ravel() for k in scaled])
        mean = float(np.abs(together).mean())
        nearest = min(ABSOLUTE_MEAN, key=lambda form: abs(ABSOLUTE_MEAN[form] - mean))
        return max(off) < SURE and nearest == self.form


def _fan_in(shape: Shape) -> int:
    return math.prod(shape[1:])


def _fan_out(shape: Shape) -> int:
    return shape[0] * math.prod(shape[2:])


def _he_out(shape: Shape) -> float:
    return math.sqrt(2 / _fan_out(shape))


def _he(shape: Shape) -> float:
    return math.sqrt(2 / _fan_in(shape))


def _xavier(shape: Shape) -> float:
    return math.sqrt(2 / (_fan_in(shape) + _fan_out(shape)))


def _lecun(shape: Shape) -> float:
    return math.sqrt(1 / _fan_in(shape))


def _torch(shape: Shape) -> float:
    return math.sqrt(1 / (3 * _fan_in(shape)))


def _init(id_: str, phrase: str, source: str, scheme: Scheme) -> Deviation:
    return Deviation(id_, f"kernels are {phrase}", source, recognises=scheme.recognises)


DEVIATIONS = (
    _init(
        "init-other-seed",
        "drawn by the same rule from other numbers",
        "a seed or generator of the framework's own",
        Scheme(_he, "normal"),
    ),
    _init(
        "init-he-fan-out",
        "drawn by He's rule with fan-out",
        "the authors' CIFAR code, kaiming_normal_(mode='fan_out')",
        Scheme(_he_out, "normal"),
    ),
    _init(
        "init-he-truncated",
        "drawn by He's rule, truncated at two deviations",
        "Keras's he_normal",
        Scheme(_he, "truncated"),
    ),
    _init(
        "init-he-uniform",
        "uniform, with the variance of He's rule",
        "Keras's he_uniform",
        Scheme(_he, "uniform"),
    ),
    _init(
        "init-xavier-uniform",
        "uniform by Glorot's rule",
        "Keras's default",
        Scheme(_xavier, "uniform"),
    ),
    _init(
        "init-xavier-normal", "normal by Glorot's rule", "xavier_normal_", Scheme(_xavier, "normal")
    ),
    _init(
        "init-torch-default",
        "uniform in +-1/sqrt(fan-in)",
        "PyTorch's default",
        Scheme(_torch, "uniform"),
    ),
    _init(
        "init-lecun",
        "normal with variance 1 / fan-in, truncated",
        "Flax's default",
        Scheme(_lecun, "truncated"),
    ),
    _init(
        "init-small-normal",
        "normal with deviation 0.01",
        "Caffe's and TensorFlow's old examples",
        Scheme(lambda shape: 0.01, "normal"),
    ),
)
