"""Passes over memory that fused parts are made of, channels last.

Values are (n, *spatial, c) here, contiguous or a range of the channels of something that is.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

CHUNK = 7 * 2**20
"""A chunk of samples has this many bytes, so that what its passes share stays in the cache."""

_IMAGE = 1024
"""An image has at most this many positions in 1x1 convolutions: oneDNN is slow for more."""

_LINE = 16
"""An image is cut into pieces of at least this many positions."""

_STEADY = 64.0
"""Up to this ratio of beta to gamma, dgamma is derived from the kernel's gradient."""


class UnitArrays(NamedTuple):
    gamma: Tensor
    beta: Tensor
    kernel: Any = None
    bias: Tensor | None = None


class Moments(NamedTuple):
    """Holds the mean and the biased variance of each channel."""

    mean: Tensor
    variance: Tensor

    def upto(self, channels: int) -> Moments:
        return Moments(self.mean[:channels], self.variance[:channels])


class NormAffine(NamedTuple):
    """Holds a norm as a scale and a shift of each channel, with the moments that it came from."""

    scale: Tensor
    shift: Tensor
    mean: Tensor
    inverse: Tensor

    @classmethod
    def of(cls, arrays: UnitArrays, moments: Moments, epsilon: float) -> NormAffine:
        inverse = (moments.variance + epsilon).rsqrt()
        scale = arrays.gamma * inverse
        return cls(scale, arrays.beta - moments.mean * scale, moments.mean, inverse)

    def __call__(self, x: Tensor, scratch: Scratch, *, relu: bool = True) -> Tensor:
        """Compute norm and ReLU of x (..., c), in the scratch buffer."""
        y = scratch.of(x.shape)
        torch.addcmul(self.shift, into(y, x), self.scale, out=y)
        return y.relu_() if relu else y

    def slope(
        self, t: Tensor, x: Tensor, dgamma: Tensor, dbeta: Tensor, scratch: Scratch
    ) -> Tensor:
        """Compute the gradient at the input x, which no other reads, of that at the output, ``t``.

        It is in scratch memory, or in that of t if the two are of different types.

        Args:
            dgamma, dbeta: The gradients of gamma and beta, divided by the number of values.
        """
        factor = -self.scale * dgamma * self.inverse
        shift = -self.scale * dbeta - self.mean * factor
        y = scratch.other(x.shape)
        torch.addcmul(shift, into(y, x), factor, out=y)
        return into(t, y.addcmul_(into(scratch.of(t.shape), t), self.scale))


class Scratch:
    """Holds memory for what is needed for a moment: fresh memory costs more than its use.

    Args:
        like: Values of the type of the features.
    """

    def __init__(self, like: Tensor, size: int) -> None:
        self._buffer = like.new_empty(size, dtype=exact(like.dtype))
        self._like, self._size = like, size

    @functools.cached_property
    def _narrow(self) -> Tensor:
        return self._like.new_empty(self._size)

    @functools.cached_property
    def _other(self) -> Tensor:
        return torch.empty_like(self._buffer)

    def of(self, shape: Sequence[int]) -> Tensor:
        return _shaped(self._buffer, shape)

    def other(self, shape: Sequence[int]) -> Tensor:
        return _shaped(self._other, shape)

    def narrowed(self, y: Tensor) -> Tensor:
        """Return values in the type of the features."""
        same = y.dtype == self._like.dtype
        return y if same else _shaped(self._narrow, y.shape).copy_(y)

    def widened(self, x: Tensor) -> Tensor:
        """Return values in the type in which norms and sums are computed."""
        return x if x.dtype == self._buffer.dtype else self.other(x.shape).copy_(x)


def _shaped(buffer: Tensor, shape: Sequence[int]) -> Tensor:
    return buffer[: math.prod(shape)].view(shape)


def into(memory: Tensor, value: Tensor) -> Tensor:
    """Return a value in the type of some memory: itself if it has that type, or a copy there."""
    return value if value.dtype == memory.dtype else memory.copy_(value)


