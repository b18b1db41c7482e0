"""Computes a batch norm and the ReLU behind it in as few passes over memory as can be, in Triton.

PyTorch computes them one after the other. Here both passes read their inputs twice, once for sums
and once for values, and the ReLU is part of each. Values are rows of channels, as channels_last has
them in memory.

For n rows of an input x with mean m and inverse deviation i, and the gradient t at the norm's
output, masked by the ReLU::

    dbeta = sum t,  dgamma = sum t (x - m) i
    dx = gamma i (t - dbeta / n - (x - m) i dgamma / n)

Sums are computed in float32, or in float64 for values of that type. Moments of parts of the rows
are joined by Chan's rule, which loses no digits.

Triton comes with PyTorch for GPUs. Where the environment variable ``TRITON_INTERPRET`` is 1, its
interpreter computes on the CPU, slowly, for proofs.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from densespec_torch.primitives import exact, first, last

_ROWS, _CHANNELS = 64, 32
"""A program works on tiles of this size."""

_PROGRAMS = 512
"""Sums are cut for about this many programs, which is more than GPUs run at a time."""

_MOST_PARTS = 64
"""The rows of a sum are cut into at most this many parts, which one program then joins."""


@triton.jit
def _tile(start, rows, channels, tile_rows: tl.constexpr, own):
    """Return the places of a tile's values, and which of them there are."""
    row = start + tl.arange(0, tile_rows)
    places = row[:, None].to(tl.int64) * channels + own[None, :]
    return places, (row[:, None] < rows) & (own[None, :] < channels)


@triton.jit
def _own_channels(program, width: tl.constexpr):
    return program * width + tl.arange(0, width)


@triton.jit
def _masked_slope(slope, y, places, inside, kind: tl.constexpr):
    """Return the gradient t of a tile."""
    passed = tl.load(y + places, mask=inside, other=0.0) > 0
    return tl.where(passed, tl.load(slope + places, mask=inside, other=0.0).to(kind), 0.0)


@triton.jit
def _part_moments(
    x, counts, means, squares, rows, channels, tile_rows: tl.constexpr, width: tl.constexpr
):
    """Compute the size of a part of the rows, its mean and the sum of squares about that."""
    part, parts = tl.program_id(0), tl.num_programs(0)
    own = _own_channels(tl.program_id(1), width)
    kind: tl.constexpr = means.dtype.element_ty
    count = tl.zeros((1,), kind)
    mean = tl.zeros((width,), kind)
    square = tl.zeros((width,), kind)
    for start in range(part * tile_rows, rows, parts * tile_rows):
        places, inside = _tile(start, rows, channels, tile_rows, own)
        values = tl.load(x + places, mask=inside, other=0.0).to(kind)
        size = tl.minimum(rows - start, tile_rows).to(kind)
        tile_mean = tl.sum(values, 0) / size
        away = tl.where(inside, values - tile_mean[None, :], 0.0)
        share = size / (count + size)
        apart = tile_mean - mean
        square += tl.sum(away * away, 0) + apart * apart * count * share
        mean += apart * share
        count += size
    tl.store(means + part * channels + own, mean, mask=own < channels)
    tl.store(squares + part * channels + own, square, mask=own < channels)
    tl.store(counts + part + tl.arange(0, 1), count)


@triton.jit
def _joined_moments(
    counts,
    means,
    squares,
    mean,
    variance,
    inverse,
    rows,
    channels,
    parts,
    epsilon: tl.constexpr,
    most_parts: tl.constexpr,
    width: tl.constexpr,
):
    """Join the moments of all parts: mean, biased variance and inverse deviation."""
    own = _own_channels(tl.program_id(0), width)
    part = tl.arange(0, most_parts)
    places, inside = _tile(0, parts, channels, most_parts, own)
    shares = tl.load(counts + part, mask=part < parts, other=0.0)[:, None] / rows
    part_means = tl.load(means + places, mask=inside, other=0.0)
    part_squares = tl.load(squares + places, mask=inside, other=0.0)
    joined = tl.sum(part_means * shares, 0)
    away = part_means - joined[None, :]
    spread = tl.sum(part_squares / rows + shares * away * away, 0)
    steady = spread + tl.full((width,), epsilon, mean.dtype.element_ty)
    tl.store(mean + own, joined, mask=own < channels)
    tl.store(variance + own, spread, mask=own < channels)
    tl.store(inverse + own, 1.0 / tl.sqrt(steady), mask=own < channels)


