"""Runs :class:`DenseNet`'s module tree so that several ops are computed at a time.

:mod:`densespec.network.steps` finds what goes together, and ``densespec_jax`` computes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from densespec.backends import LAYERS, with_mode
from densespec.errors import Untrainable
from densespec.network import ops
from densespec.network.graph import Node, without
from densespec.network.steps import Block, Convolution, NormRelu, Step, Unit, steps
from densespec_flax.as_built import difference
from densespec_flax.layers import apply
from densespec_flax.modules import Call, DenseNet
from densespec_flax.norms import kept_variance
from densespec_jax.blocks import UnitArrays, UnitConfig, block
from densespec_jax.convolutions import conv
from densespec_jax.norms import Moments, NormConfig, count_of, moments, normalised, relu
from densespec_jax.pools import avg_pool, max_pool

Array = jax.Array


class FastDenseNet(DenseNet):
    """Represents a DenseNet that trains faster.

    Before the head it computes several ops at a time. In three cases it runs module by module, with
    the same result: if a module there is not as it was built, for example because it was replaced;
    if norms meet other devices by an ``axis_name``; and in other types than float32 alone or
    float64 alone.

    JAX can't take its derivatives in forward mode (``jax.jvp``, ``jax.hessian``), but it can take
    gradients of gradients.
    """

    recompute = False

    def _body(self, x: Array, call: Call) -> Array:
        modules = self._fused()
        return super()._body(x, call) if modules is None else _Evaluation(self, modules, call)(x)

    def _fused(self) -> dict[str, Any] | None:
        """Return the modules by their nodes' names if they can be fused."""
        types = {self.precision.dtype, self.precision.param_dtype}
        if types not in ({jnp.dtype("float32")}, {jnp.dtype("float64")}):
            return None
        nodes = self.body.nodes[1:]
        found = {node.name: self.module(node.name) for node in nodes}
        changed = (difference(found[node.name], node, self.precision) for node in nodes)
        return None if any(changed) else found


class EfficientDenseNet(FastDenseNet):
    """Represents a :class:`FastDenseNet` that keeps only the features of a dense block.

    Everything between its convolutions is computed again in the backward pass. Memory grows
    linearly with the depth.
    """

    recompute = True


class PreparedDenseNet(FastDenseNet):
    """Represents a DenseNet for inference alone. A new one is in inference mode.

    Raises:
        Untrainable: It is called in training mode.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.eval()  # type: ignore[no-untyped-call]

    def _body(self, x: Array, call: Call) -> Array:
        norms = (self.module(node.name) for node in self.graph.nodes_of(ops.BatchNorm))
        if not all(getattr(norm, "use_running_average", True) for norm in norms):
            raise Untrainable(with_mode("flax.nnx", "inference"))
        return super()._body(x, call)


MODELS: Mapping[str, type[DenseNet]] = {
    LAYERS: DenseNet,
    "fast": FastDenseNet,
    "efficient": EfficientDenseNet,
    "inference": PreparedDenseNet,
}
"""Gives the class of a graph's model, by mode."""


