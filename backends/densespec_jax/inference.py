"""Computes a network in inference mode, as one function of plain JAX, node by node."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from densespec.network import ops
from densespec.network.graph import Graph, Node
from densespec_jax.activations import activation
from densespec_jax.pools import blur_pool, global_pool

Array = Any


def infer(graph: Graph, arrays: Mapping[str, Array], x: Array) -> Any:
    """Compute what a network gives: one value, or a tuple of its outputs.

    Args:
        arrays: Every array of the network, by canonical name and in canonical shape.
        x: Images (batch, *spatial, channels); sizes may be symbolic.
    """
    values = {graph.input.name: x}
    for node in graph.nodes[1:]:
        own = {weight.short: arrays[weight.name] for weight in node.weights}
        values[node.name] = _node(node, own, *(values[name] for name in node.inputs))
    given = tuple(values[node.name] for node in graph.given)
    return given if graph.outputs else given[0]


def _node(node: Node, own: Mapping[str, Array], x: Array, *others: Array) -> Array:
    match node.op:
        case ops.Conv() as op:
            return _conv(op, own, x)
        case ops.BatchNorm() as op:
            inverse = lax.rsqrt(own["running_variance"] + op.epsilon)
            return _scaled(own, (x - own["running_mean"]) * inverse)
        case ops.GroupNorm() as op:
            return _scaled(own, _group_normalised(op, x))
        case ops.Relu():
            return jnp.maximum(x, 0)
        case ops.Activation() as op:
            return activation(op, x)
        case ops.PRelu():
            return jnp.where(x > 0, x, own["slope"] * x)
        case ops.Dropout():
            return x
        case ops.Concat():
            return jnp.concatenate((x, *others), -1)
        case ops.MaxPool() as op:
            return _windows(op, x, -jnp.inf, lax.max, op.padding)
        case ops.AvgPool() as op:
            return _windows(op, x, 0.0, lax.add, ((0, 0),) * len(op.window)) / math.prod(op.window)
        case ops.BlurPool() as op:
            return blur_pool(x, op)
        case ops.GlobalPool() as op:
            return global_pool(x, op)
        case ops.Dense() as op:
            y = x @ own["kernel"].T
            return y + own["bias"] if op.bias else y
        case ops.Softmax():
            return jax.nn.softmax(x)
        case ops.Sigmoid():
            return jax.nn.sigmoid(x)
    raise TypeError(f"JAX has nothing for {node.op!r}")


def _scaled(own: Mapping[str, Array], x: Array) -> Array:
    return own["gamma"] * x + own["beta"] if own.keys() >= {"gamma", "beta"} else x


def _group_normalised(op: ops.GroupNorm, x: Array) -> Array:
    grouped = x.reshape(*x.shape[:-1], op.groups, op.channels // op.groups)
    axes = (*range(1, x.ndim - 1), x.ndim)
    mean = grouped.mean(axes, keepdims=True)
    variance = jnp.square(grouped - mean).mean(axes, keepdims=True)
    return ((grouped - mean) * lax.rsqrt(variance + op.epsilon)).reshape(x.shape)


def _conv(op: ops.Conv, own: Mapping[str, Array], x: Array) -> Array:
    spatial = "DHW"[3 - len(op.window) :]
    layout = f"N{spatial}C", f"OI{spatial}", f"N{spatial}C"
    padding = "SAME" if op.padding == "same" else op.padding
    strides = (op.stride,) * len(op.window)
    y = lax.conv_general_dilated(x, own["kernel"], strides, padding, dimension_numbers=layout)
    return y + own["bias"] if op.bias else y


def _windows(
    op: ops.MaxPool | ops.AvgPool, x: Array, start: float, join: Any, padding: ops.Padding
) -> Array:
    around = "SAME" if padding == "same" else ((0, 0), *padding, (0, 0))
    strides = (1, *(op.stride,) * len(op.window), 1)
    return lax.reduce_window(x, start, join, (1, *op.window, 1), strides, around)
