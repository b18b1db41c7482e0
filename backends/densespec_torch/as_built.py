"""Checks whether a module is as densespec built it: of the kind of its op, and without hooks.

A module that a user replaced, patched or watches has to be called. A change of its numbers, such as
another epsilon, is read from it and does not count here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from densespec.network import ops
from densespec_torch.layers import AVG_POOL, CONV, Concat
from densespec_torch.norms import BIASED_NORM, NORM, FrozenDropout

_CALLED = ("forward", "_conv_forward", "_check_input_dim", "_call_impl", "_result")
"""Calls of densespec's modules go through these methods."""


class GivenMask:
    """Scales what a dropout reads by a given factor, in place of what it drops, as a hook.

    Unlike other hooks it leaves a dense block fused, because its effect on ones says everything.
    """

    def __init__(self, factor: Tensor) -> None:
        self._factor = factor

    def __call__(self, _module: nn.Module, inputs: tuple[Tensor, ...], _output: Tensor) -> Tensor:
        return inputs[0] * self._factor.to(inputs[0].dtype)


def masked(module: nn.Module) -> bool:
    """Say whether a dropout has been given a mask."""
    return any(isinstance(hook, GivenMask) for hook in module._forward_hooks.values())


def untouched(module: nn.Module) -> bool:
    """Say whether calling a module is no more than its class's computation."""
    return not module._forward_hooks and _unpatched(module)


def patched(module: nn.Module) -> list[str]:
    """Name the methods of a module's class that the module has another of."""
    kind = type(module)
    return [name for name in vars(module) if callable(getattr(kind, name, None))]


def _unpatched(module: nn.Module) -> bool:
    own = vars(module)
    return not (
        module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or any(name in own for name in _CALLED)
    )


def computes(module: Any, op: ops.Op) -> bool:
    """Say whether a module computes an op as the fused function does in its place.

    No module does so for an op that is never fused.
    """
    known = _COMPUTES.get(type(op))
    return known is not None and known(module)


def _is_norm(module: Any) -> bool:
    if type(module) not in _NORMS or not untouched(module):
        return False
    known = module.affine and module.track_running_stats and module.running_mean is not None
    return known and module.eps > 0


def _is_relu(module: Any) -> bool:
    return type(module) is nn.ReLU and untouched(module)


def _is_conv(module: Any) -> bool:
    """Say whether a module is a convolution of stride 1, padded with zeros on both sides alike."""
    if type(module) not in _CONVS or not untouched(module):
        return False
    strides = {*module.stride, *module.dilation, module.groups}
    return strides == {1} and module.padding_mode == "zeros" and not isinstance(module.padding, str)


def _is_dropout(module: Any) -> bool:
    """Say whether a module drops, or scales by a mask, and does nothing else."""
    if type(module) not in DROPOUTS or not _unpatched(module):
        return False
    return all(isinstance(hook, GivenMask) for hook in module._forward_hooks.values())


def _is_concat(module: Any) -> bool:
    return type(module) is Concat and untouched(module)


def _is_max_pool(module: Any) -> bool:
    if type(module) is not nn.MaxPool2d or not untouched(module):
        return False
    return module.dilation == 1 and not module.ceil_mode and not module.return_indices


def _is_avg_pool(module: Any) -> bool:
    """Say whether a module is a transition's average pool, of windows of 2 that do not overlap."""
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