class _Evaluation:
    """Computes one call of a network before its head."""

    def __init__(self, model: FastDenseNet, modules: Mapping[str, Any], call: Call) -> None:
        self._model, self._modules, self._call = model, modules, call
        idle = (n.name for n in model.body.nodes_of(ops.Dropout) if not self._drops(n))
        self._steps = steps(without(model.body, frozenset(idle)), self._batch)

    def __call__(self, x: Array) -> Array:
        known: Moments | None = None
        for step in self._steps:
            x, known = self._do(step, x, known)
            if self._call.shown is not None:
                self._call.shown[step.output.name] = x
        return x

    def _batch(self, norm: Node) -> bool:
        return not norm.frozen and not self._modules[norm.name].use_running_average

    def _drops(self, dropout: Node) -> bool:
        if dropout.name in self._call.factors:
            return True
        module = self._modules[dropout.name]
        return module is not None and not module.deterministic

    def _do(self, step: Step, x: Array, known: Moments | None) -> tuple[Array, Moments | None]:
        """Compute a step, and the moments of its output where it gives them.

        Args:
            known: The moments of x, if they are known.
        """
        match step:
            case Block(is_of_units=False):
                return self._one_by_one(step, x), None
            case Block():
                return self._block(step, x, known)
            case NormRelu():
                return self._norm(step, x, known), None
            case Convolution(pool=Node(op=ops.AvgPool() as op)):
                return self._conv(step.conv, avg_pool(x, op)), None
            case Convolution():
                y = self._normed_conv(step.conv, step.norm, x)
                return y if step.relu is None else relu(y), None
        return self._alone(step.node, x), None

    def _one_by_one(self, block: Block, x: Array) -> Array:
        """Compute a block whose layers no function fuses: each step as it would be outside."""
        for layer in block.layers:
            y = x
            for step in layer.steps:
                y, _ = self._do(step, y, None)
            x = jnp.concatenate((x, y), -1)
        return x

    def _alone(self, node: Node, x: Array) -> Array:
        match node.op:
            case ops.MaxPool():
                return max_pool(x, node.op)
            case ops.AvgPool():
                return avg_pool(x, node.op)
            case ops.Dropout():
                return x * self._factor(node, x.shape)
        module = self._modules[node.name]
        return apply(node.op, x) if module is None else module(x)

    def _conv(self, node: Node, x: Array) -> Array:
        kernel, bias = _kernel(self._modules[node.name])
        return conv(x, kernel, bias, _op(node))

    def _normed_conv(self, node: Node, behind: Node | None, x: Array) -> Array:
        if behind is None:
            return self._conv(node, x)
        kernel, bias = _kernel(self._modules[node.name])
        norm = self._modules[behind.name]
        mean, variance = _running(norm)
        scale = norm.scale[...] * lax.rsqrt(variance + norm.epsilon)
        shift = norm.bias[...] - mean * scale
        shift = shift if bias is None else shift + bias * scale
        return conv(x, kernel * scale, shift, _op(node))

    def _norm(self, step: NormRelu, x: Array, known: Moments | None) -> Array:
        module = self._modules[step.norm.name]
        used = _running(module)
        if self._batch(step.norm):
            used = known or moments(x)
            _record(module, used, count_of(x))
        config = NormConfig(module.epsilon, step.relu is not None)
        return normalised(config, x, *used, module.scale[...], module.bias[...])

    def _block(self, step: Block, x: Array, known: Moments | None) -> tuple[Array, Moments | None]:
        layers = [layer.units for layer in step.layers]
        config = tuple(tuple(map(self._config, units)) for units in layers)
        arrays = tuple(tuple(self._arrays(unit, x) for unit in units) for units in layers)
        y = block(config, self._model.recompute, x, known, arrays)
        for units, inner in zip(layers, y.inner, strict=True):
            for unit, own in zip(units, inner, strict=True):
                if self._batch(unit.norm):
                    channels = unit.norm.channels
                    used = own or Moments(*(m[:channels] for m in y.whole))
                    _record(self._modules[unit.norm.name], used, count_of(x))
        return y.x, None if y.whole.mean is None else y.whole

    def _config(self, unit: Unit) -> UnitConfig:
        norm = NormConfig(self._modules[unit.norm.name].epsilon, unit.relu is not None)
        return UnitConfig(_op(unit.conv), norm, self._batch(unit.norm))

    def _arrays(self, unit: Unit, x: Array) -> UnitArrays:
        norm = self._modules[unit.norm.name]
        shape = (*x.shape[:-1], unit.conv.channels)
        factor = None if unit.dropout is None else self._factor(unit.dropout, shape)
        return UnitArrays(
            norm.scale[...],
            norm.bias[...],
            *_running(norm),
            *_kernel(self._modules[unit.conv.name]),
            factor,
        )

    def _factor(self, dropout: Node, shape: tuple[int, ...]) -> Array:
        """Return a dropout's factor for values of a shape: the given one, or one that it draws."""
        if dropout.name in self._call.factors:
            return self._call.factors[dropout.name]
        ones = jnp.ones(shape, self._model.precision.dtype)
        return self._modules[dropout.name](ones, rngs=self._call.rngs)


def _op(conv: Node) -> ops.Conv:
    assert isinstance(conv.op, ops.Conv)
    return conv.op


def _kernel(module: Any) -> tuple[Array, Array | None]:
    return module.kernel[...], None if module.bias is None else module.bias[...]


def _running(norm: Any) -> Moments:
    return Moments(norm.mean[...], norm.var[...])


def _record(norm: Any, used: Moments, count: int) -> None:
    """Let a norm's running statistics follow the moments of a batch."""
    mean, variance = map(lax.stop_gradient, used)
    for running, new in ((norm.mean, mean), (norm.var, kept_variance(norm, variance, count))):
        running[...] = norm.momentum * running[...] + (1 - norm.momentum) * new
