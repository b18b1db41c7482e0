"""Computes several modules as one function: a dense block, or the end of a stem.

The modules keep their arrays and settings; only their computation differs.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from densespec_torch.as_built import masked
from densespec_torch.autocasting import without_autocast
from densespec_torch.blocks import BlockConfig, FusedBlock, TailConfig, UnitConfig
from densespec_torch.norms import BIASED_NORM
from densespec_torch.pools import FusedPool, NormPool
from densespec_torch.primitives import Moments, avg_pool, exact

Method = TypeVar("Method", bound=Callable[..., Any])


def uncompiled(method: Method) -> Method:
    """Let ``torch.compile`` leave a method as it is: what it would fuse is fused already.

    What PyTorch does this with takes a second to import, so it is asked for when the method is
    first called: inference never does. Until then its marks say so, with the reason.
    """
    made: list[Callable[..., Any]] = []

    @functools.wraps(method)
    def call(*args: Any, **options: Any) -> Any:
        if not made:
            made.append(torch.compiler.disable(method, reason=REASON))  # type: ignore[no-untyped-call]
        return made[0](*args, **options)

    wrapper: Any = call
    wrapper._torchdynamo_disable, wrapper._torchdynamo_disable_msg = True, REASON
    return cast(Method, call)


REASON = "fused already; where fullgraph=True is needed, compile a network of mode 'layers'"


Pair = Callable[[Any, Tensor], Tensor]
"""Computes a norm and the ReLU behind it, of (n, c, *spatial): see :mod:`densespec_torch.pairs`."""


class Fused:
    """Holds modules that can be computed as one function."""

    @property
    def takes(self) -> int:
        """Return how many children of the network these are."""
        raise NotImplementedError

    @property
    def norms(self) -> list[_BatchNorm]:
        """Return the norms among the modules."""
        raise NotImplementedError

    @property
    def arrays(self) -> list[Any]:
        """Return the parameters of the modules, in the order in which the function takes them."""
        raise NotImplementedError

    def run(self, x: Tensor, keep: bool) -> Tensor:
        """Compute them as one function in training mode.

        Args:
            x: (n, c, *spatial), of the type in which it is computed.
            keep: Whether what first convolutions give is kept for the backward pass.
        """
        raise NotImplementedError

    def apart(self, x: Tensor, pair: Pair) -> Tensor:
        """Compute them module by module, but each norm with the ReLU behind it by ``pair``."""
        raise NotImplementedError

    def suits(self, x: Tensor) -> bool:
        """Say whether, in training mode, the function computes what the modules do for an input."""
        single = x.numel() <= x.shape[1]  # batch norm refuses that
        trains = all(norm.training for norm in self.norms)
        wide = exact(x.dtype)
        return trains and not single and all(array.dtype == wide for array in self.arrays)


@dataclass(frozen=True)
class UnitModules:
    """Holds the modules of a unit of a dense layer; its ReLU has no state."""

    norm: _BatchNorm
    conv: Any
    dropout: nn.Dropout | None


@dataclass(frozen=True)
class TailModules:
    """Holds the modules that follow a block: a transition's, or the norm after the last block.

    Attributes:
        relu, pool: Whether a ReLU, and then an average pool, come next and are fused.
        after: The modules that run then.
    """

    norm: _BatchNorm
    relu: bool
    pool: bool
    after: tuple[nn.Module, ...]


@dataclass(frozen=True)
class BlockModules(Fused):
    """Holds the modules of a dense block, and those after it that are fused with it."""

    layers: tuple[tuple[UnitModules, ...], ...]
    tail: TailModules | None = None

    @property
    def takes(self) -> int:
        return 2 if self.tail else 1

    @property
    def units(self) -> Iterator[UnitModules]:
        """Yield the units of all layers, in order."""
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
        with without_autocast(x.device.type):
            y, *statistics = FusedBlock.apply(self._described(x, keep), x, *self.arrays)  # type: ignore[no-untyped-call]
        self._record(x, [Moments(*statistics[i : i + 2]) for i in range(0, len(statistics), 2)])
        for module in self.tail.after if self.tail else ():
            y = module(y)
        return y

    def apart(self, x: Tensor, pair: Pair) -> Tensor:
        for units in self.layers:
            y = x
            for unit in units:
                y = unit.conv(pair(unit.norm, y))
                y = y if unit.dropout is None else unit.dropout(y)
            x = torch.cat([x, y], 1)
        if self.tail is None:
            return x
        x = pair(self.tail.norm, x) if self.tail.relu else self.tail.norm(x)
        x = avg_pool(x) if self.tail.pool else x
        for module in self.tail.after:
            x = module(x)
        return x

    def _described(self, x: Tensor, keep: bool) -> BlockConfig:
        own = self.tail
        tail = TailConfig(own.norm.eps, own.relu, own.pool) if own else None
        layers = tuple(tuple(_unit_of(unit, x) for unit in units) for units in self.layers)
        return BlockConfig(layers, tail, keep)

    def _record(self, x: Tensor, moments: Sequence[Moments]) -> None:
        """Take the batch into the running statistics of every norm."""
        features, inner = moments[0], list(moments[1:])
        readers = [units[0].norm for units in self.layers] + ([self.tail.norm] if self.tail else [])
        average(readers, features, x)
        seconds = [units[1].norm for units in self.layers if len(units) == 2]
        for norm, own in zip(seconds, inner, strict=True):
            average([norm], own, x)


@dataclass(frozen=True)
class PoolModules(Fused):
    """Holds the modules at the end of a stem: a norm, a ReLU (without state) and a max pool."""

    norm: _BatchNorm
    pool: nn.MaxPool2d

    @property
    def takes(self) -> int:
        return 3

    @property
    def norms(self) -> list[_BatchNorm]:
        return [self.norm]

    @property
    def arrays(self) -> list[Any]:
        return [self.norm.weight, self.norm.bias]

    @uncompiled
    def run(self, x: Tensor, keep: bool) -> Tensor:
        window, stride, padding = (
            _pair(size) for size in (self.pool.kernel_size, self.pool.stride, self.pool.padding)
        )
        op = NormPool(self.norm.eps, window, stride, padding)
        with without_autocast(x.device.type):
            y, *moments = FusedPool.apply(op, x, *self.arrays)  # type: ignore[no-untyped-call]
        average([self.norm], Moments(*moments), x)
        return y

    def apart(self, x: Tensor, pair: Pair) -> Tensor:
        y: Tensor = self.pool(pair(self.norm, x))
        return y


def _pair(size: Any) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else size


@torch.no_grad()
def average(norms: Sequence[Any], moments: Moments, x: Tensor) -> None:
    """Take the moments of a batch into running statistics; a norm has the first channels of them.

    Args:
        x: (n, c, *spatial), of the batch and the spatial size.
    """
    count = x.numel() // x.shape[1]
    unbiased = moments.variance * (count / (count - 1))
    for norm in norms:
        variance = moments.variance if type(norm) in _BIASED else unbiased
        batches = norm.num_batches_tracked.add_(1)
        share = 1 / batches.to(variance.dtype) if norm.momentum is None else norm.momentum
        norm.running_mean.lerp_(moments.mean[: norm.num_features], share)
        norm.running_var.lerp_(variance[: norm.num_features], share)


def _unit_of(unit: UnitModules, x: Tensor) -> UnitConfig:
    conv = unit.conv
    kept, scale = _mask(unit.dropout, x, conv.out_channels)
    return UnitConfig(unit.norm.eps, conv.padding, conv.bias is not None, kept, scale)


def _mask(dropout: nn.Dropout | None, x: Tensor, channels: int) -> tuple[Any, Any]:
    """Return what a dropout keeps of (n, *spatial, channels), and the factor on it."""
    if dropout is None or not (dropout.training or masked(dropout)):
        return None, None
    with torch.no_grad():
        values = dropout(x.new_ones((len(x), channels, *x.shape[2:])))
    return (values != 0).movedim(1, -1), values.amax()


_BIASED = frozenset(BIASED_NORM.values())
