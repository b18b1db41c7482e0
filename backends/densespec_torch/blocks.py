"""Computes a dense block as one differentiable function, channels last, in one buffer of features.

The layers of a block read the same features, and their norms the same statistics. So the features
stand in one buffer, in which nothing is concatenated; the statistics of each are taken once; and in
the backward pass one buffer gathers the gradients, where the parts that come from statistics are
applied once for all readers of a feature. The outputs of norms and ReLUs are computed again in the
backward pass, and so is, if asked for, the output of a bottleneck's first convolution.

For readers c of a feature x with mean m, inverse deviation i and n values, and t_c the gradient at
the norm's output, masked by the ReLU::

    dx = sum_c gamma_c i t_c - A - (x - m) B
    A = sum_c gamma_c i dbeta_c / n,  B = sum_c gamma_c i^2 dgamma_c / n
    dbeta_c = sum t_c,  dgamma_c = sum t_c (x - m) i

Under autocast the features, what convolutions read and what they give have 16 bits. Norms, their
statistics, the gradients of features and all sums are computed in float32.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from densespec_torch.primitives import (
    Moments,
    NormAffine,
    Scratch,
    Sums,
    UnitArrays,
    avg_pool,
    avg_pool_slope,
    chunks_of,
    conv,
    conv_slopes,
    exact,
    first,
    into,
    last,
    masked,
    moments_of,
)


@dataclass(frozen=True)
class UnitConfig:
    """Says how a unit is computed: a norm, its ReLU, a stride-1 convolution and perhaps a dropout.

    Attributes:
        padding: The padding of each dimension, on both sides.
        kept: The values that the dropout keeps, (n, *spatial, c); None stands for all.
        scale: The factor of the dropout on these values.
    """

    epsilon: float
    padding: tuple[int, ...]
    bias: bool
    kept: Tensor | None = None
    scale: Tensor | None = None

    @property
    def arrays(self) -> int:
        return 4 if self.bias else 3

    def dropped(self, value: Tensor, cut: slice) -> Tensor:
        """Apply the dropout to a chunk, or to the gradient of one."""
        if self.kept is None or self.scale is None:
            return value
        return value * (self.kept[cut] * self.scale)


@dataclass(frozen=True)
class TailConfig:
    """Says how the only reader of a block is computed: a norm, and with a transition more."""

    epsilon: float
    relu: bool
    pool: bool


@dataclass(frozen=True)
class BlockConfig:
    """Says how a block and its tail are computed.

    Attributes:
        layers: The units of each layer: one or, with a bottleneck, two.
        keep: Whether the outputs of first convolutions are kept for the backward pass.
    """

    layers: tuple[tuple[UnitConfig, ...], ...]
    tail: TailConfig | None
    keep: bool

    def grouped(
        self, arrays: Sequence[Tensor], dtype: torch.dtype
    ) -> tuple[list[list[UnitArrays]], UnitArrays | None]:
        """Group a flat sequence of arrays by layer and unit, and give the tail's.

        Args:
            dtype: The type of the features, in which convolutions have their arrays.
        """
        rest = iter(arrays)

        def take(count: int) -> UnitArrays:
            gamma, beta, *convs = (next(rest) for _ in range(count))
            return UnitArrays(gamma, beta, *(array.to(dtype) for array in convs))

        layers = [[take(unit.arrays) for unit in units] for units in self.layers]
        return layers, take(2) if self.tail else None


class FusedBlock(torch.autograd.Function):
    """Computes a block, as this module describes it.

    ``apply(block, x, *arrays)`` of x (n, c, *spatial) gives the value, and then the mean and biased
    variance of the features and of each second norm's input, which have no gradients.
    """

    @staticmethod
    def forward(ctx: Any, block: BlockConfig, x: Tensor, *arrays: Tensor) -> tuple[Tensor, ...]:
        run = _BlockForward(block, x, arrays)
        value = run.value()
        moments = [run.moments, *run.inner]
        statistics = [tensor for pair in moments for tensor in pair]
        ctx.block, ctx.kept = block, [len(parts or ()) for parts in run.between]
        kept = [part for parts in run.between for part in parts or ()]
        ctx.save_for_backward(run.features, *run.arrays, *statistics, *kept)
        ctx.entry = x.shape[1]
        ctx.mark_non_differentiable(*statistics)
        ctx.set_materialize_grads(False)
        return value, *statistics

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor | None, *_unused: Tensor) -> tuple[Tensor | None, ...]:
        if slope is None:
            return (None,) * len(ctx.needs_input_grad)
        features, *rest = ctx.saved_tensors
        count = len(ctx.needs_input_grad) - 2
        arrays, rest = rest[:count], rest[count:]
        pairs = 1 + len(ctx.kept)
        moments = [Moments(rest[2 * i], rest[2 * i + 1]) for i in range(pairs)]
        kept = iter(rest[2 * pairs :])
        between = [[next(kept) for _ in range(n)] for n in ctx.kept]
        run = _BlockBackward(ctx.block, features, arrays, moments, between)
        entry, gradients = run.gradients(slope, ctx.entry)
        return None, entry, *gradients


class _BlockPass:
    """Holds what both passes have: the features, cut into chunks of samples, and scratch memory."""

    def __init__(self, block: BlockConfig, features: Tensor, arrays: Sequence[Tensor]) -> None:
        self.block, self.features = block, features
        self.layers, self.tail = block.grouped(arrays, features.dtype)
        self.channels = features.shape[-1]
        widest = max([self.channels, *(len(unit.gamma) for units in self.layers for unit in units)])
        self.cuts, self.scratch = chunks_of(features, widest)

    @property
    def arrays(self) -> list[Tensor]:
        """Return all arrays as they are used, in the order in which they are given."""
        units = [unit for units in self.layers for unit in units]
        units += [self.tail] if self.tail else []
        return [array for unit in units for array in unit if array is not None]

    def chunks(self, channels: int) -> Iterator[Tensor]:
        """Yield the first channels of the features of each chunk: (samples, *spatial, channels)."""
        return (self.features[cut, ..., :channels] for cut in self.cuts)

    def convolved(
        self, xs: Iterable[Tensor], unit: UnitConfig, arrays: UnitArrays, norm: NormAffine
    ) -> list[Tensor]:
        """Compute norm, ReLU, convolution and dropout of each chunk."""
        pairs = zip(self.cuts, xs, strict=True)
        return [
            unit.dropped(
                conv(self.scratch.narrowed(norm(x, self.scratch)), arrays, unit.padding), cut
            )
            for cut, x in pairs
        ]


class _BlockForward(_BlockPass):
    """Computes the forward pass.

    Attributes:
        moments: The moments of the features.
        inner: The moments of each second norm's input.
        between: That input in chunks, by layer; None if it is not kept.
    """

    def __init__(self, block: BlockConfig, x: Tensor, arrays: Sequence[Tensor]) -> None:
        layers, _ = block.grouped(arrays, x.dtype)
        entry = x.shape[1]
        channels = entry + sum(units[-1].kernel.shape[0] for units in layers)
        super().__init__(block, x.new_empty(len(x), *x.shape[2:], channels), arrays)
        wide = exact(x.dtype)
        self.moments = Moments(*(x.new_empty(channels, dtype=wide) for _ in range(2)))
        self.inner: list[Moments] = []
        self.between: list[list[Tensor] | None] = []
        self._filled = 0
        self._add([last(x[cut]).contiguous() for cut in self.cuts])
        for units, weights in zip(block.layers, self.layers, strict=True):
            self._layer(units, weights)

    def _add(self, new: list[Tensor]) -> None:
        start, self._filled = self._filled, self._filled + new[0].shape[-1]
        for cut, value in zip(self.cuts, new, strict=True):
            self.features[cut, ..., start : self._filled] = value
        for all_channels, own in zip(self.moments, moments_of(new), strict=True):
            all_channels[start : self._filled] = own

    def _layer(self, units: tuple[UnitConfig, ...], weights: list[UnitArrays]) -> None:
        norm = NormAffine.of(weights[0], self.moments.upto(self._filled), units[0].epsilon)
        values = self.convolved(self.chunks(self._filled), units[0], weights[0], norm)
        if len(units) == 2:
            moments = moments_of(values)
            self.inner.append(moments)
            self.between.append(values if self.block.keep else None)
            norm = NormAffine.of(weights[1], moments, units[1].epsilon)
            values = self.convolved(values, units[1], weights[1], norm)
        self._add(values)

    def value(self) -> Tensor:
        """Compute the features, or what the tail makes of them: (n, c, *spatial)."""
        if self.block.tail is None or self.tail is None:
            return first(self.features)
        tail = self.block.tail
        norm = NormAffine.of(self.tail, self.moments, tail.epsilon)
        parts = []
        for x in self.chunks(self.channels):
            scratch = self.scratch if tail.pool else Scratch(x, x.numel())
            y = first(norm(x, scratch, relu=tail.relu))
            parts.append((avg_pool(y) if tail.pool else y).to(x.dtype))
        return parts[0] if len(parts) == 1 else torch.cat(parts)


class _BlockBackward(_BlockPass):
    """Computes the backward pass.

    ``slopes`` gathers the gradients of the features, without what comes from their statistics: that
    is ``along`` and ``stretch``, A and B above.
    """

    def __init__(
        self,
        block: BlockConfig,
        features: Tensor,
        arrays: Sequence[Tensor],
        moments: Sequence[Moments],
        between: Sequence[list[Tensor]],
    ) -> None:
        super().__init__(block, features, arrays)
        self.moments, self.inner, self.between = moments[0], list(moments[1:]), list(between)
        self.count = features.numel() // self.channels
        self.slopes = torch.empty_like(features, dtype=exact(features.dtype))
        self.along, self.stretch = (torch.zeros_like(self.moments.mean) for _ in range(2))

    def gradients(self, slope: Tensor, entry: int) -> tuple[Tensor, list[Tensor]]:
        """Compute the gradients of the block's input, of ``entry`` channels, and of all arrays."""
        found = [self._tail(slope)]
        end = self.channels
        for units, weights in zip(reversed(self.block.layers), reversed(self.layers), strict=True):
            start = end - weights[-1].kernel.shape[0]
            found.append(self._layer(units, weights, self._taken(start, end)))
            end = start
        entries = self._taken(0, entry)
        whole = entries[0] if len(entries) == 1 else torch.cat(entries)
        return first(whole), [gradient for part in reversed(found) for gradient in part]

    def _taken(self, start: int, end: int) -> list[Tensor]:
        """Return the gradients of features whose readers are all done, in chunks."""
        own = slice(start, end)
        factor = -self.stretch[own]
        shift = -self.along[own] - self.moments.mean[own] * factor
        pairs = ((self.slopes[cut, ..., own], self.features[cut, ..., own]) for cut in self.cuts)
        return [torch.addcmul(slope, x, factor).add_(shift).to(x.dtype) for slope, x in pairs]

    def _note(self, norm: NormAffine, dgamma: Tensor, dbeta: Tensor) -> None:
        """Add a reader's share to what comes from the statistics."""
        channels, share = len(dbeta), norm.scale / self.count
        self.along[:channels].addcmul_(share, dbeta)
        self.stretch[:channels].addcmul_(share * norm.inverse, dgamma)

    def _tail(self, slope: Tensor) -> list[Tensor]:
        tail = self.block.tail
        if tail is None or self.tail is None:
            self.slopes.copy_(last(slope))
            return []
        norm = NormAffine.of(self.tail, self.moments, tail.epsilon)
        sums = Sums(norm, self.tail)
        for cut, x in zip(self.cuts, self.chunks(self.channels), strict=True):
            y = norm(x, self.scratch, relu=tail.relu)
            wide = slope[cut].to(y.dtype)
            t = avg_pool_slope(wide, y) if tail.pool else last(wide).clone()
            t = masked(t, y) if tail.relu else t
            sums.add(t, x, y)
            torch.mul(t, norm.scale, out=self.slopes[cut])
        gradients = sums.gradients()
        self._note(norm, *gradients)
        return gradients

    def _layer(
        self, units: tuple[UnitConfig, ...], weights: list[UnitArrays], slopes: list[Tensor]
    ) -> list[Tensor]:
        """Compute the gradients of a layer's arrays, given those of its output."""
        channels = len(weights[0].gamma)
        norm = NormAffine.of(weights[0], self.moments.upto(channels), units[0].epsilon)
        later: list[Tensor] = []
        passed: Iterable[Tensor] = slopes
        if len(units) == 2:
            xs = self.between.pop() or self.convolved(
                self.chunks(channels), units[0], weights[0], norm
            )
            inner = NormAffine.of(weights[1], self.inner.pop(), units[1].epsilon)
            sums = Sums(inner, weights[1])
            pairs = self._unit(xs, slopes, units[1], weights[1], sums)
            ts = [into(memory, t) for memory, t in pairs]
            later = sums.gradients()
            passed = self._through(inner, ts, xs, *later[:2])
        sums = Sums(norm, weights[0])
        slopes_of_norm = self._unit(self.chunks(channels), passed, units[0], weights[0], sums)
        for cut, (_, t) in zip(self.cuts, slopes_of_norm, strict=True):
            self.slopes[cut, ..., :channels].addcmul_(t, norm.scale)
        gradients = sums.gradients()
        self._note(norm, *gradients[:2])
        return gradients + later

    def _unit(
        self,
        xs: Iterable[Tensor],
        slopes: Iterable[Tensor],
        unit: UnitConfig,
        arrays: UnitArrays,
        sums: Sums,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Compute gradients at the norm's output, masked by the ReLU, of those at the unit's.

        Each comes with memory in which it can be kept; otherwise the next takes its place.
        """
        for cut, x, slope in zip(self.cuts, xs, slopes, strict=True):
            dropped = unit.dropped(slope, cut)
            y = sums.norm(x, self.scratch)
            t, kernel, bias = conv_slopes(dropped, self.scratch.narrowed(y), arrays, unit.padding)
            wide = masked(self.scratch.widened(t), y)
            sums.add(wide, x, y, kernel, bias)
            yield t, wide

    def _through(
        self, norm: NormAffine, ts: list[Tensor], xs: list[Tensor], dgamma: Tensor, dbeta: Tensor
    ) -> Iterator[Tensor]:
        """Compute gradients at the input of a second norm, whose input no other reads."""
        for t, x in zip(ts, xs, strict=True):
            yield norm.slope(t, x, dgamma / self.count, dbeta / self.count, self.scratch)
