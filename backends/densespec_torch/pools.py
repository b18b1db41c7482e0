"""Computes the end of a stem as one differentiable function: a norm, a ReLU and a max pool.

The maps before the pool are the largest of a network. The ReLU comes after the pool here, which
gives the same result. The output of the norm is computed again in the backward pass.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from densespec_torch.primitives import (
    Moments,
    NormAffine,
    Sums,
    UnitArrays,
    chunks_of,
    first,
    last,
    masked,
    moments_of,
)


@dataclass(frozen=True)
class NormPool:
    """Says how a norm, a ReLU and a max pool of two dimensions are computed."""

    epsilon: float
    window: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]

    def pooled(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the maxima of y (n, h, w, c), and where they are."""
        values, places = functional.max_pool2d(
            first(y), self.window, self.stride, self.padding, return_indices=True
        )
        return values, places

    def unpooled(self, slope: Tensor, y: Tensor, places: Tensor) -> Tensor:
        """Compute the gradient of y."""
        ones = [1, 1]
        dy = torch.ops.aten.max_pool2d_with_indices_backward(
            slope, first(y), self.window, self.stride, self.padding, ones, False, places
        )
        return last(dy).contiguous()


class FusedPool(torch.autograd.Function):
    """Computes the end of a stem, as this module describes it.

    ``apply(op, x, gamma, beta)`` of x (n, c, h, w) gives the value, and the mean and biased
    variance of x, which have no gradients.
    """

    @staticmethod
    def forward(
        ctx: Any, op: NormPool, x: Tensor, gamma: Tensor, beta: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        xs = last(x).contiguous()
        cuts, scratch = chunks_of(xs, x.shape[1])
        moments = moments_of([xs[cut] for cut in cuts])
        norm = NormAffine.of(UnitArrays(gamma, beta), moments, op.epsilon)
        values = (op.pooled(norm(xs[cut], scratch, relu=False))[0] for cut in cuts)
        parts = [value.relu_().to(x.dtype) for value in values]
        ctx.op = op
        ctx.save_for_backward(xs, gamma, beta, *moments)
        ctx.mark_non_differentiable(*moments)
        ctx.set_materialize_grads(False)
        return parts[0] if len(parts) == 1 else torch.cat(parts), *moments

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor | None, *_unused: Tensor) -> tuple[Tensor | None, ...]:
        if slope is None:
            return None, None, None, None
        xs, gamma, beta, *moments = ctx.saved_tensors
        cuts, scratch = chunks_of(xs, xs.shape[-1])
        arrays = UnitArrays(gamma, beta)
        norm = NormAffine.of(arrays, Moments(*moments), ctx.op.epsilon)
        sums, ts = Sums(norm, arrays), []
        for cut in cuts:
            y = norm(xs[cut], scratch, relu=False)
            values, places = ctx.op.pooled(y)
            t = ctx.op.unpooled(masked(slope[cut].to(y.dtype, copy=True), values), y, places)
            sums.add(t, xs[cut], y)
            ts.append(t)
        dgamma, dbeta = sums.gradients()
        if not ctx.needs_input_grad[1]:
            return None, None, dgamma, dbeta
        dx, count = torch.empty_like(xs), xs.numel() // xs.shape[-1]
        for cut, t in zip(cuts, ts, strict=True):
            dx[cut] = norm.slope(t, xs[cut], dgamma / count, dbeta / count, scratch)
        return None, first(dx), dgamma, dbeta
