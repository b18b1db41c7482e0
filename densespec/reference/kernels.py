"""Computes every op in plain numpy, forward and backward, in code that is written to be read.

These functions decide what is right. Arrays are channels-first, ``x[n, c, *spatial]``, in any
number of spatial dimensions, and float64 unless said otherwise. For an op with inputs x and weights
w, ``forward`` returns y; ``backward`` takes dL/dy and returns dL/dx for each input and dL/dw for
each weight by name. Each op class below states its semantics; constraints on its inputs are
numbered (O1, O2, ...) and checked.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from densespec.errors import DensespecError
from densespec.network import ops
from densespec.network.arrays import Arrays

Array = np.ndarray

Gradients = tuple[list[Array], Arrays]
"""Holds the gradients of an op's inputs, in order, and of its own arrays, by short name."""


class OpError(DensespecError, ValueError):
    """An op's input breaks a numbered constraint."""


def check_constraint(condition: bool, constraint: str, node: str, message: str) -> None:
    if not condition:
        raise OpError(f"{node}: {message} [{constraint}]")


@dataclass
class Context:
    """Holds what an op sees besides its inputs.

    Attributes:
        weights: the op's arrays by short name, such as ``kernel``.
        training: whether batch statistics and dropout are on.
        mask: for dropout in training: 1 keeps a value, 0 drops it.
        statistics: batch norm leaves its new running statistics here, by short name.
    """

    node: str
    weights: Mapping[str, Array] = field(default_factory=dict)
    training: bool = False
    mask: Array | None = None
    statistics: Arrays = field(default_factory=dict)


class Kernel(Protocol):
    """Computes one op kind."""

    @property
    def forward(self) -> Callable[..., Array]:
        """Return the function from ``(op, ctx, *inputs)`` to the output."""
        ...

    @property
    def backward(self) -> Callable[..., Gradients]:
        """Return the function from ``(op, ctx, dy, *inputs)`` to gradients.

        The gradients are those of the inputs, and of weights by short name.
        """
        ...


def _along_channels(vector: Array, like: Array) -> Array:
    return vector.reshape(1, -1, *[1] * (like.ndim - 2))


def _but_channels(x: Array) -> tuple[int, ...]:
    return (0, *range(2, x.ndim))


def pad(x: Array, pads: ops.Pads, value: float) -> Array:
    return np.pad(x, ((0, 0), (0, 0), *pads), constant_values=value)


def unpad(x: Array, pads: ops.Pads) -> Array:
    inner = [slice(before, x.shape[2 + d] - after) for d, (before, after) in enumerate(pads)]
    return x[(slice(None), slice(None), *inner)]


def pads_of(op: ops.Conv | ops.MaxPool, x: Array) -> ops.Pads:
    pads = ops.resolve_padding(op.padding, x.shape[2:], op.window, op.stride)
    assert pads != "same", "sizes of an array are known"
    return pads


def windows_of(x: Array, window: Sequence[int], stride: int) -> Array:
    """View ``[n, c, *positions, *window]`` of every window that fits."""
    axes = tuple(range(2, x.ndim))
    view = sliding_window_view(x, tuple(window), axis=axes)
    return view[(slice(None), slice(None), *[slice(None, None, stride)] * len(axes))]


def offsets_of(
    window: Sequence[int], positions: Sequence[int], stride: int
) -> Iterable[tuple[tuple[int, ...], tuple[slice, ...]]]:
    """Yield each place in a window, with the slices of the input that it visits."""
    for place in itertools.product(*map(range, window)):
        reach = [
            slice(start, start + stride * (count - 1) + 1, stride)
            for start, count in zip(place, positions, strict=True)
        ]
        yield place, (slice(None), slice(None), *reach)


