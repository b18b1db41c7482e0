"""Networks that train faster or in less memory: :class:`DenseNet`'s module tree, run otherwise.

Where a dense block can be fused, it and the norm after it are computed as one function
(:mod:`densespec_torch.blocks`); where not, their modules run as in a plain :class:`DenseNet`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.module import _has_any_global_hook as _global_hooks

from densespec.network.graph import Node
from densespec_torch.blocks import Block, FusedBlock, Tail, Unit
from densespec_torch.layers import CONV, Concat
from densespec_torch.modules import DenseNet, Part
from densespec_torch.norms import BIASED_NORM, NORM, FrozenDropout
from densespec_torch.pools import FusedPool, NormPool
from densespec_torch.primitives import Moments

Method = TypeVar("Method", bound=Callable[..., Any])


def uncompiled(method: Method) -> Method:
    """A method that ``torch.compile`` leaves as it is: what it would fuse is fused already."""
    reason = "fused already; where fullgraph=True is needed, compile a network of mode 'layers'"
    return torch.compiler.disable(method, reason=reason)  # type: ignore[no-untyped-call]


_DTYPES = (torch.float32, torch.float64)


class FastDenseNet(DenseNet):
    """A DenseNet that trains faster.

    Dense blocks are fused with the norm after them, and transitions pool before they convolve. A
    block runs as its plain modules, with the same result, where

    - a module of it has hooks: they are called, and see what they see in a plain network;
      dropouts alone may have hooks, and are called with ones in the place of values,
    - a module of it was replaced by one of another kind, such as a synchronised norm,
    - it is in inference mode, or its norms are not all in training mode, as when it is frozen,
    - it runs under autocast or ``torch.func``, or in another type than float32 or float64.

    Gradients of gradients are an error.
    """

    keeps = True

    def _nested(self, name: str, members: Sequence[tuple[list[str], Node]], depth: int) -> Part:
        if name == "features":
            return Features(members, depth, keep=self.keeps)
        return super()._nested(name, members, depth)


class EfficientDenseNet(FastDenseNet):
    """A :class:`FastDenseNet` that keeps of a dense block no more than its features.

    What a bottleneck's first convolution gives is computed again in the backward pass. Memory
    grows linearly with the depth.
    """

    keeps = False


class Features(Part):
    """The part of the network before the head, with fused blocks."""

    def __init__(
        self, members: Sequence[tuple[list[str], Node]], depth: int, *, keep: bool
    ) -> None:
        super().__init__(members, depth)
        self._keep = keep

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(memory_format=_LAYOUT.get(x.dim(), torch.preserve_format))
        children = [self._modules[step.child] for step in self._steps]
        if not self.training or torch.compiler.is_exporting():
            for child in children:
                x = _by_modules(child, x)
            return x
        index = 0
        while index < len(children):
            fused = _fused(children[index : index + 3], x)
            x = fused.run(x, self._keep) if fused else children[index](x)  # type: ignore[misc]
            index += fused.takes if fused else 1
        return x


_LAYOUT = {4: torch.channels_last, 5: torch.channels_last_3d}


def _by_modules(module: Any, x: Tensor) -> Tensor:
    """The value of a module by its own modules; transitions pool before they convolve."""
    tail = _tail(module)
    if tail is None or not tail.pool:
        return module(x)
    *modules, conv, pool = module.children()
    for child in (*modules, pool, conv):
        x = child(x)
    return x


@dataclass(frozen=True)
class _Unit:
    norm: _BatchNorm
    conv: Any
    dropout: nn.Dropout | None


@dataclass(frozen=True)
class _Block:
    """The modules of a dense block that can be fused, and of what follows it."""

    layers: tuple[tuple[_Unit, ...], ...]
    tail: _Tail | None = None

    @property
    def takes(self) -> int:
        """How many children of the network this is."""
        return 2 if self.tail else 1

    @property
    def units(self) -> Iterator[_Unit]:
        return itertools.chain.from_iterable(self.layers)

    @property
    def norms(self) -> list[_BatchNorm]:
        return [unit.norm for unit in self.units] + ([self.tail.norm] if self.tail else [])

    @property
    def arrays(self) -> list[Any]:
        arrays: list[Any] = []
        for unit in self.units:
            arrays += [unit.norm.weight, unit.norm.bias, unit.conv.weight]
            arrays += [] if unit.conv.bias is None else [unit.conv.bias]
        return arrays + ([self.tail.norm.weight, self.tail.norm.bias] if self.tail else [])

    @uncompiled
    def run(self, x: Tensor, keep: bool) -> Tensor:
        """The value of the block, or of what follows it where that is fused; in training mode."""
        y, *statistics = FusedBlock.apply(self._described(x, keep), x, *self.arrays)  # type: ignore[no-untyped-call]
        self._count(x, [Moments(*statistics[i : i + 2]) for i in range(0, len(statistics), 2)])
        for module in self.tail.after if self.tail else ():
            y = module(y)
        return y

    def _described(self, x: Tensor, keep: bool) -> Block:
        own = self.tail
        tail = Tail(own.norm.eps, own.relu, own.pool) if own else None
        layers = tuple(tuple(_unit_of(unit, x) for unit in units) for units in self.layers)
        return Block(layers, tail, keep)

    def _count(self, x: Tensor, moments: Sequence[Moments]) -> None:
        """Take the batch into the running statistics of every norm."""
        features, inner = moments[0], list(moments[1:])
        readers = [units[0].norm for units in self.layers] + ([self.tail.norm] if self.tail else [])
        _average(readers, features, x)
        seconds = [units[1].norm for units in self.layers if len(units) == 2]
        for norm, own in zip(seconds, inner, strict=True):
            _average([norm], own, x)


@dataclass(frozen=True)
class _Pool:
    """The modules at the end of a stem: a norm, a ReLU, which has no state, and a max pool."""

    norm: _BatchNorm
    pool: nn.MaxPool2d
    takes: ClassVar[int] = 3

    @property
    def norms(self) -> list[_BatchNorm]:
        return [self.norm]

    @property
    def arrays(self) -> list[Any]:
        return [self.norm.weight, self.norm.bias]

    @uncompiled
    def run(self, x: Tensor, keep: bool) -> Tensor:
        """The value of the pool in training mode."""
        window, stride, padding = (
            _pair(size) for size in (self.pool.kernel_size, self.pool.stride, self.pool.padding)
        )
        op = NormPool(self.norm.eps, window, stride, padding)
        y, *moments = FusedPool.apply(op, x, *self.arrays)  # type: ignore[no-untyped-call]
        _average([self.norm], Moments(*moments), x)
        return y


def _pair(size: Any) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else size


@torch.no_grad()
def _average(norms: Sequence[Any], moments: Moments, x: Tensor) -> None:
    """Take the moments of a batch into running statistics; a norm has the first channels of them.

    Args:
        x: (n, c, *spatial), of the batch and the spatial size.
    """
    count = x.numel() // x.shape[1]
    unbiased = moments.variance * (count / (count - 1))
    for norm in norms:
        variance = moments.variance if type(norm) in _BIASED else unbiased
        norm.num_batches_tracked.add_(1)
        share = 1 / int(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
        norm.running_mean.lerp_(moments.mean[: norm.num_features], share)
        norm.running_var.lerp_(variance[: norm.num_features], share)


def _unit_of(unit: _Unit, x: Tensor) -> Unit:
    conv = unit.conv
    kept, scale = _mask(unit.dropout, x, conv.out_channels)
    return Unit(unit.norm.eps, conv.padding, conv.bias is not None, kept, scale)


def _mask(dropout: nn.Dropout | None, x: Tensor, channels: int) -> tuple[Any, Any]:
    """What a dropout keeps of (n, *spatial, channels), and the factor: what it makes of ones."""
    if dropout is None or not (dropout.training or _hooked(dropout)):
        return None, None
    with torch.no_grad():
        values = dropout(x.new_ones((len(x), channels, *x.shape[2:])))
    return (values != 0).movedim(1, -1), values.amax()


def _fused(modules: Sequence[Any], x: Tensor) -> _Block | _Pool | None:
    """How the first of consecutive modules are fused; None where they have to run as they are."""
    if x.dtype not in _DTYPES or torch.is_autocast_enabled(x.device.type):
        return None
    if torch._C._are_functorch_transforms_active() or _global_hooks():  # type: ignore[no-untyped-call]
        return None
    fused = _pool(modules) or _block(modules)
    if fused is None:
        return None
    single = x.numel() <= x.shape[1]  # batch norm refuses that
    trains = all(norm.training for norm in fused.norms)
    alike = all(array.dtype == x.dtype for array in fused.arrays)
    return fused if trains and alike and not single else None


def _pool(modules: Sequence[Any]) -> _Pool | None:
    if len(modules) < 3 or type(modules[2]) is not nn.MaxPool2d or not _untouched(modules[2]):
        return None
    norm, relu, pool = modules
    plain = pool.dilation == 1 and not pool.ceil_mode and not pool.return_indices
    return _Pool(norm, pool) if _is_norm(norm) and _is_relu(relu) and plain else None


def _block(modules: Sequence[Any]) -> _Block | None:
    layers = _layers(modules[0])
    return _Block(layers, _tail(modules[1]) if len(modules) > 1 else None) if layers else None


def _layers(block: Any) -> tuple[tuple[_Unit, ...], ...] | None:
    """The layers of a dense block, if it is one and all of its modules are as built."""
    if type(block) is not Part or not _untouched(block):
        return None
    children = list(block.children())
    parts, concats = children[::2], children[1::2]
    if not all(type(concat) is Concat and _untouched(concat) for concat in concats):
        return None
    layers = [_units(part) for part in parts]
    return tuple(layer for layer in layers if layer) if all(layers) else None


def _units(layer: Any) -> tuple[_Unit, ...]:
    """The units of a dense layer; none if a module is not as built."""
    if type(layer) is not Part or not _untouched(layer):
        return ()
    units: list[_Unit] = []
    modules: list[Any] = list(layer.children())
    while modules:
        norm, relu, conv, *modules = modules
        dropout = modules.pop(0) if modules and type(modules[0]) in _DROPOUTS else None
        if not (_is_norm(norm) and _is_relu(relu) and _is_conv(conv)):
            return ()
        units.append(_Unit(norm, conv, dropout))
    return tuple(units)


@dataclass(frozen=True)
class _Tail:
    """A transition, or the norm after the last block.

    Attributes:
        relu, pool: whether these come next and are fused.
        after: the modules that run then.
    """

    norm: _BatchNorm
    relu: bool = False
    pool: bool = False
    after: tuple[nn.Module, ...] = ()


def _tail(module: Any) -> _Tail | None:
    """What follows a block; None where it can't be fused."""
    if _is_norm(module):
        return _Tail(module)
    if type(module) is not Part or not _untouched(module):
        return None
    modules: list[Any] = list(module.children())
    norm, *rest = modules
    relu = bool(rest) and type(rest[0]) is nn.ReLU
    if not _is_norm(norm) or (relu and not _untouched(rest[0])):
        return None
    after = tuple(rest[1:] if relu else rest)
    pools = len(after) == 2 and all(map(_untouched, after)) and _is_conv(after[0])
    return _Tail(norm, relu, pools, after[:1] if pools else after)


def _is_norm(module: Any) -> bool:
    return type(module) in _NORMS and _untouched(module) and module.track_running_stats


def _is_relu(module: Any) -> bool:
    return type(module) is nn.ReLU and _untouched(module)


def _is_conv(module: Any) -> bool:
    """Whether a module is a convolution of stride 1, padded with zeros on both sides alike."""
    if type(module) not in _CONVS or not _untouched(module):
        return False
    steps = {*module.stride, *module.dilation, module.groups}
    return steps == {1} and module.padding_mode == "zeros" and not isinstance(module.padding, str)


def _hooked(module: nn.Module) -> bool:
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    )


def _untouched(module: nn.Module) -> bool:
    """Whether calling the module is no more than its class's computation."""
    return not _hooked(module) and "forward" not in vars(module)


_BIASED = frozenset(BIASED_NORM.values())
_NORMS = _BIASED | frozenset(NORM.values())
_CONVS = frozenset(CONV.values())
_DROPOUTS = (nn.Dropout, FrozenDropout)
