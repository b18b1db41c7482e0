"""Runs the reference with a dtype's roundings: every op's result is off by as much as rounding.

``DisturbedBackend("float32", 1)`` computes in float64, but moves each value by a random amount of
the size that float32's rounding has there. Other draws move them by other amounts. How far such
backends end up from the reference is how far a right one that computes in float32 may be.

Where an op sums n products, each factor is moved by sqrt(n) roundoffs. That moves the sum as far as
n roundings of the partial sums, of random sign, do.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from densespec.backends import StepResult
from densespec.network import ops
from densespec.network.arrays import Arrays
from densespec.network.graph import Graph
from densespec.reference.backend import NumpyBackend
from densespec.reference.kernels import (
    KERNELS,
    ActivationKernel,
    Array,
    AvgPoolKernel,
    BatchNormKernel,
    BlurPoolKernel,
    Context,
    ConvKernel,
    DenseKernel,
    DropoutKernel,
    GlobalPoolKernel,
    Gradients,
    GroupNormKernel,
    Kernel,
    PReluKernel,
    SigmoidKernel,
    SoftmaxKernel,
    by_group,
    through_affine,
)
from densespec.reference.model import ReferenceModel
from densespec_conformance.judging.rounding import ARITHMETIC, Arithmetic


class Noise:
    """Draws the random roundings of one arithmetic."""

    def __init__(self, arithmetic: Arithmetic, draw: int) -> None:
        self.arithmetic = arithmetic
        self._random = np.random.default_rng(draw)

    def relative(self, x: Array, roundoff: float) -> Array:
        """Move every value by up to ``roundoff`` of itself."""
        return x + self.of_size(np.abs(x) * roundoff)

    def of_size(self, size: Array) -> Array:
        return size * self._random.uniform(-1, 1, np.shape(size))

    def result(self, y: Array) -> Array:
        """Move every value as rounding it does."""
        return y + self.of_size(np.abs(y) * self.arithmetic.unit + self.arithmetic.smallest)

    def kept(self, w: Array) -> Array:
        """Move what is kept from step to step as rounding it does."""
        return self.relative(w, self.arithmetic.of_kept)

    def factor(self, x: Array, terms: int) -> Array:
        """Move a factor of products. ``terms`` of these products are summed."""
        return self.relative(x, self.arithmetic.sums * math.sqrt(terms) + self.arithmetic.factors)

    def factors(self, ctx: Context, terms: int) -> Context:
        """Move the kernel of an op as such a factor."""
        kernel = self.factor(ctx.weights["kernel"], terms)
        return _with_weights(ctx, {**ctx.weights, "kernel": kernel})

    def summed(self, total: Array, terms: int) -> Array:
        """Move a sum as the roundings of its partial sums do where its terms have one sign."""
        return self.relative(total, self.arithmetic.sums * math.sqrt(terms))

    def summed_alike(self, total: Array, terms: int) -> Array:
        """Move a sum of terms that may all be equal. Then every rounding has the same sign for
        long, and kernels that add in order drift by an eighth of a roundoff with each term."""
        return self.relative(total, self.arithmetic.sums * terms / 8)

    def mean(self, x: Array, axes: tuple[int, ...]) -> Array:
        """Work out what summing ``x`` over axes moves its mean by, in the shape of the mean."""
        count = math.prod(x.shape[axis] for axis in axes)
        spread = np.sqrt((x * x).mean(axes, keepdims=True))
        terms = np.maximum(math.sqrt(count), _repeated(x, axes) / 2)
        drift = terms * np.abs(x.mean(axes, keepdims=True))
        return self.of_size(self.arithmetic.sums * (spread + drift))


def _repeated(x: Array, axes: tuple[int, ...]) -> Array:
    """Count the values along ``axes`` that equal the one before and are not 0.

    Kernels that add in order round all of these partial sums alike, which are half of the sum on
    average. A ReLU before a convolution leaves many such values.
    """
    alike = (x[..., 1:] == x[..., :-1]) & (x[..., 1:] != 0)
    return alike.sum(axes, keepdims=True)


def _with_weights(ctx: Context, weights: Mapping[str, Array]) -> Context:
    """Return the context other weights; statistics go where they went."""
    return Context(ctx.node, weights, ctx.training, ctx.mask, ctx.statistics)


def _but_channels(x: Array) -> tuple[int, ...]:
    return (0, *range(2, x.ndim))


class _Conv(ConvKernel):
    def __init__(self, noise: Noise) -> None:
        self.noise = noise

    def forward(self, op: ops.Conv, ctx: Context, x: Array) -> Array:
        noise, terms = self.noise, op.in_channels * math.prod(op.window)
        y = super().forward(op, noise.factors(ctx, terms), noise.factor(x, terms))
        return noise.result(y)

    def backward(self, op: ops.Conv, ctx: Context, dy: Array, x: Array) -> Gradients:
        noise, terms = self.noise, op.filters * math.prod(op.window)
        positions = dy.size // op.filters
        dxs, gradients = super().backward(
            op, noise.factors(ctx, terms), noise.factor(dy, terms), noise.factor(x, positions)
        )
        return _results(noise, dxs, gradients, positions)


class _Dense(DenseKernel):
    def __init__(self, noise: Noise) -> None:
        self.noise = noise

    def forward(self, op: ops.Dense, ctx: Context, x: Array) -> Array:
        noise = self.noise
        y = super().forward(op, noise.factors(ctx, op.features), noise.factor(x, op.features))
        return noise.result(y)

    def backward(self, op: ops.Dense, ctx: Context, dy: Array, x: Array) -> Gradients:
        noise = self.noise
        dxs, gradients = super().backward(
            op,
            noise.factors(ctx, op.units),
            noise.factor(dy, op.units),
            noise.factor(x, len(x)),
        )
        return _results(noise, dxs, gradients, len(x))


class _BatchNorm(BatchNormKernel):
    """Scale and shift are rounded channel by channel, and so are the batch's statistics.

    The variance may be computed as the mean of squares less the squared mean.
    """

    def __init__(self, noise: Noise) -> None:
        self.noise = noise

    def forward(self, op: ops.BatchNorm, ctx: Context, x: Array) -> Array:
        noise = self.noise
        weights = {name: noise.result(array) for name, array in ctx.weights.items()}
        moved = _with_weights(ctx, weights)
        y = noise.result(super().forward(op, moved, noise.result(x)))
        ctx.statistics = {name: noise.result(array) for name, array in moved.statistics.items()}
        return y

    def _moments(self, ctx: Context, x: Array) -> tuple[Array, Array]:
        mean, variance = super()._moments(ctx, x)
        if not ctx.training:
            return mean, variance
        axes, noise = _but_channels(x), self.noise
        centred = np.square(x - mean.reshape(1, -1, *[1] * (x.ndim - 2)))
        squared_mean = noise.of_size(noise.arithmetic.sums * np.square(mean))
        return (
            mean + noise.mean(x, axes).ravel(),
            variance + noise.mean(centred, axes).ravel() + squared_mean,
        )

    def backward(self, op: ops.BatchNorm, ctx: Context, dy: Array, x: Array) -> Gradients:
        noise, positions = self.noise, dy.size // op.channels
        _, gradients = super().backward(op, ctx, noise.factor(dy, positions), x)
        (dx,), _ = super().backward(op, ctx, noise.result(dy), x)
        if op.affine:
            gradients["beta"] = noise.summed_alike(gradients["beta"], positions)
        return _results(noise, [dx + self._means(op, ctx, dy, x)], gradients, positions)

    def _means(self, op: ops.BatchNorm, ctx: Context, dy: Array, x: Array) -> Array:
        """Work out by how much the two means are rounded that a batch takes off its gradient. What
        they leave of it may be far less than they are."""
        if not ctx.training:
            return np.zeros(())
        noise, axes, along = self.noise, _but_channels(x), (1, -1, *[1] * (x.ndim - 2))
        mean, variance = super()._moments(ctx, x)
        inverse = (1 / np.sqrt(variance + op.epsilon)).reshape(along)
        normalised = (x - mean.reshape(along)) * inverse
        slope = dy * inverse * (ctx.weights["gamma"].reshape(along) if op.affine else 1.0)
        return noise.mean(slope, axes) + normalised * noise.mean(slope * normalised, axes)


class _GroupNorm(GroupNormKernel):
    """The moments of groups are rounded as those of a batch are."""

    def __init__(self, noise: Noise) -> None:
        self.noise = noise

    def forward(self, op: ops.GroupNorm, ctx: Context, x: Array) -> Array:
        noise = self.noise
        weights = {name: noise.result(array) for name, array in ctx.weights.items()}
        return noise.result(super().forward(op, _with_weights(ctx, weights), noise.result(x)))

    def _moments(self, grouped: Array) -> tuple[Array, Array]:
        noise, (mean, variance) = self.noise, super()._moments(grouped)
        squared_mean = noise.of_size(noise.arithmetic.sums * np.square(mean))
        spread = noise.mean(np.square(grouped - mean), (2,))
        return mean + noise.mean(grouped, (2,)), variance + spread + squared_mean

    def backward(self, op: ops.GroupNorm, ctx: Context, dy: Array, x: Array) -> Gradients:
        noise, positions = self.noise, dy.size // op.channels
        _, gradients = super().backward(op, ctx, noise.factor(dy, positions), x)
        (dx,), _ = super().backward(op, ctx, noise.result(dy), x)
        if op.affine:
            gradients["beta"] = noise.summed_alike(gradients["beta"], positions)
        return _results(noise, [dx + self._means(op, ctx, dy, x)], gradients, positions)

    def _means(self, op: ops.GroupNorm, ctx: Context, dy: Array, x: Array) -> Array:
        """Work out by how much the two means of a group are rounded, as those of a batch are."""
        normalised, inverse = self._normalised(op, ctx, x)
        slope, _ = through_affine(op.affine, ctx, dy, normalised)
        slope, y = (by_group(op, array) for array in (slope, normalised))
        slope, mean = slope * inverse, self.noise.mean
        return (mean(slope, (2,)) + y * mean(slope * y, (2,))).reshape(x.shape)


class _PRelu(PReluKernel):
    def __init__(self, noise: Noise) -> None:
        self.noise = noise

    def forward(self, op: ops.PRelu, ctx: Context, x: Array) -> Array:
        return self.noise.result(super().forward(op, ctx, x))

    def backward(self, op: ops.PRelu, ctx: Context, dy: Array, x: Array) -> Gradients:
        (dx,), _ = super().backward(op, ctx, dy, x)
        _, gradients = super().backward(op, ctx, self.noise.factor(dy, dy.size), x)
        return _results(self.noise, [dx], gradients, dy.size)


class _Activation(ActivationKernel):
    """The exponentials and tangents of an activation are added to numbers that they may cancel."""

    def __init__(self, noise: Noise) -> None:
        self.noise = noise

    def forward(self, op: ops.Activation, ctx: Context, x: Array) -> Array:
        y = super().forward(op, ctx, self.noise.result(x))
        return self.noise.result(y + self._cancelled(x))

    def backward(self, op: ops.Activation, ctx: Context, dy: Array, x: Array) -> Gradients:
        (dx,), _ = super().backward(op, ctx, dy, self.noise.result(x))
        return [self.noise.result(dx + dy * self._cancelled(np.ones_like(x)))], {}

    def _cancelled(self, x: Array) -> Array:
        return self.noise.of_size(np.abs(x) * self.noise.arithmetic.unit)


class _AvgPool(AvgPoolKernel):
    def __init__(self, noise: Noise) -> None:
        self.noise = noise

    def forward(self, op: ops.AvgPool, ctx: Context, x: Array) -> Array:
        return self.noise.result(super().forward(op, ctx, self.noise.result(x)))

    def backward(self, op: ops.AvgPool, ctx: Context, dy: Array, x: Array) -> Gradients:
        return _results(self.noise, *super().backward(op, ctx, dy, x))


class _BlurPool(BlurPoolKernel):
    def __init__(self, noise: Noise) -> None:
        self.noise = noise

    def forward(self, op: ops.BlurPool, ctx: Context, x: Array) -> Array:
        return self.noise.result(super().forward(op, ctx, self.noise.result(x)))

    def backward(self, op: ops.BlurPool, ctx: Context, dy: Array, x: Array) -> Gradients:
        return _results(self.noise, *super().backward(op, ctx, self.noise.result(dy), x))


class _GlobalPool(GlobalPoolKernel):
    def __init__(self, noise: Noise) -> None:
        self.noise = noise

    def forward(self, op: ops.GlobalPool, ctx: Context, x: Array) -> Array:
        y = super().forward(op, ctx, x)
        return y if op.kind == "max" else self.noise.result(y)

    def _mean(self, x: Array) -> Array:
        y = super()._mean(x)
        return y + self.noise.mean(x, tuple(range(2, x.ndim))).reshape(y.shape)

    def backward(self, op: ops.GlobalPool, ctx: Context, dy: Array, x: Array) -> Gradients:
        return _results(self.noise, *super().backward(op, ctx, dy, x))


class _Dropout(DropoutKernel):
    def __init__(self, noise: Noise) -> None:
        self.noise = noise

    def _scale(self, op: ops.Dropout, ctx: Context, x: Array) -> Array:
        return self.noise.relative(super()._scale(op, ctx, x), self.noise.arithmetic.unit)


class _Softmax(SoftmaxKernel):
    def __init__(self, noise: Noise) -> None:
        self.noise = noise

    def forward(self, op: ops.Softmax, ctx: Context, x: Array) -> Array:
        return self.noise.result(super().forward(op, ctx, self.noise.result(x)))


class _Sigmoid(SigmoidKernel):
    def __init__(self, noise: Noise) -> None:
        self.noise = noise

    def forward(self, op: ops.Sigmoid, ctx: Context, x: Array) -> Array:
        return self.noise.result(super().forward(op, ctx, self.noise.result(x)))


def _results(noise: Noise, dxs: list[Array], gradients: Arrays, terms: int = 1) -> Gradients:
    """Move slopes of inputs, and gradients of weights that are sums of ``terms`` terms."""
    return (
        [noise.result(dx) for dx in dxs],
        {name: noise.result(noise.summed(g, terms)) for name, g in gradients.items()},
    )


DISTURBED: Mapping[type, Any] = {
    ops.Conv: _Conv,
    ops.BatchNorm: _BatchNorm,
    ops.GroupNorm: _GroupNorm,
    ops.Activation: _Activation,
    ops.PRelu: _PRelu,
    ops.Dropout: _Dropout,
    ops.AvgPool: _AvgPool,
    ops.BlurPool: _BlurPool,
    ops.GlobalPool: _GlobalPool,
    ops.Dense: _Dense,
    ops.Softmax: _Softmax,
    ops.Sigmoid: _Sigmoid,
}
"""Gives the ops that round: a ReLU, a maximum and a concatenation do not."""


class _DisturbedModel(ReferenceModel):
    """Runs the reference with disturbed ops, loss and update."""

    def __init__(self, graph: Graph, weights: Mapping[str, Array], noise: Noise) -> None:
        disturbed: Mapping[type, Kernel] = {kind: make(noise) for kind, make in DISTURBED.items()}
        super().__init__(graph, weights, kernels={**KERNELS, **disturbed})
        self.noise = noise

    def _backward(self, values: Arrays, contexts: dict[str, Context], slope: Array) -> Arrays:
        arithmetic = self.noise.arithmetic
        rounding = np.full_like(slope, arithmetic.unit / len(slope))
        moved = slope + self.noise.of_size(rounding)
        scaled = super()._backward(values, contexts, moved * arithmetic.loss_scale)
        return {name: array / arithmetic.loss_scale for name, array in scaled.items()}

    def train_step(self, *args: Any, **options: Any) -> StepResult:
        before = dict(self.weights)
        result = super().train_step(*args, **options)
        changed = {n: array for n, array in self.weights.items() if array is not before[n]}
        self.weights.update({name: self.noise.kept(array) for name, array in changed.items()})
        self.moments = {
            moment: {name: self.noise.kept(array) for name, array in arrays.items()}
            for moment, arrays in self.moments.items()
        }
        return StepResult(float(self.noise.result(np.array(result.loss))), result.gradients)


class DisturbedBackend(NumpyBackend):
    """This is the reference with the roundings of an arithmetic, in one of many random ways.

    Args:
        arithmetic: Its name in :data:`densespec_conformance.judging.rounding.ARITHMETIC`.
        draw: The seed of the roundings.
    """

    def __init__(self, arithmetic: str, draw: int) -> None:
        self.arithmetic, self.draw = ARITHMETIC[arithmetic], draw

    def build(self, graph: Graph, weights: Mapping[str, Array], **options: Any) -> ReferenceModel:
        return _DisturbedModel(graph, weights, Noise(self.arithmetic, self.draw))


FLOAT64 = DisturbedBackend("float64", 1000)
"""No bound was derived from this backend's roundings. As a target it should pass every case."""
