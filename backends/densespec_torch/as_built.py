"""Whether a module is as densespec built it: of the kind of its op, and without hooks.

A module that a user replaced, patched or watches has to be called. What only sets its numbers, such
as another epsilon, is read from it, and does not count here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from densespec.network import ops
from densespec_torch.layers import AVG_POOL, CONV, Concat
from densespec_torch.norms import BIASED_NORM, NORM, FrozenDropout


def hooked(module: nn.Module) -> bool:
    """Whether a module has hooks of its own."""
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    )


def untouched(module: nn.Module) -> bool:
    """Whether calling a module is no more than its class's computation."""
    return not hooked(module) and "forward" not in vars(module)


def computes(module: Any, op: ops.Op) -> bool:
    """Whether a module computes an op as what is fused does in its place; of an op that is never
    fused, none does."""
    known = _COMPUTES.get(type(op))
    return known is not None and known(module)


def _is_norm(module: Any) -> bool:
    plain = type(module) in _NORMS and untouched(module)
    return plain and module.track_running_stats and module.affine


def _is_relu(module: Any) -> bool:
    return type(module) is nn.ReLU and untouched(module)


def _is_conv(module: Any) -> bool:
    """Whether a module is a convolution of stride 1, padded with zeros on both sides alike."""
    if type(module) not in _CONVS or not untouched(module):
        return False
    strides = {*module.stride, *module.dilation, module.groups}
    return strides == {1} and module.padding_mode == "zeros" and not isinstance(module.padding, str)


def _is_dropout(module: Any) -> bool:
    return type(module) in DROPOUTS  # its hooks are called


def _is_concat(module: Any) -> bool:
    return type(module) is Concat and untouched(module)


def _is_max_pool(module: Any) -> bool:
    if type(module) is not nn.MaxPool2d or not untouched(module):
        return False
    return module.dilation == 1 and not module.ceil_mode and not module.return_indices


def _is_avg_pool(module: Any) -> bool:
    """Whether a module is the average pool of a transition, of windows of 2 that do not overlap."""
    if type(module) not in _AVG_POOLS or not untouched(module):
        return False
    sizes = {*_each(module.kernel_size), *_each(module.stride)}
    divisor = getattr(module, "divisor_override", None)
    padded = any(_each(module.padding))
    return sizes == {2} and not padded and not module.ceil_mode and divisor is None


def _each(size: Any) -> tuple[int, ...]:
    return (size,) if isinstance(size, int) else size


_NORMS = frozenset((*BIASED_NORM.values(), *NORM.values()))
_CONVS = frozenset(CONV.values())
DROPOUTS = (nn.Dropout, FrozenDropout)
_AVG_POOLS = frozenset(AVG_POOL.values())

_COMPUTES: Mapping[type, Callable[[Any], bool]] = {
    ops.BatchNorm: _is_norm,
    ops.Relu: _is_relu,
    ops.Conv: _is_conv,
    ops.Dropout: _is_dropout,
    ops.Concat: _is_concat,
    ops.MaxPool: _is_max_pool,
    ops.AvgPool: _is_avg_pool,
}
