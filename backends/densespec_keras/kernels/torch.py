"""Computes on PyTorch with the kernels of ``torch.nn``'s own modes, which ``densespec_torch`` has.

PyTorch calls the layout (batch, *spatial, channels) channels_last of (batch, channels, *spatial).
So the axes get other names, and nothing is moved.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.nn import functional

from densespec.network import ops
from densespec.network.graph import Graph
from densespec_keras.kernels import BlockOperands, FeatureMaps, NormOperands, UnitOperands, common
from densespec_keras.prepared import PreparedNetwork
from densespec_torch import blocks
from densespec_torch.primitives import CONV

Array = Any

_POOL: dict[int, Any] = {
    1: functional.max_pool1d,
    2: functional.max_pool2d,
    3: functional.max_pool3d,
}


def _first(x: Array) -> Array:
    return x.movedim(-1, 1)


def _last(x: Array) -> Array:
    return x.movedim(1, -1)


def norm(features: FeatureMaps, norm: NormOperands, relu: bool) -> Array:
    x = _first(features.x)
    if not norm.batch:
        y = functional.batch_norm(
            x, norm.mean, norm.variance, norm.gamma, norm.beta, eps=norm.epsilon
        )
    else:
        count = common.count(features.x)
        known = features.mean is not None
        mean, unbiased = (torch.zeros_like(norm.mean) for _ in range(2))
        y = torch.ops.aten.native_batch_norm(
            x, norm.gamma, norm.beta, mean, unbiased, True, 1.0, norm.epsilon
        )[0]
        variance = unbiased * ((count - 1) / count)
        if count == 1:
            variance = torch.zeros_like(mean)
        if known:
            mean, variance = features.mean, features.variance
        norm.record(mean, variance, count)
    return _last(functional.relu(y) if relu else y)


def relu(x: Array) -> Array:
    return functional.relu(x)


def conv(x: Array, kernel: Array, bias: Array, op: ops.Conv) -> Array:
    dims = len(op.window)
    padding = ops.resolve_padding(op.padding, x.shape[1:-1], op.window, op.stride)
    x, sides = _padded(_first(x), padding, 0.0)
    return _last(CONV[dims](x, _oihw(kernel), bias, op.stride, sides))


def _oihw(kernel: Array) -> Array:
    return kernel.movedim((-1, -2), (0, 1)).contiguous()


def _padded(x: Array, padding: Any, value: float) -> tuple[Array, tuple[int, ...]]:
    """Pad the input where PyTorch can't by itself, and give what it shall pad by itself."""
    if all(before == after for before, after in padding):
        return x, tuple(before for before, _ in padding)
    flat = [side for pair in reversed(padding) for side in pair]
    return functional.pad(x, flat, value=value), (0,) * len(padding)


def max_pool(x: Array, op: ops.MaxPool) -> Array:
    padding = ops.resolve_padding(op.padding, x.shape[1:-1], op.window, op.stride)
    padded, sides = _padded(_first(x), padding, -torch.inf)
    return _last(_POOL[len(op.window)](padded, op.window, op.stride, sides))


def avg_pool(x: Array, op: ops.AvgPool) -> Array:
    return common.avg_pool(x, op)


def block(features: FeatureMaps, layers: BlockOperands, recompute: bool) -> FeatureMaps:
    if _fuses(features.x, layers):
        return _fused(features.x, layers, recompute)
    x = features.x
    for units in layers:
        y = x
        for unit in units:
            y = norm(FeatureMaps(y), unit.norm, unit.relu)
            y = conv(y, unit.kernel, unit.bias, unit.op)
            y = y if unit.scale is None else y * unit.scale
        x = torch.cat([x, y], -1)
    return FeatureMaps(x)


def whole(graph: Graph, layers: Mapping[str, Any]) -> PreparedNetwork:
    return PreparedNetwork(graph, layers)


def _fuses(x: Array, layers: BlockOperands) -> bool:
    units = [unit for layer in layers for unit in layer]
    return (
        all(unit.norm.batch and unit.relu for unit in units)
        and all(len(layer) <= 2 for layer in layers)
        and all(_symmetric(unit.op) for unit in units)
        and common.count(x) > 1
    )


def _symmetric(op: ops.Conv) -> bool:
    pads = op.padding
    return pads != "same" and all(before == after for before, after in pads)


def _fused(x: Array, layers: BlockOperands, recompute: bool) -> FeatureMaps:
    described = tuple(tuple(_described(unit) for unit in units) for units in layers)
    arrays = [array for units in layers for unit in units for array in _arrays(unit)]
    plan = blocks.BlockConfig(described, None, keep=not recompute)
    y, *statistics = blocks.FusedBlock.apply(plan, _first(x), *arrays)  # type: ignore[no-untyped-call]
    whole, *inner = [tuple(statistics[i : i + 2]) for i in range(0, len(statistics), 2)]
    count, rest = common.count(x), iter(inner)
    for first, *others in layers:
        channels = first.op.in_channels
        first.norm.record(whole[0][:channels], whole[1][:channels], count)
        for unit in others:
            mean, variance = next(rest)
            unit.norm.record(mean, variance, count)
    return FeatureMaps(_last(y), whole[0], whole[1])


def _described(unit: UnitOperands) -> blocks.UnitConfig:
    kept, scale = None, None
    if unit.scale is not None:
        kept, scale = unit.scale != 0, unit.scale.amax()
    assert unit.op.padding != "same"
    padding = tuple(before for before, _ in unit.op.padding)
    return blocks.UnitConfig(unit.norm.epsilon, padding, unit.bias is not None, kept, scale)


def _arrays(unit: UnitOperands) -> Sequence[Array]:
    arrays = [unit.norm.gamma, unit.norm.beta, _oihw(unit.kernel)]
    return arrays if unit.bias is None else [*arrays, unit.bias]
