"""Computes ops as other implementations do, to replace the reference's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from densespec.network import ops
from densespec.reference import kernels as reference
from densespec.reference.kernels import Array, Context, Gradients, Kernel


@dataclass(frozen=True, slots=True)
class Identity:
    """Represents an op that is left out."""

    def output(self, x: ops.Shape) -> ops.Shape:
        return x


@dataclass(frozen=True, slots=True)
class Reversed:
    """Reverses the channels."""

    def output(self, x: ops.Shape) -> ops.Shape:
        return x


@dataclass(frozen=True, slots=True)
class Turned:
    """Exchanges the first two spatial axes."""

    def output(self, x: ops.Shape) -> ops.Shape:
        return (x[0], x[2], x[1], *x[3:])


@dataclass(frozen=True, slots=True)
class PartialPool:
    """Averages over windows, the last of which may reach over the edge.

    Attributes:
        divisor: Whether such a window averages what is ``there``, or counts zeros for the rest.
    """

    window: tuple[int, ...]
    stride: int
    divisor: Literal["there", "window"]

    def output(self, x: ops.Shape) -> ops.Shape:
        return (x[0], *[None if size is None else -(-size // self.stride) for size in x[1:]])


@dataclass(frozen=True, slots=True)
class LateFirst:
    """Concatenates so that new feature maps come right after the first ones."""

    first: int

    def output(self, *xs: ops.Shape) -> ops.Shape:
        return ops.Concat().output(*xs)


class IdentityKernel:
    def forward(self, op: Identity, ctx: Context, x: Array) -> Array:
        return x

    def backward(self, op: Identity, ctx: Context, dy: Array, x: Array) -> Gradients:
        return [dy], {}


class ReversedKernel:
    def forward(self, op: Reversed, ctx: Context, x: Array) -> Array:
        return x[:, ::-1]

    def backward(self, op: Reversed, ctx: Context, dy: Array, x: Array) -> Gradients:
        return [dy[:, ::-1]], {}


class TurnedKernel:
    def forward(self, op: Turned, ctx: Context, x: Array) -> Array:
        return np.swapaxes(x, 2, 3)

    def backward(self, op: Turned, ctx: Context, dy: Array, x: Array) -> Gradients:
        return [np.swapaxes(dy, 2, 3)], {}


class PartialPoolKernel(reference.AvgPoolKernel):
    def forward(self, op: PartialPool, ctx: Context, x: Array) -> Array:  # type: ignore[override]
        inner, padded = self._pool(op), self._padded(op, x)
        y = super().forward(inner, ctx, padded)
        if op.divisor == "there":
            y = y / super().forward(inner, ctx, self._padded(op, np.ones_like(x)))
        return y

    def backward(  # type: ignore[override]
        self, op: PartialPool, ctx: Context, dy: Array, x: Array
    ) -> Gradients:
        inner, padded = self._pool(op), self._padded(op, x)
        if op.divisor == "there":
            dy = dy / super().forward(inner, ctx, self._padded(op, np.ones_like(x)))
        (dx,), _ = super().backward(inner, ctx, dy, padded)
        inner_places: Any = [slice(size) for size in x.shape[2:]]
        return [dx[(..., *inner_places)]], {}

    def _pool(self, op: PartialPool) -> ops.AvgPool:
        return ops.AvgPool(op.window, op.stride)

    def _padded(self, op: PartialPool, x: Array) -> Array:
        pads = [(0, -size % op.stride) for size in x.shape[2:]]
        return np.pad(x, ((0, 0), (0, 0), *pads))


class LateFirstKernel:
    def forward(self, op: LateFirst, ctx: Context, x: Array, new: Array) -> Array:
        return np.concatenate([x[:, : op.first], new, x[:, op.first :]], axis=1)

    def backward(self, op: LateFirst, ctx: Context, dy: Array, x: Array, new: Array) -> Gradients:
        cuts = [op.first, op.first + new.shape[1]]
        head, middle, tail = np.split(dy, cuts, axis=1)
        return [np.concatenate([head, tail], axis=1), middle], {}


@dataclass(frozen=True)
class Norm(reference.BatchNormKernel):
    """This is a batch norm with its choices as fields, whose defaults are the reference's.

    Attributes:
        moments: Whether training normalises by the ``batch``, by each ``sample``, or by what is
            ``running``, once that is updated.
        in_inference: Whether inference normalises by the batch too.
        corrected: Whether the variance that normalises divides by n - 1.
        constant: Whether no gradient flows through mean and variance.
        updates: The number of times that a step updates the running statistics.
        updated: The last part of the names of these norms; empty stands for all norms.
        epsilon: Where epsilon is added: to the ``variance`` or to the ``deviation``.
        root: Whether the square root is taken of the variance.
    """

    moments: Literal["batch", "sample", "running"] = "batch"
    in_inference: bool = False
    corrected: bool = False
    constant: bool = False
    updates: int = 1
    updated: str = ""
    epsilon: Literal["variance", "deviation"] = "variance"
    root: bool = True

    def forward(self, op: ops.BatchNorm, ctx: Context, x: Array) -> Array:
        if ctx.training:
            axes = (0, *range(2, x.ndim))
            mean, variance = x.mean(axes), x.var(axes)
            weights = dict(ctx.weights)
            ctx.statistics = {name: weights[name] for name in _RUNNING}
            for _ in range(self.updates if ctx.node.endswith(self.updated) else 1):
                now = replace(ctx, weights=weights)
                ctx.statistics = self._running(op, now, x, mean, variance)
                weights |= ctx.statistics
        mean, deviation, _ = self._measure(op, ctx, x)
        if not op.affine:
            return (x - mean) / deviation
        gamma, beta = (self._wide(ctx.weights[name], x) for name in ("gamma", "beta"))
        return gamma * (x - mean) / deviation + beta

    def backward(self, op: ops.BatchNorm, ctx: Context, dy: Array, x: Array) -> Gradients:
        mean, deviation, axes = self._measure(op, ctx, x)
        normalised = (x - mean) / deviation
        dx, gradients = reference.through_affine(op.affine, ctx, dy, normalised)
        if axes is not None and not self.constant:
            count = np.prod([x.shape[axis] for axis in axes]) - self.corrected
            stretch = (dx * normalised).sum(axes, keepdims=True) / count
            dx = dx - dx.mean(axes, keepdims=True) - normalised * stretch
        return [dx / deviation], gradients

    def _measure(
        self, op: ops.BatchNorm, ctx: Context, x: Array
    ) -> tuple[Array, Array, tuple[int, ...] | None]:
        """Return mean, deviation, and the axes they were taken over, None for running ones."""
        running = self.moments == "running" or not (ctx.training or self.in_inference)
        spatial = tuple(range(2, x.ndim))
        axes = None if running else spatial if self.moments == "sample" else (0, *spatial)
        if axes is None:
            now = {**ctx.weights, **ctx.statistics}
            mean, variance = (self._wide(now[name], x) for name in _RUNNING)
        else:
            mean = x.mean(axes, keepdims=True)
            variance = x.var(axes, keepdims=True, ddof=int(self.corrected))
        with np.errstate(invalid="ignore"):
            if self.epsilon == "deviation":
                return mean, np.sqrt(variance) + op.epsilon, axes
            root = np.sqrt(variance + op.epsilon)
        return mean, root if self.root else variance + op.epsilon, axes

    def _wide(self, vector: Array, x: Array) -> Array:
        return vector.reshape(1, -1, *[1] * (x.ndim - 2))


_RUNNING = ("running_mean", "running_variance")


@dataclass(frozen=True)
class Relu(reference.ReluKernel):
    """This is a ReLU with a slope below zero, or a ceiling."""

    slope: float = 0.0
    ceiling: float = np.inf

    def forward(self, op: ops.Relu, ctx: Context, x: Array) -> Array:
        return np.minimum(np.where(x > 0, x, self.slope * x), self.ceiling)

    def backward(self, op: ops.Relu, ctx: Context, dy: Array, x: Array) -> Gradients:
        return [dy * np.where(x > 0, 1.0, self.slope) * (x < self.ceiling)], {}


class ReversedConcat(reference.ConcatKernel):
    def forward(self, op: ops.Concat, ctx: Context, *xs: Array) -> Array:
        return super().forward(op, ctx, *reversed(xs))

    def backward(self, op: ops.Concat, ctx: Context, dy: Array, *xs: Array) -> Gradients:
        dxs, none = super().backward(op, ctx, dy, *reversed(xs))
        return dxs[::-1], none


class FlippedConv(reference.ConvKernel):
    """This is a convolution in the mathematician's sense: the kernel is flipped."""

    def forward(self, op: ops.Conv, ctx: Context, x: Array) -> Array:
        return super().forward(op, self._flipped(ctx), x)

    def backward(self, op: ops.Conv, ctx: Context, dy: Array, x: Array) -> Gradients:
        dx, gradients = super().backward(op, self._flipped(ctx), dy, x)
        return dx, gradients | {"kernel": self._flip(gradients["kernel"])}

    def _flipped(self, ctx: Context) -> Context:
        return replace(ctx, weights={**ctx.weights, "kernel": self._flip(ctx.weights["kernel"])})

    def _flip(self, kernel: Array) -> Array:
        return np.flip(kernel, tuple(range(2, kernel.ndim)))