class ConvKernel:
    """y[n, o, p] = bias[o] + sum over c, q of kernel[o, c, q] * x[n, c, stride * p + q].

    x is padded with zeros first. Cross-correlation: the kernel is not flipped.

    O1: x has ``in_channels`` channels.
    """

    def forward(self, op: ops.Conv, ctx: Context, x: Array) -> Array:
        check_constraint(x.shape[1] == op.in_channels, "O1", ctx.node, f"{x.shape[1]} channels in")
        windows = windows_of(pad(x, pads_of(op, x), 0.0), op.window, op.stride)
        dims = len(op.window)
        places = range(windows.ndim - dims, windows.ndim)
        y = np.tensordot(windows, ctx.weights["kernel"], ([1, *places], range(1, 2 + dims)))
        y = np.moveaxis(y, -1, 1)
        return y + _along_channels(ctx.weights["bias"], y) if op.bias else y

    def backward(self, op: ops.Conv, ctx: Context, dy: Array, x: Array) -> Gradients:
        padded = pad(x, pads_of(op, x), 0.0)
        windows = windows_of(padded, op.window, op.stride)
        summed = _but_channels(dy)
        gradients = {"kernel": np.tensordot(dy, windows, (summed, summed))}
        if op.bias:
            gradients["bias"] = dy.sum(summed)
        dx = np.zeros_like(padded)
        for place, reach in offsets_of(op.window, dy.shape[2:], op.stride):
            at: Any = (..., *place)
            tap = ctx.weights["kernel"][at]
            dx[reach] += np.moveaxis(np.tensordot(dy, tap, ([1], [0])), -1, 1)
        return [unpad(dx, pads_of(op, x))], gradients


class BatchNormKernel:
    """y = gamma * (x - mean) / sqrt(variance + epsilon) + beta, channel by channel.

    In inference mean and variance are the running statistics. In training they are the batch's,
    over all axes but the channels, the variance divided by n (biased); and then

        running_mean     <- (1 - momentum) * running_mean     + momentum * mean
        running_variance <- (1 - momentum) * running_variance + momentum * variance'

    where variance' divides by n - 1 if ``unbiased``, else by n.

    O2: in training with unbiased running variance, n is at least 2.
    """

    def forward(self, op: ops.BatchNorm, ctx: Context, x: Array) -> Array:
        mean, variance = self._moments(ctx, x)
        if ctx.training:
            ctx.statistics = self._running(op, ctx, x, mean, variance)
        gamma, beta = ctx.weights.get("gamma", 1.0), ctx.weights.get("beta", 0.0)
        scale = gamma / np.sqrt(variance + op.epsilon)
        shift = beta - mean * scale
        return x * _along_channels(scale, x) + _along_channels(shift, x)

    def _moments(self, ctx: Context, x: Array) -> tuple[Array, Array]:
        if not ctx.training:
            return ctx.weights["running_mean"], ctx.weights["running_variance"]
        return x.mean(_but_channels(x)), x.var(_but_channels(x))

    def _running(
        self, op: ops.BatchNorm, ctx: Context, x: Array, mean: Array, variance: Array
    ) -> Arrays:
        count = x.size // x.shape[1]
        if op.unbiased:
            check_constraint(
                count > 1, "O2", ctx.node, "one value per channel has no unbiased variance"
            )
            variance = variance * (count / (count - 1))
        old, new = 1 - op.momentum, op.momentum
        return {
            "running_mean": old * ctx.weights["running_mean"] + new * mean,
            "running_variance": old * ctx.weights["running_variance"] + new * variance,
        }

    def backward(self, op: ops.BatchNorm, ctx: Context, dy: Array, x: Array) -> Gradients:
        axes = _but_channels(x)
        mean, variance = self._moments(ctx, x)
        deviation = _along_channels(np.sqrt(variance + op.epsilon), x)
        normalised = (x - _along_channels(mean, x)) / deviation
        dx, gradients = through_affine(op.affine, ctx, dy, normalised)
        if ctx.training:
            along = dx.mean(axes, keepdims=True)
            stretch = (dx * normalised).mean(axes, keepdims=True)
            dx = dx - along - normalised * stretch
        return [dx / deviation], gradients


def through_affine(
    affine: bool, ctx: Context, dy: Array, normalised: Array
) -> tuple[Array, Arrays]:
    """Return the gradient of what a norm scales and shifts, if it does, and of gamma and beta."""
    if not affine:
        return dy, {}
    axes = _but_channels(dy)
    gradients = {"gamma": (dy * normalised).sum(axes), "beta": dy.sum(axes)}
    return dy * _along_channels(ctx.weights["gamma"], dy), gradients


