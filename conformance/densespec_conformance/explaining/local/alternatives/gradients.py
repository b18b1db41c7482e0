"""Lists what an op may give back instead of its gradients, with where each is found."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from densespec.network import ops
from densespec.reference.kernels import Array, Context, Gradients, Kernel, offsets_of
from densespec_conformance.deviations.kernels import KERNELS, Norm

Slopes = Callable[..., list[Array]]
"""Computes the gradients of an op's inputs, from its output's gradient and what the op sees."""


@dataclass(frozen=True)
class Back:
    """Represents an op whose inputs get other gradients; its own arrays get their own."""

    kernel: Kernel
    slopes: Slopes

    def forward(self, op: Any, ctx: Context, *inputs: Array) -> Array:
        return self.kernel.forward(op, ctx, *inputs)

    def backward(self, op: Any, ctx: Context, dy: Array, *inputs: Array) -> Gradients:
        own, gradients = self.kernel.backward(op, ctx, dy, *inputs)
        return self.slopes(own, op, ctx, dy, *inputs), gradients


@dataclass(frozen=True)
class Backward:
    """Describes something that an op may do instead with the gradients of its inputs.

    Attributes:
        slopes: The function of the reference's own gradients, and of what they are computed from.
            If ``does`` has a number to solve, that number is its first argument.
    """

    does: str
    source: str
    slopes: Slopes

    @property
    def unknown(self) -> bool:
        """Say whether it has a number, on which its gradients depend linearly."""
        return "{}" in self.does


def _without_batch(own: Any, op: ops.BatchNorm, ctx: Context, dy: Array, x: Array) -> list[Array]:
    return Norm(constant=True).backward(op, ctx, dy, x)[0]


def _constant_variance(
    own: Any, op: ops.BatchNorm, ctx: Context, dy: Array, x: Array
) -> list[Array]:
    (dx,) = _without_batch(own, op, ctx, dy, x)
    return [dx - dx.mean((0, *range(2, x.ndim)), keepdims=True)]


def _constant_mean(own: Any, op: ops.BatchNorm, ctx: Context, dy: Array, x: Array) -> list[Array]:
    (dx,) = _without_batch(own, op, ctx, dy, x)
    return [own[0] + dx.mean((0, *range(2, x.ndim)), keepdims=True)]


def _leaking(slope: float, own: Any, op: Any, ctx: Context, dy: Array, x: Array) -> list[Array]:
    return [np.where(x > 0, dy, slope * dy)]


def _guided(own: Any, op: Any, ctx: Context, dy: Array, x: Array) -> list[Array]:
    return [np.maximum(own[0], 0)]


def _evenly(own: Any, op: ops.MaxPool, ctx: Context, dy: Array, x: Array) -> list[Array]:
    """Share the gradient of a window among all that is in it."""
    pads = ops.resolve_padding(op.padding, x.shape[2:], op.window, op.stride)
    dx = np.zeros_like(np.pad(x, ((0, 0), (0, 0), *pads)))
    for _, reach in offsets_of(op.window, dy.shape[2:], op.stride):
        dx[reach] += dy / np.prod(op.window)
    inner: Any = [slice(p[0], p[0] + n) for p, n in zip(pads, x.shape[2:], strict=True)]
    return [dx[(..., *inner)]]


def _flipped(own: Any, op: ops.Conv, ctx: Context, dy: Array, x: Array) -> list[Array]:
    kernel = ctx.weights["kernel"]
    turned = np.flip(kernel, tuple(range(2, kernel.ndim)))
    there = replace(ctx, weights={**ctx.weights, "kernel": turned})
    return KERNELS[ops.Conv].backward(op, there, dy, x)[0]


def _unmasked(own: Any, op: ops.Dropout, ctx: Context, dy: Array, x: Array) -> list[Array]:
    return [dy]


def _none_to(index: int) -> Slopes:
    def slopes(own: list[Array], *seen: Any) -> list[Array]:
        return [np.zeros_like(g) if i == index else g for i, g in enumerate(own)]

    return slopes


def _scaled(factor: float, own: list[Array], *seen: Any) -> list[Array]:
    return [factor * g for g in own]


def _nothing(own: list[Array], *seen: Any) -> list[Array]:
    return [np.zeros_like(g) for g in own]


DETACHED = "detach(), stop_gradient()"

ANY = (
    Backward("no gradient flows through it", DETACHED, _nothing),
    Backward("its inputs' gradient is multiplied by {}", "a hand-written backward", _scaled),
)

BACKWARD: Mapping[type, tuple[Backward, ...]] = {
    ops.BatchNorm: (
        Backward("no gradient flows through its mean and variance", DETACHED, _without_batch),
        Backward("no gradient flows through its variance", DETACHED, _constant_variance),
        Backward("no gradient flows through its mean", DETACHED, _constant_mean),
    ),
    ops.Relu: (
        Backward(
            "its gradient has a slope of {} below zero", "straight-through estimators", _leaking
        ),
        Backward("only what is positive flows back", "guided backpropagation", _guided),
    ),
    ops.MaxPool: (
        Backward("all of a window share its gradient", "the gradient of an average pool", _evenly),
    ),
    ops.Conv: (
        Backward(
            "its kernel is flipped on the way back", "convolve where correlate is meant", _flipped
        ),
    ),
    ops.Dropout: (
        Backward("its mask is forgotten on the way back", "a mask that is not kept", _unmasked),
    ),
    ops.Concat: (
        Backward("no gradient flows to what was there before", DETACHED, _none_to(0)),
        Backward("no gradient flows to what is new", DETACHED, _none_to(1)),
    ),
}
"""Lists what an op may do with the gradients of its inputs."""


def backward_of(kind: type) -> tuple[Backward, ...]:
    """Return what an op of a kind may do with the gradients of its inputs."""
    return (*BACKWARD.get(kind, ()), *ANY)


@dataclass(frozen=True)
class OwnGradient:
    """Describes what the gradient of a weight may be instead.

    Attributes:
        gradient: The function of the gradient, the weight, its earlier gradient and a number.
        is_decay: Whether the number is the weight decay that the gradient contains.
        scales: Whether it is a multiple. What comes back to the op might be a multiple as well.
    """

    does: str
    source: str
    gradient: Callable[[Array, Array, Array | float, float], Array]
    is_decay: bool = False
    scales: bool = False

    @property
    def unknown(self) -> bool:
        """Say whether it has a number, on which it depends linearly."""
        return "{}" in self.does


def _turned(g: Array, w: Array, earlier: Array | float, number: float) -> Array:
    return np.flip(g, tuple(range(2, g.ndim)))


CLIPPERS: Mapping[float, str] = {
    0.0: "Keras's global_clipnorm, optax.clip_by_global_norm",
    1e-6: "PyTorch's clip_grad_norm_, which divides by the norm plus 1e-6",
}
"""Says where all gradients are clipped to a norm, by the number that is added to that norm."""

GRADIENTS = (
    OwnGradient(
        "it is not trained",
        "affine=False, scale=False, trainable=False, a filter on names",
        lambda g, w, earlier, number: np.zeros_like(g),
        scales=True,
    ),
    OwnGradient(
        "the gradients of earlier steps are added up",
        "a forgotten optimizer.zero_grad()",
        lambda g, w, earlier, number: g + earlier,
    ),
    OwnGradient(
        "each value of its gradient is clipped to [-1, 1]",
        "clip_grad_value_, clipvalue",
        lambda g, w, earlier, number: np.clip(g, -1, 1),
    ),
    OwnGradient("its gradient is flipped", "a kernel flipped twice", _turned),
    OwnGradient(
        "its gradient, as it is shown, contains weight decay of {}",
        "decay added in place, old torch.optim",
        lambda g, w, earlier, number: g + number * w,
        is_decay=True,
    ),
    OwnGradient(
        "its gradient is multiplied by {}",
        "a hook on a gradient",
        lambda g, w, earlier, number: number * g,
        scales=True,
    ),
)
"""Lists what the gradient of a weight may be instead, the simplest first."""