@triton.jit
def _values(
    x,
    y,
    gamma,
    beta,
    mean,
    inverse,
    rows,
    channels,
    tile_rows: tl.constexpr,
    width: tl.constexpr,
):
    """Compute the norm and the ReLU of a tile."""
    own = _own_channels(tl.program_id(1), width)
    places, inside = _tile(tl.program_id(0) * tile_rows, rows, channels, tile_rows, own)
    there = own < channels
    m = tl.load(mean + own, mask=there, other=0.0)
    scale = tl.load(gamma + own, mask=there, other=0.0) * tl.load(
        inverse + own, mask=there, other=0.0
    )
    shift = tl.load(beta + own, mask=there, other=0.0)
    away = tl.load(x + places, mask=inside, other=0.0).to(mean.dtype.element_ty) - m[None, :]
    z = tl.maximum(away * scale[None, :] + shift[None, :], 0.0)
    tl.store(y + places, z.to(y.dtype.element_ty), mask=inside)


@triton.jit
def _part_sums(
    x, y, slope, sums, mean, rows, channels, tile_rows: tl.constexpr, width: tl.constexpr
):
    """Compute the sums of t and of t (x - m) over a part of the rows."""
    part, parts = tl.program_id(0), tl.num_programs(0)
    own = _own_channels(tl.program_id(1), width)
    kind: tl.constexpr = sums.dtype.element_ty
    m = tl.load(mean + own, mask=own < channels, other=0.0)
    plain = tl.zeros((width,), kind)
    products = tl.zeros((width,), kind)
    for start in range(part * tile_rows, rows, parts * tile_rows):
        places, inside = _tile(start, rows, channels, tile_rows, own)
        t = _masked_slope(slope, y, places, inside, kind)
        away = tl.load(x + places, mask=inside, other=0.0).to(kind) - m[None, :]
        plain += tl.sum(t, 0)
        products += tl.sum(t * away, 0)
    places = part * channels + own
    tl.store(sums + places, plain, mask=own < channels)
    tl.store(sums + parts * channels + places, products, mask=own < channels)


@triton.jit
def _joined_sums(
    sums, dbeta, dgamma, inverse, channels, parts, most_parts: tl.constexpr, width: tl.constexpr
):
    """Join the sums of all parts: the gradients of beta and gamma."""
    own = _own_channels(tl.program_id(0), width)
    places, inside = _tile(0, parts, channels, most_parts, own)
    plain = tl.sum(tl.load(sums + places, mask=inside, other=0.0), 0)
    products = tl.sum(tl.load(sums + parts * channels + places, mask=inside, other=0.0), 0)
    i = tl.load(inverse + own, mask=own < channels, other=0.0)
    tl.store(dbeta + own, plain, mask=own < channels)
    tl.store(dgamma + own, products * i, mask=own < channels)


@triton.jit
def _slopes(
    x,
    y,
    slope,
    dx,
    gamma,
    dgamma,
    dbeta,
    mean,
    inverse,
    rows,
    channels,
    tile_rows: tl.constexpr,
    width: tl.constexpr,
):
    """Compute the gradient of a tile of the input."""
    own = _own_channels(tl.program_id(1), width)
    places, inside = _tile(tl.program_id(0) * tile_rows, rows, channels, tile_rows, own)
    there = own < channels
    kind: tl.constexpr = mean.dtype.element_ty
    i = tl.load(inverse + own, mask=there, other=0.0)
    scale = tl.load(gamma + own, mask=there, other=0.0) * i
    along = tl.load(dbeta + own, mask=there, other=0.0) / rows
    stretch = tl.load(dgamma + own, mask=there, other=0.0) * i / rows
    m = tl.load(mean + own, mask=there, other=0.0)
    t = _masked_slope(slope, y, places, inside, kind)
    away = tl.load(x + places, mask=inside, other=0.0).to(kind) - m[None, :]
    found = scale[None, :] * (t - along[None, :] - away * stretch[None, :])
    tl.store(dx + places, found.to(dx.dtype.element_ty), mask=inside)


