"""Defines the leaves of the module tree: one module for each op, standard ones if they fit.

State is kept under the standard modules' names, so a ``state_dict`` does not show which were used.
No module works in place: what a hook has seen stays as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, List  # noqa: UP035  # TorchScript reads this one

import torch
from torch import Tensor, nn
from torch.nn import functional

from densespec.network import ops
from densespec.network.graph import Graph, Node
from densespec.weights.layouts.torch_names import module_path
from densespec_torch.norms import BIASED_NORM, NORM, FrozenDropout, FrozenNorm, GroupNorm

CONV: dict[int, Any] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_MAX_POOL: dict[int, Any] = {1: nn.MaxPool1d, 2: nn.MaxPool2d, 3: nn.MaxPool3d}
AVG_POOL: dict[int, Any] = {1: nn.AvgPool1d, 2: nn.AvgPool2d, 3: nn.AvgPool3d}
_INSTANCE_NORM: dict[int, Any] = {
    1: nn.InstanceNorm1d,
    2: nn.InstanceNorm2d,
    3: nn.InstanceNorm3d,
}
_ACTIVATION: dict[str, Callable[[float], nn.Module]] = {
    "leaky-relu": nn.LeakyReLU,
    "elu": lambda _: nn.ELU(),
    "silu": lambda _: nn.SiLU(),
    "gelu": lambda _: nn.GELU(),
    "gelu-tanh": lambda _: nn.GELU("tanh"),
    "relu6": lambda _: nn.ReLU6(),
}


def emit(node: Node) -> nn.Module:
    """Make the module that computes a node; a frozen one's parameters want no gradients.

    Raises:
        TypeError: This backend does not know the kind of the op.
    """
    return _module(node).requires_grad_(not node.frozen)


def _module(node: Node) -> nn.Module:
    match node.op:
        case ops.Conv() as op:
            return _conv(op)
        case ops.BatchNorm() as op:
            kind: Any = (NORM if op.unbiased else BIASED_NORM)[len(node.shape) - 1]
            return (FrozenNorm if node.frozen else kind)(
                op.channels, eps=op.epsilon, momentum=op.momentum, affine=op.affine
            )
        case ops.GroupNorm() as op if op.groups == op.channels:
            of_instances = _INSTANCE_NORM[len(node.shape) - 1]
            return of_instances(op.channels, eps=op.epsilon, affine=op.affine)
        case ops.GroupNorm() as op:
            return GroupNorm(op.groups, op.channels, eps=op.epsilon, affine=op.affine)
        case ops.Relu():
            return nn.ReLU()
        case ops.Activation() as op:
            return activation(op)
        case ops.PRelu():
            return nn.PReLU()
        case ops.Dropout() as op:
            return FrozenDropout(op.rate) if node.frozen else nn.Dropout(op.rate)
        case ops.Concat():
            return Concat()
        case ops.MaxPool() as op:
            return _max_pool(op)
        case ops.AvgPool() as op:
            return AVG_POOL[len(op.window)](op.window, op.stride)
        case ops.BlurPool() as op:
            return BlurPool(op)
        case ops.GlobalPool() as op:
            return GlobalPool(op.kind)
        case ops.Dense() as op:
            return nn.Linear(op.features, op.units, bias=op.bias)
        case ops.Softmax():
            return nn.Softmax(dim=1)
        case ops.Sigmoid():
            return nn.Sigmoid()
    raise TypeError(f"torch.nn has no module for {node.op!r}")


def activation(op: ops.Activation) -> nn.Module:
    """Make the module that computes a function of each value."""
    return _ACTIVATION[op.kind](op.slope)


def _conv(op: ops.Conv) -> nn.Module:
    dims, sides = len(op.window), symmetric(op.padding)
    if sides is not None:
        return CONV[dims](
            op.in_channels, op.filters, op.window, op.stride, padding=sides, bias=op.bias
        )
    conv = _PADDED_CONV[dims](op.in_channels, op.filters, op.window, op.stride, bias=op.bias)
    conv.pads = op.padding
    return conv


def _max_pool(op: ops.MaxPool) -> nn.Module:
    sides = symmetric(op.padding)
    if sides is not None:
        return _MAX_POOL[len(op.window)](op.window, op.stride, padding=sides)
    return PaddedMaxPool(op.window, op.stride, op.padding)


def symmetric(padding: ops.Padding) -> tuple[int, ...] | None:
    """Return pads by dimension, as PyTorch's modules take them, if both sides have the same."""
    if padding == "same" or any(before != after for before, after in padding):
        return None
    return tuple(before for before, _ in padding)


def explicitly_padded(
    x: Tensor, padding: ops.Padding, window: Sequence[int], stride: int, value: float
) -> Tensor:
    pads = ops.resolve_padding(padding, x.shape[2:], window, stride)
    assert pads != "same", "sizes of a tensor are known"
    return functional.pad(x, [n for pair in reversed(pads) for n in pair], value=value)


