"""Lists what a convolution or a linear layer may do instead."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from densespec.network import ops
from densespec.reference.kernels import Array, Context, windows_of
from densespec_conformance.explaining.local.alternatives.alternative import (
    Alternative,
    Forward,
    Observation,
    by_channel,
    own,
    with_arrays,
)
from densespec_conformance.explaining.local.alternatives.padding import other_pads, pads_of

MODES = {
    "reflect": "the padding mirrors the picture",
    "edge": "the padding repeats the edge",
    "wrap": "the padding comes from the other side",
}


def kernels(seen: Observation) -> Iterator[Alternative]:
    """Find another kernel that is made of the op's own."""
    kernel = seen.context.weights["kernel"]
    for words, other in _turned(kernel):
        if other.shape == kernel.shape and not np.array_equal(other, kernel):
            yield Alternative(words, with_arrays(kernel=other))


def _turned(kernel: Array) -> Iterator[tuple[str, Array]]:
    spatial = tuple(range(2, kernel.ndim))
    if spatial:
        yield "the kernel is flipped", np.flip(kernel, spatial)
        for axis in spatial[: 0 if len(spatial) < 2 else None]:
            yield f"the kernel is flipped along spatial axis {axis - 2}", np.flip(kernel, axis)
    for one, other in itertools.combinations(spatial, 2):
        words = f"spatial axes {one - 2} and {other - 2} of the kernel are exchanged"
        yield words, np.swapaxes(kernel, one, other)
    yield "inputs and outputs of the kernel are exchanged", np.swapaxes(kernel, 0, 1)
    same = kernel.reshape(kernel.shape[1], kernel.shape[0], *kernel.shape[2:])
    yield "the kernel is read in another order of axes", np.swapaxes(same, 0, 1)
    yield "the input's channels are read in reverse", kernel[:, ::-1]
    yield "the filters are in reverse order", kernel[::-1]
    yield "the kernel is centred", kernel - kernel.mean(tuple(range(1, kernel.ndim)), keepdims=True)


def of_others(seen: Observation) -> Iterator[Alternative]:
    """Find the kernel of another op."""
    kernel, own_name = seen.context.weights["kernel"], f"{seen.node.name}.kernel"
    for name, other in seen.weights.items():
        if name.endswith(".kernel") and other.shape == kernel.shape and name != own_name:
            words = f"the kernel is that of {name.removesuffix('.kernel')}"
            yield Alternative(words, with_arrays(kernel=other))


def paddings(seen: Observation) -> Iterator[Alternative]:
    """Find other places of the padding, or other values in it."""
    op = seen.op
    if not isinstance(op, ops.Conv):
        return
    pads = pads_of(seen)
    if pads is None:
        return
    for words, other in other_pads(pads, seen):
        if other != pads:
            yield Alternative(words, _padded(other))
    for mode, words in MODES.items():
        if any(map(any, pads)):
            yield Alternative(words, _filled(pads, mode))
    if math.prod(op.window) > 1:
        yield Alternative("the kernel is dilated by 2", _dilated)


def _padded(pads: Any) -> Forward:
    return lambda op, ctx, x: own(replace(op, padding=pads), ctx, x)


def _filled(pads: ops.Pads, mode: Any) -> Forward:
    def forward(op: ops.Conv, ctx: Context, x: Array) -> Array:
        bare = replace(op, padding=((0, 0),) * len(op.window))
        return own(bare, ctx, np.pad(x, ((0, 0), (0, 0), *pads), mode=mode))

    return forward


def _dilated(op: ops.Conv, ctx: Context, x: Array) -> Array:
    """Convolve with a kernel between whose values stand zeros; the output keeps its size."""
    kernel = ctx.weights["kernel"]
    wide = np.zeros((*kernel.shape[:2], *(2 * n - 1 for n in kernel.shape[2:])))
    wide[(slice(None), slice(None), *[slice(None, None, 2)] * len(op.window))] = kernel
    pads = tuple((w - 1, w - 1) for w in op.window)
    padded = np.pad(x, ((0, 0), (0, 0), *pads))
    windows = windows_of(padded, wide.shape[2:], op.stride)
    places = range(windows.ndim - len(op.window), windows.ndim)
    y = np.tensordot(windows, wide, ([1, *places], range(1, 2 + len(op.window))))
    y = np.moveaxis(y, -1, 1)
    return y + by_channel(ctx.weights["bias"], y) if op.bias else y


def biases(seen: Observation) -> Iterator[Alternative]:
    """Find a bias that is another one, or that should not be there."""
    if "bias" in seen.context.weights:
        zero = np.zeros_like(seen.context.weights["bias"])
        yield Alternative("the bias is left out", with_arrays(bias=zero))
    if seen.pair is None:
        return
    x, y = seen.pair
    expected = own(seen.op, seen.context, x)
    if y.shape != expected.shape:
        return
    offset = _mean_of_near(y - expected)
    known = "bias" in seen.context.weights
    words = "the bias is another one" if known else "a bias is added"

    def forward(op: Any, ctx: Context, *inputs: Array) -> Array:
        value = own(op, ctx, *inputs)
        return value + by_channel(offset, value)

    yield Alternative(words, forward)


def _mean_of_near(values: Array) -> Array:
    """Average the values of each channel, which are nearly equal, without the rounding of sums."""
    one: Any = (slice(0, 1), slice(None), *[slice(0, 1)] * (values.ndim - 2))
    moved = values - values[one]
    return values[one].ravel() + moved.mean((0, *range(2, values.ndim)))


FIND = (kernels, paddings, of_others, biases)