class NormRelu(torch.autograd.Function):
    """Computes the ReLU of a norm by the statistics of the batch, as this module describes it.

    ``apply(epsilon, x, gamma, beta)`` of x (n, c, *spatial) gives the value, and then the mean and
    the biased variance of each channel, which have no gradients.
    """

    @staticmethod
    def forward(
        ctx: Any, epsilon: float, x: Tensor, gamma: Tensor, beta: Tensor
    ) -> tuple[Tensor, ...]:
        values = last(x).contiguous()
        rows, channels = _size(values)
        mean, variance, inverse = _moments(values, epsilon)
        y = torch.empty_like(values)
        _values[_tiles(values)](
            values, y, gamma, beta, mean, inverse, rows, channels, _ROWS, _CHANNELS
        )
        ctx.save_for_backward(values, y, gamma, mean, inverse)
        ctx.mark_non_differentiable(mean, variance)
        ctx.set_materialize_grads(False)
        return first(y), mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor | None, *_unused: Tensor) -> tuple[Tensor | None, ...]:
        if slope is None:
            return (None,) * 4
        x, y, gamma, mean, inverse = ctx.saved_tensors
        given, (rows, channels), parts = last(slope).contiguous(), _size(x), _parts(x)
        across = triton.cdiv(channels, _CHANNELS)
        sums = mean.new_empty(2, parts, channels)
        _part_sums[(parts, across)](x, y, given, sums, mean, rows, channels, _ROWS, _CHANNELS)
        dbeta, dgamma = mean.new_empty(2, channels)
        power = triton.next_power_of_2(parts)
        _joined_sums[(across,)](sums, dbeta, dgamma, inverse, channels, parts, power, _CHANNELS)
        dx, arrays = torch.empty_like(x), (gamma, dgamma, dbeta, mean, inverse)
        _slopes[_tiles(x)](x, y, given, dx, *arrays, rows, channels, _ROWS, _CHANNELS)
        return None, first(dx), dgamma, dbeta


def _moments(x: Tensor, epsilon: float) -> Tensor:
    """Compute the mean, the biased variance and the inverse deviation of each channel: (3, c).

    Args:
        x: (n, *spatial, c), contiguous.
    """
    (rows, channels), parts, wide = _size(x), _parts(x), exact(x.dtype)
    counts = x.new_empty(parts, dtype=wide)
    means, squares = x.new_empty(2, parts, channels, dtype=wide)
    across = triton.cdiv(channels, _CHANNELS)
    _part_moments[(parts, across)](x, counts, means, squares, rows, channels, _ROWS, _CHANNELS)
    found, power = x.new_empty(3, channels, dtype=wide), triton.next_power_of_2(parts)
    _joined_moments[(across,)](
        counts, means, squares, *found, rows, channels, parts, epsilon, power, _CHANNELS
    )
    return found


def _size(x: Tensor) -> tuple[int, int]:
    return x.numel() // x.shape[-1], x.shape[-1]


def _tiles(x: Tensor) -> tuple[int, int]:
    rows, channels = _size(x)
    return triton.cdiv(rows, _ROWS), triton.cdiv(channels, _CHANNELS)


def _parts(x: Tensor) -> int:
    """Return into how many parts the rows of a sum are cut."""
    down, across = _tiles(x)
    return max(1, min(down, _MOST_PARTS, _PROGRAMS // across))