class GroupNormKernel:
    """y = gamma * (x - mean) / sqrt(variance + epsilon) + beta, in training and inference alike.

    Mean and variance are those of each sample and each group of channels one after another, over
    all positions, the variance divided by the number n of values (biased). gamma and beta belong to
    channels; without ``affine`` they are 1 and 0.

    O9: n is at least 2.
    """

    def forward(self, op: ops.GroupNorm, ctx: Context, x: Array) -> Array:
        normalised = self._normalised(op, ctx, x)[0]
        if not op.affine:
            return normalised
        gamma, beta = (_along_channels(ctx.weights[name], x) for name in ("gamma", "beta"))
        return gamma * normalised + beta

    def _normalised(self, op: ops.GroupNorm, ctx: Context, x: Array) -> tuple[Array, Array]:
        """Return what is scaled and shifted, and one over the deviation of each group."""
        grouped = by_group(op, x)
        several = grouped.shape[2] > 1
        check_constraint(several, "O9", ctx.node, "one value per group has no deviation")
        mean, variance = self._moments(grouped)
        inverse = 1 / np.sqrt(variance + op.epsilon)
        return ((grouped - mean) * inverse).reshape(x.shape), inverse

    def _moments(self, grouped: Array) -> tuple[Array, Array]:
        return grouped.mean(2, keepdims=True), grouped.var(2, keepdims=True)

    def backward(self, op: ops.GroupNorm, ctx: Context, dy: Array, x: Array) -> Gradients:
        normalised, inverse = self._normalised(op, ctx, x)
        slope, gradients = through_affine(op.affine, ctx, dy, normalised)
        dx, y = (by_group(op, array) for array in (slope, normalised))
        along, stretch = dx.mean(2, keepdims=True), (dx * y).mean(2, keepdims=True)
        return [((dx - along - y * stretch) * inverse).reshape(x.shape)], gradients