class Sums:
    """Gathers sums over positions, chunk by chunk, that are the gradients of a unit's arrays.

    The kernel's gradient tells most of dgamma: sum_o kernel dkernel, over outputs and windows, is
    the sum of t (gamma (x - m) i + beta). Where gamma is too small to divide by, where there is no
    kernel, and where its gradient has 16 bits, dgamma is summed directly.
    """

    def __init__(self, norm: NormAffine, arrays: UnitArrays) -> None:
        self.norm, self.arrays = norm, arrays
        self.beta = torch.zeros_like(norm.mean)
        self.kernel: Tensor | None = None
        self.bias: Tensor | None = None
        gamma, beta, kernel, _ = arrays
        exactly = kernel is not None and kernel.dtype == gamma.dtype
        if not exactly or not on_cpu(gamma):  # elsewhere, to ask for values is slow
            self.direct = torch.arange(len(gamma), device=gamma.device)
        else:
            self.direct = (_STEADY * gamma.abs() <= beta.abs()).nonzero().flatten()
        self.products = gamma.new_zeros(len(self.direct))

    def add(
        self,
        t: Tensor,
        x: Tensor,
        spare: Tensor,
        kernel: Tensor | None = None,
        bias: Tensor | None = None,
    ) -> None:
        """Add a chunk's share; ``spare`` is memory of x's shape that may be written to."""
        t, x = _rows(t), _rows(x)
        self.beta += t.sum(0)
        if len(self.direct) == len(self.beta):
            y = _rows(spare)
            self.products += torch.mul(t, into(y, x), out=y).sum(0)
        elif len(self.direct):
            few = (a.index_select(1, self.direct) for a in (t, x))
            self.products += torch.mul(*few).sum(0)
        self.kernel = _plus(self.kernel, kernel)
        self.bias = _plus(self.bias, bias)

    def gradients(self) -> list[Tensor]:
        """Return the gradients of gamma, beta, the kernel and the bias, as far as there are any."""
        found = (self._gamma(), self.beta, self.kernel, self.bias)
        return [gradient for gradient in found if gradient is not None]

    def _gamma(self) -> Tensor:
        gamma, beta, kernel, _ = self.arrays
        if len(self.direct):
            means, inverses = self.norm.mean[self.direct], self.norm.inverse[self.direct]
            direct = (self.products - means * self.beta[self.direct]) * inverses
        if self.kernel is None:
            return direct
        products = (kernel * self.kernel).sum([0, *range(2, kernel.dim())])
        derived = (products - beta * self.beta) / gamma
        return derived.index_copy(0, self.direct, direct) if len(self.direct) else derived


def _plus(total: Tensor | None, part: Tensor | None) -> Tensor | None:
    if part is None:
        return total
    return part.to(exact(part.dtype)) if total is None else total.add_(part)


def exact(dtype: torch.dtype) -> torch.dtype:
    """Return the type in which norms and sums of values of a type are computed."""
    return torch.promote_types(dtype, torch.float32)


def masked(slope: Tensor, y: Tensor) -> Tensor:
    """Set a gradient to 0, in place, where a ReLU gave 0."""
    return torch.ops.aten.threshold_backward.grad_input(slope, y, 0, grad_input=slope)


def moments_of(parts: Sequence[Tensor]) -> Moments:
    """Compute the moments of contiguous chunks (n, *spatial, c), joined by Chan's rule."""
    found = [_own_moments(part) for part in parts]
    if len(found) == 1:
        return found[0]
    sizes = [part.numel() for part in parts]
    shares = found[0].mean.new_tensor([size / sum(sizes) for size in sizes])[:, None]
    means, variances = (torch.stack(column) for column in zip(*found, strict=True))
    mean = (shares * means).sum(0)
    return Moments(mean, (shares * (variances + (means - mean).square())).sum(0))


def _own_moments(x: Tensor) -> Moments:
    wide = exact(x.dtype)
    if not on_cpu(x):
        variance, mean = torch.var_mean(_rows(x).to(wide), 0, correction=0)
        return Moments(mean, variance)
    unused = [x.new_zeros(x.shape[-1], dtype=wide) for _ in range(2)]  # which tell the type
    return Moments(*torch.ops.aten.batch_norm_update_stats(first(x), *unused, 0.0))


def first(x: Tensor) -> Tensor:
    """View (n, *spatial, c) as (n, c, *spatial), in the same memory."""
    return x.movedim(-1, 1)


def last(x: Tensor) -> Tensor:
    """View (n, c, *spatial) as (n, *spatial, c), in the same memory."""
    return x.movedim(1, -1)


