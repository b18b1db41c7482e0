"""Computes convolutions; those of 1x1 are matrix products."""

from __future__ import annotations

from typing import Any

import jax
from jax import lax

from densespec.network import ops

Array = Any


def conv(x: Array, kernel: Array, bias: Array, op: ops.Conv) -> Array:
    """Compute a convolution; ``bias`` is None if there is none."""
    y = _convolved(x, kernel, op)
    return y if bias is None else y + bias


def conv_backward(op: ops.Conv, x: Array, kernel: Array, dy: Array) -> tuple[Array, Array]:
    """Compute the gradients of a convolution's input and of its kernel."""
    derivative = jax.vjp(lambda x, kernel: _convolved(x, kernel, op), x, kernel)[1]
    dx, dkernel = derivative(dy)
    return dx, dkernel


def _convolved(x: Array, kernel: Array, op: ops.Conv) -> Array:
    if op.is_pointwise:
        return _product(x, kernel.reshape(kernel.shape[-2:]))
    spatial = "DHW"[3 - len(op.window) :]
    layout = f"N{spatial}C", f"{spatial}IO", f"N{spatial}C"
    padding = ops.resolve_padding(op.padding, x.shape[1:-1], op.window, op.stride)
    strides = (op.stride,) * len(op.window)
    return lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=layout)


def _product(x: Array, matrix: Array) -> Array:
    return (x.reshape(-1, x.shape[-1]) @ matrix).reshape(*x.shape[:-1], -1)
