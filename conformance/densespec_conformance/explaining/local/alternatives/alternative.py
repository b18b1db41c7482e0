"""Defines what an op may do instead of what the spec says, and what that is worked out from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from densespec.network import ops
from densespec.network.graph import Graph, Node
from densespec.reference.kernels import KERNELS, Array, Context

Forward = Callable[..., Array]
"""Computes the output from an op, its context and its inputs, as a kernel does."""


@dataclass(frozen=True)
class Alternative:
    """Describes something that an op may do instead.

    Attributes:
        does: The words for it, which follow the op's name and a colon.
        forward: The function that computes it.
        names_the_cause: Whether the cause is known, and not only how the output follows.
    """

    does: str
    forward: Forward
    names_the_cause: bool = True


@dataclass(frozen=True)
class Observation:
    """Holds an op that deviates, with what the target shows of it.

    Attributes:
        context: The op's own arrays, in float64.
        inputs: The inputs of the op; None if the target does not show them.
        output: The output of the op; None if the target does not show it.
        weights: Every array of the network, by canonical name.
        values: Everything that the target shows, by node.
    """

    graph: Graph
    node: Node
    context: Context
    inputs: tuple[Array, ...] | None
    output: Array | None
    weights: Mapping[str, Array]
    values: Mapping[str, Array]

    @property
    def op(self) -> Any:
        return self.node.op

    @property
    def pair(self) -> tuple[Array, Array] | None:
        """Return the only input and the output, where both are shown."""
        if self.inputs is None or self.output is None or len(self.inputs) != 1:
            return None
        return self.inputs[0], self.output


Find = Callable[[Observation], Iterator[Alternative]]


def own(op: Any, ctx: Context, *inputs: Array) -> Array:
    """Compute an op as the reference does."""
    return KERNELS[type(op)].forward(op, ctx, *inputs)


def of_value(function: Callable[[Array], Array]) -> Forward:
    """Compute a function of the only input in the place of an op."""
    return lambda op, ctx, x: function(x)


def sigmoid(x: Array) -> Array:
    """Compute 1 / (1 + exp(-x)) as the reference does."""
    return KERNELS[ops.Sigmoid].forward(ops.Sigmoid(), Context(""), x)


def with_arrays(**arrays: Array) -> Forward:
    """Compute an op with other arrays than its own."""

    def forward(op: Any, ctx: Context, *inputs: Array) -> Array:
        return own(op, replace(ctx, weights={**ctx.weights, **arrays}), *inputs)

    return forward


def by_channel(vector: Array, like: Array) -> Array:
    """Shape a vector so that it stands along the channels of an array."""
    return vector.reshape(1, -1, *[1] * (like.ndim - 2))