def _rows(x: Tensor) -> Tensor:
    return x.reshape(-1, x.shape[-1])


def _flat(x: Tensor) -> Tensor:
    """View (n, *spatial, c) as images of one line for 1x1 kernels: (images, c, 1, positions)."""
    positions = math.prod(x.shape[1:-1])
    divisors = (n for n in range(1, _IMAGE) if positions % n == 0 and positions // n <= _IMAGE)
    pieces = next(divisors, 1)
    pieces = pieces if positions // pieces >= _LINE else 1
    return first(x.reshape(len(x) * pieces, 1, positions // pieces, x.shape[-1]))


def _is_pointwise(kernel: Tensor) -> bool:
    return math.prod(kernel.shape[2:]) == 1


CONV: dict[int, Any] = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}


def conv(x: Tensor, arrays: UnitArrays, padding: tuple[int, ...]) -> Tensor:
    """Convolve (n, *spatial, c) with stride 1, into contiguous memory."""
    kernel, bias = arrays.kernel, arrays.bias
    if _is_pointwise(kernel):
        y = last(functional.conv2d(_flat(x), kernel.reshape(*kernel.shape[:2], 1, 1), bias))
        return y.reshape(*x.shape[:-1], y.shape[-1])
    y = CONV[len(padding)](first(x), kernel, bias, padding=padding)
    return last(y).contiguous()


def conv_slopes(
    slope: Tensor, x: Tensor, arrays: UnitArrays, padding: tuple[int, ...]
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Compute the gradients of a convolution's input, kernel and bias."""
    kernel, wanted = arrays.kernel, arrays.bias is not None
    if _is_pointwise(kernel):
        flat = kernel.reshape(*kernel.shape[:2], 1, 1)
        dx, dk, db = _convolution_backward(_flat(slope), _flat(x), flat, (0, 0), wanted)
        return last(dx).reshape(x.shape), dk.reshape(kernel.shape), db
    dx, dk, db = _convolution_backward(first(slope), first(x), kernel, padding, wanted)
    return last(dx).contiguous(), dk, db


def _convolution_backward(
    slope: Tensor, x: Tensor, kernel: Tensor, padding: tuple[int, ...], bias: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    ones, zeros, sizes = [1] * len(padding), [0] * len(padding), [len(kernel)] if bias else None
    dx, dk, db = torch.ops.aten.convolution_backward(
        slope, x, kernel, sizes, ones, padding, ones, False, zeros, 1, [True, True, bias]
    )
    return dx, dk, db if bias else None


def avg_pool(x: Tensor) -> Tensor:
    """Average windows of 2 in each dimension of (n, c, *spatial)."""
    if x.dim() == 5:
        return functional.avg_pool3d(x, 2)
    if x.dim() == 4:
        return functional.avg_pool2d(x, 2)
    return functional.avg_pool2d(x.unsqueeze(2), (1, 2)).squeeze(2)


def avg_pool_slope(slope: Tensor, x: Tensor) -> Tensor:
    """Compute the gradient of that pool's input x (n, *spatial, c), in x's layout."""
    x = first(x)
    if x.dim() == 3:
        window, stretched = [1, 2], (slope.unsqueeze(2), x.unsqueeze(2))
    else:
        window, stretched = [2] * (x.dim() - 2), (slope, x)
    backward = (
        torch.ops.aten.avg_pool3d_backward if x.dim() == 5 else torch.ops.aten.avg_pool2d_backward
    )
    dx = backward(*stretched, window, window, [0] * len(window), False, True, None)
    return last(dx.reshape(x.shape))


def on_cpu(x: Tensor) -> bool:
    return x.device.type == "cpu"


def chunks_of(x: Tensor, width: int) -> tuple[list[slice], Scratch]:
    """Cut x (n, *spatial, c) into chunks of samples, and give scratch memory for a chunk.

    With ``width`` channels a chunk has up to ``CHUNK`` bytes, unless one sample has more. Other
    devices than processors take all samples at once.
    """
    samples, *spatial, _ = x.shape
    size = math.prod(spatial) * width
    chunk = max(1, CHUNK // (size * exact(x.dtype).itemsize)) if on_cpu(x) else samples
    cuts = [slice(start, start + chunk) for start in range(0, samples, chunk)]
    return cuts, Scratch(x, min(chunk, samples) * size)