class ZeroPaddedMaxPool(reference.MaxPoolKernel):
    """This is a maximum pool with zeros outside, which win over negative values.

    The gradient is as without padding.
    """

    def forward(self, op: ops.MaxPool, ctx: Context, x: Array) -> Array:
        return super().forward(*self._outside(op, ctx, x))

    def backward(self, op: ops.MaxPool, ctx: Context, dy: Array, x: Array) -> Gradients:
        (dx,), none = super().backward(*self._outside(op, ctx, x, dy))
        pads = ops.resolve_padding(op.padding, x.shape[2:], op.window, op.stride)
        inner: Any = [slice(p[0], p[0] + n) for p, n in zip(pads, x.shape[2:], strict=True)]
        return [dx[(..., *inner)]], none

    def _outside(self, op: ops.MaxPool, ctx: Context, x: Array, *dy: Array) -> Any:
        pads = ops.resolve_padding(op.padding, x.shape[2:], op.window, op.stride)
        bare = replace(op, padding=((0, 0),) * len(op.window))
        return (bare, ctx, *dy, np.pad(x, ((0, 0), (0, 0), *pads)))


@dataclass(frozen=True)
class StemAverage(reference.MaxPoolKernel):
    """This is an average where the maximum was asked for.

    Attributes:
        counted: Whether padding counts, as zeros.
    """

    counted: bool

    def forward(self, op: ops.MaxPool, ctx: Context, x: Array) -> Array:
        return self._sum(op, ctx, x) / self._count(op, ctx, x)

    def backward(self, op: ops.MaxPool, ctx: Context, dy: Array, x: Array) -> Gradients:
        pads = reference.pads_of(op, x)
        dx = np.zeros_like(reference.pad(x, pads, 0.0))
        share = dy / self._count(op, ctx, x)
        for _, reach in reference.offsets_of(op.window, dy.shape[2:], op.stride):
            dx[reach] += share
        return [reference.unpad(dx, pads)], {}

    def _sum(self, op: ops.MaxPool, ctx: Context, x: Array) -> Array:
        padded = reference.pad(x, reference.pads_of(op, x), 0.0)
        windows = reference.windows_of(padded, op.window, op.stride)
        return windows.sum(axis=tuple(range(x.ndim, windows.ndim)))

    def _count(self, op: ops.MaxPool, ctx: Context, x: Array) -> Array:
        there = self._sum(op, ctx, np.ones_like(x))
        return np.full_like(there, np.prod(op.window)) if self.counted else there