def by_group(op: ops.GroupNorm, x: Array) -> Array:
    """Return (batch, groups, values) of the values of a map; a batch may have no samples."""
    return x.reshape(len(x), op.groups, math.prod(x.shape[1:]) // op.groups)


class AffineKernel:
    """y = scale * x + shift, channel by channel."""

    def forward(self, op: ops.Affine, ctx: Context, x: Array) -> Array:
        scale, shift = (_along_channels(ctx.weights[name], x) for name in ("scale", "shift"))
        return scale * x + shift

    def backward(self, op: ops.Affine, ctx: Context, dy: Array, x: Array) -> Gradients:
        axes = _but_channels(x)
        gradients = {"scale": (dy * x).sum(axes), "shift": dy.sum(axes)}
        return [dy * _along_channels(ctx.weights["scale"], x)], gradients


class ClipKernel:
    """y = min(max(x, low), high), channel by channel; a bound has the gradient where it is met."""

    def forward(self, op: ops.Clip, ctx: Context, x: Array) -> Array:
        low, high = (_along_channels(ctx.weights[name], x) for name in ("low", "high"))
        return np.minimum(np.maximum(x, low), high)

    def backward(self, op: ops.Clip, ctx: Context, dy: Array, x: Array) -> Gradients:
        axes = _but_channels(x)
        low, high = (_along_channels(ctx.weights[name], x) for name in ("low", "high"))
        below, above = x <= low, x >= high
        gradients = {"low": (dy * below).sum(axes), "high": (dy * above).sum(axes)}
        return [dy * ~(below | above)], gradients


class ReluKernel:
    """y = max(x, 0); the derivative at 0 is 0."""

    def forward(self, op: ops.Relu, ctx: Context, x: Array) -> Array:
        return np.maximum(x, 0)

    def backward(self, op: ops.Relu, ctx: Context, dy: Array, x: Array) -> Gradients:
        return [dy * (x > 0)], {}


class ActivationKernel:
    """y = f(x), value by value, where f(x) is by ``kind``

    - ``leaky-relu``: x where x > 0, else slope * x
    - ``elu``: x where x > 0, else exp(x) - 1
    - ``silu``: x / (1 + exp(-x)), also called swish
    - ``gelu``: x * (1 + erf(x / sqrt(2))) / 2
    - ``gelu-tanh``: x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x^3))) / 2
    - ``relu6``: x between 0 and 6, else the nearer of both

    The gradient is the one of the branch that the formula takes; for ``relu6`` it is 0 at 0 and 6.
    """

    def forward(self, op: ops.Activation, ctx: Context, x: Array) -> Array:
        return FUNCTIONS[op.kind](x, op.slope)[0]

    def backward(self, op: ops.Activation, ctx: Context, dy: Array, x: Array) -> Gradients:
        return [dy * FUNCTIONS[op.kind](x, op.slope)[1]], {}


class PReluKernel:
    """y = x where x > 0, else slope * x."""

    def forward(self, op: ops.PRelu, ctx: Context, x: Array) -> Array:
        return np.where(x > 0, x, ctx.weights["slope"] * x)

    def backward(self, op: ops.PRelu, ctx: Context, dy: Array, x: Array) -> Gradients:
        slope = np.where(x > 0, 0.0, dy * x).sum(keepdims=True).reshape(1)
        return [dy * np.where(x > 0, 1.0, ctx.weights["slope"])], {"slope": slope}


class DropoutKernel:
    """In training y = x * mask / (1 - rate); in inference y = x.

    O3: in training a mask of the input's shape is given. The reference draws none itself.
    """

    def forward(self, op: ops.Dropout, ctx: Context, x: Array) -> Array:
        return x * self._scale(op, ctx, x) if ctx.training else x

    def backward(self, op: ops.Dropout, ctx: Context, dy: Array, x: Array) -> Gradients:
        return [dy * self._scale(op, ctx, x) if ctx.training else dy], {}

    def _scale(self, op: ops.Dropout, ctx: Context, x: Array) -> Array:
        mask = ctx.mask
        if mask is None or mask.shape != x.shape:
            got = "none" if mask is None else f"one of shape {mask.shape}"
            raise OpError(f"{ctx.node}: needs a mask of shape {x.shape}, got {got} [O3]")
        return mask / (1 - op.rate)


class ConcatKernel:
    """y[n] has the channels of the first x[n], then those of the second, and so on."""

    def forward(self, op: ops.Concat, ctx: Context, *xs: Array) -> Array:
        return np.concatenate(xs, axis=1)

    def backward(self, op: ops.Concat, ctx: Context, dy: Array, *xs: Array) -> Gradients:
        ends = np.cumsum([x.shape[1] for x in xs])
        return np.split(dy, ends[:-1], axis=1), {}


class MaxPoolKernel:
    """y[n, c, p] = max over q of x[n, c, stride * p + q], x padded with minus infinity first.

    The gradient goes to the first maximum of a window, in row-major order.
    """

    def forward(self, op: ops.MaxPool, ctx: Context, x: Array) -> Array:
        windows = windows_of(pad(x, pads_of(op, x), -np.inf), op.window, op.stride)
        return windows.max(axis=tuple(range(x.ndim, windows.ndim)))

    def backward(self, op: ops.MaxPool, ctx: Context, dy: Array, x: Array) -> Gradients:
        padded = pad(x, pads_of(op, x), -np.inf)
        y = self.forward(op, ctx, x)
        dx, unclaimed = np.zeros_like(padded), np.ones(y.shape, bool)
        for _, reach in offsets_of(op.window, y.shape[2:], op.stride):
            winner = unclaimed & (padded[reach] == y)
            dx[reach] += dy * winner
            unclaimed &= ~winner
        return [unpad(dx, pads_of(op, x))], {}


class AvgPoolKernel:
    """y[n, c, p] = mean over q of x[n, c, stride * p + q], without padding."""

    def forward(self, op: ops.AvgPool, ctx: Context, x: Array) -> Array:
        windows = windows_of(x, op.window, op.stride)
        return windows.mean(axis=tuple(range(x.ndim, windows.ndim)))

    def backward(self, op: ops.AvgPool, ctx: Context, dy: Array, x: Array) -> Gradients:
        dx = np.zeros_like(x)
        for _, reach in offsets_of(op.window, dy.shape[2:], op.stride):
            dx[reach] += dy / math.prod(op.window)
        return [dx], {}


class BlurPoolKernel:
    """y[n, c, p] = sum over q of f[q] * x[n, c, stride * p + q], f[q] the product of its factors.

    Along a dimension with windows of 3 the factors are 1/4, 1/2 and 1/4. x is mirrored first around
    its first and last positions, which themselves are not repeated.
    """

    def forward(self, op: ops.BlurPool, ctx: Context, x: Array) -> Array:
        padded = np.pad(x, ((0, 0), (0, 0), *op.pads), mode="reflect")
        windows = windows_of(padded, op.window, op.stride)
        places = tuple(range(x.ndim, windows.ndim))
        return np.tensordot(windows, self._filter(op, x), (places, range(len(places))))

    def _filter(self, op: ops.BlurPool, x: Array) -> Array:
        return functools.reduce(np.multiply.outer, np.asarray(op.factors, x.dtype))

    def backward(self, op: ops.BlurPool, ctx: Context, dy: Array, x: Array) -> Gradients:
        padded = np.pad(x, ((0, 0), (0, 0), *op.pads), mode="reflect")
        dx, factors = np.zeros_like(padded), self._filter(op, x)
        for place, reach in offsets_of(op.window, dy.shape[2:], op.stride):
            dx[reach] += dy * factors[place]
        for axis, (pad, _) in enumerate(op.pads, start=2):
            dx = _folded(dx, axis, pad)
        return [dx], {}


def _folded(padded: Array, axis: int, pad: int) -> Array:
    """Add what lies in mirrored positions of an axis to the positions that they mirror."""
    ordered = np.moveaxis(padded, axis, 0)
    inner = ordered[pad : len(ordered) - pad].copy()
    for place in range(1, pad + 1):
        inner[place] += ordered[pad - place]
        inner[-1 - place] += ordered[len(ordered) - 1 - pad + place]
    return np.moveaxis(inner, 0, axis)


class GlobalPoolKernel:
    """y[n, c] = mean (``avg``) or maximum (``max``) of x[n, c, *spatial], or both.

    ``avgmax`` is half their sum; ``catavgmax`` has all means as channels, and then all maxima.
    Equal maxima share the gradient evenly.
    """

    def forward(self, op: ops.GlobalPool, ctx: Context, x: Array) -> Array:
        match op.kind:
            case "avg":
                return self._mean(x)
            case "max":
                return x.max(_positions(x))
            case "avgmax":
                return (self._mean(x) + x.max(_positions(x))) / 2
        return np.concatenate((self._mean(x), x.max(_positions(x))), axis=1)

    def _mean(self, x: Array) -> Array:
        return x.mean(_positions(x))

    def backward(self, op: ops.GlobalPool, ctx: Context, dy: Array, x: Array) -> Gradients:
        means, maxima = np.split(dy, 2, axis=1) if op.kind == "catavgmax" else (dy, dy)
        if op.kind == "avg":
            return [_shared(means, np.ones_like(x))], {}
        winners = (x == x.max(_positions(x), keepdims=True)).astype(x.dtype)
        if op.kind == "max":
            return [_shared(maxima, winners)], {}
        dx = _shared(means, np.ones_like(x)) + _shared(maxima, winners)
        return [dx / 2 if op.kind == "avgmax" else dx], {}


def _positions(x: Array) -> tuple[int, ...]:
    return tuple(range(2, x.ndim))


def _shared(dy: Array, among: Array) -> Array:
    """Share the slope of each map evenly among its positions that are 1."""
    axes = _positions(among)
    return np.expand_dims(dy, axes) * among / among.sum(axes, keepdims=True)


class DenseKernel:
    """y[n, u] = bias[u] + sum over f of kernel[u, f] * x[n, f]."""

    def forward(self, op: ops.Dense, ctx: Context, x: Array) -> Array:
        y = x @ ctx.weights["kernel"].T
        return y + ctx.weights["bias"] if op.bias else y

    def backward(self, op: ops.Dense, ctx: Context, dy: Array, x: Array) -> Gradients:
        gradients = {"kernel": dy.T @ x}
        if op.bias:
            gradients["bias"] = dy.sum(0)
        return [dy @ ctx.weights["kernel"]], gradients


class SoftmaxKernel:
    """y[n, u] = exp(x[n, u]) / sum over v of exp(x[n, v])."""

    def forward(self, op: ops.Softmax, ctx: Context, x: Array) -> Array:
        return np.exp(log_softmax(x))

    def backward(self, op: ops.Softmax, ctx: Context, dy: Array, x: Array) -> Gradients:
        y = self.forward(op, ctx, x)
        return [y * (dy - (dy * y).sum(1, keepdims=True))], {}


class SigmoidKernel:
    """y = 1 / (1 + exp(-x))."""

    def forward(self, op: ops.Sigmoid, ctx: Context, x: Array) -> Array:
        return np.exp(-np.logaddexp(0, -x))

    def backward(self, op: ops.Sigmoid, ctx: Context, dy: Array, x: Array) -> Gradients:
        y = self.forward(op, ctx, x)
        return [dy * y * (1 - y)], {}


def _leaky_relu(x: Array, slope: float) -> tuple[Array, Array]:
    one, below = x.dtype.type(1), x.dtype.type(slope)
    return np.where(x > 0, x, slope * x), np.where(x > 0, one, below)


def _elu(x: Array, slope: float) -> tuple[Array, Array]:
    below = np.minimum(x, 0)
    return np.where(x > 0, x, np.expm1(below)), np.exp(below)


def _silu(x: Array, slope: float) -> tuple[Array, Array]:
    with np.errstate(invalid="ignore"):  # NaN stays NaN
        gate = np.exp(-np.logaddexp(0, -x))
    return x * gate, gate * (1 + x * (1 - gate))


def _gelu(x: Array, slope: float) -> tuple[Array, Array]:
    share = (1 + _erf(x / math.sqrt(2))) / 2
    return x * share, share + x * np.exp(-x * x / 2) / math.sqrt(2 * math.pi)


def _gelu_tanh(x: Array, slope: float) -> tuple[Array, Array]:
    root = math.sqrt(2 / math.pi)
    tangent = np.tanh(root * (x + 0.044715 * x**3))
    inner = root * (1 + 3 * 0.044715 * x**2)
    return x * (1 + tangent) / 2, (1 + tangent + x * (1 - tangent**2) * inner) / 2


def _relu6(x: Array, slope: float) -> tuple[Array, Array]:
    return np.clip(x, 0, 6), ((x > 0) & (x < 6)).astype(x.dtype)


def _erf(x: Array) -> Array:
    return np.fromiter(map(math.erf, x.flat), x.dtype, x.size).reshape(x.shape)


FUNCTIONS: Mapping[str, Callable[[Array, float], tuple[Array, Array]]] = {
    "leaky-relu": _leaky_relu,
    "elu": _elu,
    "silu": _silu,
    "gelu": _gelu,
    "gelu-tanh": _gelu_tanh,
    "relu6": _relu6,
}
"""Computes the values and the derivatives of an activation, from its input and its slope."""


KERNELS: Mapping[type, Kernel] = {
    ops.Conv: ConvKernel(),
    ops.BatchNorm: BatchNormKernel(),
    ops.GroupNorm: GroupNormKernel(),
    ops.Affine: AffineKernel(),
    ops.Clip: ClipKernel(),
    ops.Relu: ReluKernel(),
    ops.Activation: ActivationKernel(),
    ops.PRelu: PReluKernel(),
    ops.Dropout: DropoutKernel(),
    ops.Concat: ConcatKernel(),
    ops.MaxPool: MaxPoolKernel(),
    ops.AvgPool: AvgPoolKernel(),
    ops.BlurPool: BlurPoolKernel(),
    ops.GlobalPool: GlobalPoolKernel(),
    ops.Dense: DenseKernel(),
    ops.Softmax: SoftmaxKernel(),
    ops.Sigmoid: SigmoidKernel(),
}


def log_softmax(x: Array) -> Array:
    """Return the logarithm of the softmax over the second axis."""
    shifted = x - x.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
