"""Makes what computes each op: a standard module if it holds arrays or draws, else a function.

Everything is (batch, *spatial, channels) here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from densespec.network import ops
from densespec.network.graph import Node
from densespec.weights.layouts import kernel_from_canonical
from densespec_flax.activations import PRelu
from densespec_flax.norms import BatchNorm, FrozenBatchNorm, GroupNorm
from densespec_flax.precision import Precision
from densespec_jax.activations import activation
from densespec_jax.norms import relu
from densespec_jax.pools import blur_pool, global_pool

Array = jax.Array


class Frozen(nnx.Variable[Any]):
    """Holds an array that training leaves alone.

    It is no ``nnx.Param``, so gradients and optimizers leave it out, as long as they take the usual
    ``nnx.Param``. ``nnx.state(model, densespec_flax.Frozen)`` returns all such arrays.
    """


LEAVES = {"gamma": "scale", "beta": "bias", "running_mean": "mean", "running_variance": "var"}
"""Maps names of a node's arrays to Flax's, where they differ."""


def path_of(name: str) -> tuple[str, ...]:
    """Return the path of an array in a network's state, by the array's canonical name."""
    *path, leaf = name.split(".")
    return (*path, LEAVES.get(leaf, leaf))


def module_of(
    node: Node, arrays: Mapping[str, np.ndarray], precision: Precision, rngs: nnx.Rngs
) -> nnx.Module | None:
    """Make the module of a node, which holds its arrays; None if a function computes it.

    Args:
        arrays: Arrays by canonical name, those of the node among them.
        rngs: What dropouts draw from.
    """
    kind, settings = kind_of(node, precision)
    if kind is None:
        return None
    if not node.weights:
        return kind(**settings, rngs=rngs)
    module: Any = nnx.eval_shape(lambda: kind(**settings, **_QUICK.get(kind, {}), rngs=nnx.Rngs(0)))
    for weight in node.weights:
        name = path_of(weight.name)[-1]
        variable = getattr(module, name)
        statistic = isinstance(variable, nnx.BatchStat)
        kind_of_array = precision.statistics if statistic else precision.param_dtype
        value = from_canonical(weight.name, arrays[weight.name], kind_of_array)
        frozen = node.frozen and not statistic
        setattr(module, name, (Frozen if frozen else type(variable))(value))
    return module


def kind_of(node: Node, precision: Precision) -> tuple[Any, dict[str, Any]]:
    """Return the class of a node's module, and its settings, which it has as attributes.

    The class is None if a function computes the node.
    """
    types = {"dtype": precision.dtype, "param_dtype": precision.param_dtype}
    match node.op:
        case ops.Conv() as op:
            return nnx.Conv, types | {
                "in_features": op.in_channels,
                "out_features": op.filters,
                "kernel_size": op.window,
                "strides": op.stride,
                "padding": _padding(op.padding),
                "use_bias": op.bias,
            }
        case ops.BatchNorm() as op:
            unfrozen = BatchNorm if op.unbiased else nnx.BatchNorm
            return FrozenBatchNorm if node.frozen else unfrozen, types | {
                "num_features": op.channels,
                "momentum": 1 - op.momentum,
                "epsilon": op.epsilon,
                "use_fast_variance": False,  # which loses digits, and may turn negative
                "use_bias": op.affine,
                "use_scale": op.affine,
            }
        case ops.GroupNorm() as op:
            return GroupNorm, types | {
                "num_features": op.channels,
                "num_groups": op.groups,
                "epsilon": op.epsilon,
                "use_bias": op.affine,
                "use_scale": op.affine,
            }
        case ops.PRelu():
            return PRelu, types
        case ops.Dense() as op:
            return nnx.Linear, types | {
                "in_features": op.features,
                "out_features": op.units,
                "use_bias": op.bias,
            }
        case ops.Dropout() as op if node.drop_rate:
            return nnx.Dropout, {"rate": op.rate}
    return None, {}


_ZEROS = {"kernel_init": nnx.initializers.zeros_init()}
_QUICK: Mapping[Any, dict[str, Any]] = {nnx.Conv: _ZEROS, nnx.Linear: _ZEROS}
"""These initial arrays are never made, only traced, and are the quickest to trace."""


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
            return relu(x)
        case ops.Activation():
            return activation(op, x)
        case ops.Dropout():
            return x
        case ops.Concat():
            return jnp.concatenate((x, *others), -1)
        case ops.MaxPool():
            return _pooled(nnx.max_pool, x, op, _padding(op.padding))
        case ops.AvgPool():
            return _pooled(nnx.avg_pool, x, op, "VALID")
        case ops.BlurPool():
            return blur_pool(x, op)
        case ops.GlobalPool():
            return global_pool(x, op)
        case ops.Softmax():
            return nnx.softmax(x)
        case ops.Sigmoid():
            return nnx.sigmoid(x)
    raise TypeError(f"flax.nnx has nothing for {op!r}")


def _pooled(pool: Any, x: Array, op: ops.MaxPool | ops.AvgPool, padding: Any) -> Array:
    return pool(x, op.window, (op.stride,) * len(op.window), padding)