@dataclass(frozen=True)
class Dropout(reference.DropoutKernel):
    """This is a dropout with its choices as fields, whose defaults are the reference's.

    Attributes:
        ignored: The starts of names of the nodes that do nothing.
        scale: The rate that kept values are divided by: the one that is ``kept``, the one that is
            ``dropped``, or ``none``; ``twice`` divides by the kept rate again.
        inverted: Whether a mask's 1 drops.
        spatial: Whether a feature map is dropped as a whole, by the mask's first value.
        in_inference: Whether inference multiplies by 1, or by the rate that is kept.
    """

    ignored: tuple[str, ...] = ()
    scale: Literal["kept", "dropped", "none", "twice"] = "kept"
    inverted: bool = False
    spatial: bool = False
    in_inference: Literal["one", "kept"] = "one"

    def forward(self, op: ops.Dropout, ctx: Context, x: Array) -> Array:
        if not ctx.training and self.in_inference == "kept":
            return x * (1 - op.rate)
        return super().forward(op, ctx, x)

    def _scale(self, op: ops.Dropout, ctx: Context, x: Array) -> Array:
        mask = ctx.mask
        if mask is None or ctx.node.startswith(self.ignored):
            return np.ones_like(x)
        mask = 1 - mask if self.inverted else mask
        if self.spatial:
            first: Any = [slice(0, 1)] * (x.ndim - 2)
            mask = np.broadcast_to(mask[(..., *first)], mask.shape)
        kept = 1 - op.rate
        return mask / {"kept": kept, "dropped": op.rate, "none": 1.0, "twice": kept**2}[self.scale]


class LogSoftmax(reference.SoftmaxKernel):
    def forward(self, op: ops.Softmax, ctx: Context, x: Array) -> Array:
        return np.log(super().forward(op, ctx, x))


class Sigmoid(reference.SoftmaxKernel):
    def forward(self, op: ops.Softmax, ctx: Context, x: Array) -> Array:
        return 1 / (1 + np.exp(-x))


KERNELS: Mapping[type, Kernel] = {
    **reference.KERNELS,
    Identity: IdentityKernel(),
    Reversed: ReversedKernel(),
    Turned: TurnedKernel(),
    PartialPool: PartialPoolKernel(),
    LateFirst: LateFirstKernel(),
    ops.BatchNorm: Norm(),
    ops.Dropout: Dropout(),
}
"""Gives the reference's kernels, those with other choices, and those of other ops."""
