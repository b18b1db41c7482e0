"""Computes norms on several devices, each of which normalises its own part of a batch."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from densespec.network import ops
from densespec.reference.kernels import Array, Context, Gradients, Kernel


@dataclass(frozen=True)
class Apart:
    """Normalises the parts of a batch by themselves, one part for each device.

    The running statistics are the means of those that the devices would have alone.

    Attributes:
        first: Whether running statistics are those of the first device instead.
    """

    devices: int
    kernel: Kernel
    first: bool = False

    def forward(self, op: ops.BatchNorm, ctx: Context, x: Array) -> Array:
        parts = np.array_split(x, self.devices)
        own = [replace(ctx, statistics={}) for _ in parts]
        values = [
            self.kernel.forward(op, each, part) for each, part in zip(own, parts, strict=True)
        ]
        counted = own[:1] if self.first else own
        ctx.statistics = {
            short: np.mean([each.statistics[short] for each in counted], axis=0)
            for short in own[0].statistics
        }
        return np.concatenate(values)

    def backward(self, op: ops.BatchNorm, ctx: Context, dy: Array, x: Array) -> Gradients:
        parts = zip(*(np.array_split(array, self.devices) for array in (dy, x)), strict=True)
        found = [self.kernel.backward(op, ctx, *part) for part in parts]
        dxs = np.concatenate([own[0] for own, _ in found])
        names = found[0][1]
        return [dxs], {name: np.sum([each[name] for _, each in found], axis=0) for name in names}
