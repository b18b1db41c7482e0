"""What computes each op: a standard module where it holds arrays or draws, else a function.

Everything is (batch, *spatial, channels) here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from densespec.network import ops
from densespec.network.graph import Node
from densespec.weights.layouts import kernel_from_canonical
from densespec_flax.norms import BatchNorm, FrozenBatchNorm

Array = jax.Array


class Frozen(nnx.Variable[Any]):
    """An array that training leaves alone.

    It is no ``nnx.Param``: gradients and optimizers that take those, as they do unless told
    otherwise, pass it by. ``nnx.state(model, densespec_flax.Frozen)`` gives all of them.
    """


@dataclass(frozen=True)
class Precision:
    """The types of a network.

    Attributes:
        dtype: The type in which it computes.
        param_dtype: The type of its arrays; running statistics have at least float32.
    """

    dtype: Any
    param_dtype: Any

    @property
    def statistics(self) -> Any:
        """The type of running statistics."""
        return jnp.promote_types(self.param_dtype, jnp.float32)


LEAVES = {"gamma": "scale", "beta": "bias", "running_mean": "mean", "running_variance": "var"}
"""What Flax calls an array of a node, where it has another name for it."""


def path_of(name: str) -> tuple[str, ...]:
    """Give the path of an array in a network's state, by the array's canonical name."""
    *path, leaf = name.split(".")
    return (*path, LEAVES.get(leaf, leaf))


def module_of(
    node: Node, arrays: Mapping[str, np.ndarray], precision: Precision, rngs: nnx.Rngs
) -> nnx.Module | None:
    """Make the module of a node, which holds its arrays; None where a function computes it.

    Args:
        arrays: Arrays by canonical name, those of the node among them.
    """
    if isinstance(node.op, ops.Dropout):
        return nnx.Dropout(node.op.rate, rngs=rngs) if node.drop_rate else None
    if not node.weights:
        return None
    module: Any = nnx.eval_shape(lambda: _empty(node, precision))
    for weight in node.weights:
        name = path_of(weight.name)[-1]
        variable = getattr(module, name)
        statistic = isinstance(variable, nnx.BatchStat)
        kind = precision.statistics if statistic else precision.param_dtype
        value = from_canonical(weight.name, arrays[weight.name], kind)
        frozen = node.frozen and not statistic
        setattr(module, name, (Frozen if frozen else type(variable))(value))
    return module


def _empty(node: Node, precision: Precision) -> Any:
    types = {"dtype": precision.dtype, "param_dtype": precision.param_dtype, "rngs": nnx.Rngs(0)}
    match node.op:
        case ops.Conv() as op:
            return nnx.Conv(
                op.in_channels,
                op.filters,
                op.window,
                op.stride,
                padding=_padding(op.padding),
                use_bias=op.bias,
                kernel_init=_zeros,
                **types,
            )
        case ops.BatchNorm() as op:
            unfrozen = BatchNorm if op.unbiased else nnx.BatchNorm
            return (FrozenBatchNorm if node.frozen else unfrozen)(
                op.channels,
                momentum=1 - op.momentum,
                epsilon=op.epsilon,
                use_fast_variance=False,  # which loses digits, and may turn negative
                **types,
            )
        case ops.Dense() as op:
            return nnx.Linear(op.features, op.units, kernel_init=_zeros, **types)
    raise TypeError(f"flax.nnx has no module for {node.op!r}")


_zeros = nnx.initializers.zeros_init()  # they are traced alone, and nothing is quicker to trace


def _padding(padding: ops.Padding) -> Any:
    return "SAME" if padding == "same" else padding


def from_canonical(name: str, array: np.ndarray, dtype: Any) -> Array:
    """Copy a canonical array into one of JAX's, in Flax's order of axes."""
    array = np.asarray(array)
    array = kernel_from_canonical(array) if name.endswith(".kernel") else array
    return jax.device_put(np.array(array, dtype))


def apply(op: ops.Op, x: Array, *others: Array) -> Array:
    """Compute an op that holds no arrays, in inference mode.

    Raises:
        TypeError: This backend does not know the kind of the op.
    """
    match op:
        case ops.Relu():
            return nnx.relu(x)
        case ops.Dropout():
            return x
        case ops.Concat():
            return jnp.concatenate((x, *others), -1)
        case ops.MaxPool():
            return nnx.max_pool(x, op.window, _strides(op), _padding(op.padding))
        case ops.AvgPool():
            return nnx.avg_pool(x, op.window, _strides(op), "VALID")
        case ops.GlobalPool():
            spatial = tuple(range(1, x.ndim - 1))
            return x.mean(spatial) if op.kind == "avg" else x.max(spatial)
        case ops.Softmax():
            return nnx.softmax(x)
        case ops.Sigmoid():
            return nnx.sigmoid(x)
    raise TypeError(f"flax.nnx has nothing for {op!r}")


def _strides(op: ops.MaxPool | ops.AvgPool) -> tuple[int, ...]:
    return (op.stride,) * len(op.window)