def pool_in_two_dimensions(model: nn.Module, graph: Graph) -> None:
    """Let the pools of a network of one dimension be computed with a second one of size 1.

    It gives the same, and is traced for any length, which PyTorch's pools of one dimension are not.
    """
    for node in graph.nodes:
        if isinstance(node.op, ops.MaxPool | ops.AvgPool):
            parent, _, name = module_path(node.name).rpartition(".")
            setattr(model.get_submodule(parent), name, _FlatPool(node.op))


class _FlatPool(nn.Module):
    """Pools (n, c, length) as (n, c, length, 1)."""

    def __init__(self, op: ops.MaxPool | ops.AvgPool) -> None:
        super().__init__()
        self.op = op

    def forward(self, x: Tensor) -> Tensor:
        op = self.op
        pool: Any = functional.avg_pool2d
        if isinstance(op, ops.MaxPool):
            x, pool = (
                explicitly_padded(x, op.padding, op.window, op.stride, -torch.inf),
                functional.max_pool2d,
            )
        return pool(x.unsqueeze(3), (*op.window, 1), (op.stride, 1)).squeeze(3)


class Concat(nn.Module):
    """Concatenates (n, c, *spatial) on channels."""

    def forward(self, *xs: Tensor) -> Tensor:
        return torch.cat(xs, 1)


def pooled(x: Tensor, kind: str, positions: List[int]) -> Tensor:  # noqa: UP006
    """Pool (n, c, *spatial) over its positions as a kind of global pool does.

    Args:
        positions: The axes of the positions.
    """
    if kind == "avg":
        return x.mean(positions)
    if kind == "max":
        return x.amax(positions)
    mean, maximum = x.mean(positions), x.amax(positions)
    return 0.5 * (mean + maximum) if kind == "avgmax" else torch.cat((mean, maximum), 1)


class GlobalPool(nn.Module):
    """Takes the mean or the maximum over all positions, or both: (n, c, *spatial) to (n, c)."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, x: Tensor) -> Tensor:
        return pooled(x.flatten(2), self.kind, [2])

    def extra_repr(self) -> str:
        return self.kind


class BlurPool(nn.Module):
    """Takes binomial means over windows of a mirrored input, (n, c, *spatial).

    It has no arrays: what it computes follows from the size of its windows.
    """

    def __init__(self, op: ops.BlurPool) -> None:
        super().__init__()
        self.pads = [n for pair in reversed(op.pads) for n in pair]
        self.factors, self.stride = [list(factors) for factors in op.factors], op.stride

    def forward(self, x: Tensor) -> Tensor:
        x = functional.pad(x, self.pads, mode="reflect")
        for axis, factors in enumerate(self.factors):
            x = _blurred(x, axis + 2, factors, self.stride)
        return x

    def extra_repr(self) -> str:
        return f"{[len(factors) for factors in self.factors]}, stride={self.stride}"


def _blurred(x: Tensor, axis: int, factors: List[float], stride: int) -> Tensor:  # noqa: UP006
    """Take weighted sums over the windows of one dimension."""
    along = x.movedim(axis, -1)
    last = along.size(-1) - len(factors) + 1
    y = factors[0] * along[..., 0:last:stride]
    for place in range(1, len(factors)):
        y = y + factors[place] * along[..., place : last + place : stride]
    return y.movedim(-1, axis)


class PaddedMaxPool(nn.Module):
    """This is a max pool whose padding differs between the sides or depends on the input's size."""

    def __init__(self, window: tuple[int, ...], stride: int, padding: ops.Padding) -> None:
        super().__init__()
        self.pads, self.pool = padding, _MAX_POOL[len(window)](window, stride)
        self.window, self.stride = window, stride

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(explicitly_padded(x, self.pads, self.window, self.stride, -torch.inf))


class _PaddedConv:
    """This is a convolution whose padding differs between sides or depends on the input's size."""

    pads: ops.Padding
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]

    def forward(self, x: Tensor) -> Tensor:
        padded = explicitly_padded(x, self.pads, self.kernel_size, self.stride[0], 0.0)
        return super().forward(padded)  # type: ignore[misc]


class PaddedConv1d(_PaddedConv, nn.Conv1d): ...


class PaddedConv2d(_PaddedConv, nn.Conv2d): ...


class PaddedConv3d(_PaddedConv, nn.Conv3d): ...


_PADDED_CONV: dict[int, Any] = {1: PaddedConv1d, 2: PaddedConv2d, 3: PaddedConv3d}

PADDED = (PaddedMaxPool, *_PADDED_CONV.values())
"""These modules pad by themselves."""
