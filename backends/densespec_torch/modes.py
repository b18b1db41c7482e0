"""Runs :class:`DenseNet`'s module tree faster or in less memory.

If a dense block can be fused, it and the norm after it are computed as one function
(:mod:`densespec_torch.blocks`). If not, their modules run as in a plain :class:`DenseNet`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.module import _has_any_global_hook as _global_hooks

from densespec.network import ops
from densespec.network.graph import Graph, Node
from densespec.network.steps import Block, Convolution, NormRelu, Single, Step, Unit, steps
from densespec_torch.as_built import computes, untouched
from densespec_torch.autocasting import type_of_autocast
from densespec_torch.fused import BlockModules, PoolModules, TailModules, UnitModules
from densespec_torch.modules import DenseNet, Part, Placed

_DTYPES = (torch.float32, torch.float64)

FEWEST = 3 * 2**18
"""A block whose features have fewer values is faster by its modules: its passes over memory cost
more than they save. This was measured with DenseNet-121 and with growth rates of 12."""


class FastDenseNet(DenseNet):
    """This is a DenseNet that trains faster.

    Dense blocks are fused with the norm after them, and transitions pool before they convolve. A
    block runs as its plain modules, with the same result, where

    - a module of it has hooks: they are called, and see what they see in a plain network,
    - a module of it was replaced by one of another kind, such as a synchronised norm,
    - it is in inference mode, or its norms are not all in training mode, as when it is frozen,
    - it runs under ``torch.func``, or in another type than float32 or float64,
    - it runs under autocast or on an accelerator, where it would take longer,
    - its features have fewer values than ``model.features.fuses_from``, 786,432 unless it is set,
      which takes longer too; in float64, which is for proofs, such blocks are fused.

    ``model.features.fused`` names the children that the last training call fused. Whether a block
    is fused depends on shapes and types alone, so a run that is repeated gives the same bits.

    Gradients of gradients are an error.
    """

    keeps = True

    def _nested(self, graph: Graph, name: str, members: Placed, depth: int) -> Part:
        if name == "features":
            return Features(graph, members, depth, keep=self.keeps)
        return super()._nested(graph, name, members, depth)


class EfficientDenseNet(FastDenseNet):
    """This is a :class:`FastDenseNet` that keeps only the features of a dense block.

    The output of a bottleneck's first convolution is computed again in the backward pass. Memory
    grows linearly with the depth. Blocks are fused on accelerators and under autocast too, which
    takes longer there. Under autocast to 16 bits, features are kept and convolutions are computed
    in that type, norms and sums in float32, and weights of float32 have gradients of float32.
    """

    keeps = False


class Features(Part):
    """This is the part of the network before the head, with fused blocks.

    Args:
        keep: Whether the output of a bottleneck's first convolution is kept for the backward pass.

    Attributes:
        fuses_from: The number of values of a block's features from which it is fused in float32.
        fused: The children that the last call in training mode computed as one function with what
            is behind them.
    """

    fused: tuple[str, ...]

    def __init__(self, graph: Graph, members: Placed, depth: int, *, keep: bool) -> None:
        super().__init__(graph, members, depth)
        self._keep = keep
        self.fuses_from, self.fused = FEWEST if keep else 0, ()
        self._places = {node.name: tuple(path[depth:]) for path, node in members}
        own = Graph(graph.spec, (graph.input, *(node for _, node in members)))
        chain = steps(own, batch=lambda norm: not norm.frozen)
        given = self._gives if graph.outputs else ()
        self._turns = tuple(_turns(chain, lambda node: self._places[node.name][0], given))

    def forward(self, x: Tensor) -> Any:
        x = x.to(memory_format=_LAYOUT.get(x.dim(), torch.preserve_format))
        trains = self.training and not torch.compiler.is_exporting()
        values = {}
        if trains:
            self.fused = ()
        for turn in self._turns:
            x = self._trained(turn, x) if trains else self._by_modules(turn, x)
            if turn.gives in self._gives:
                values[turn.gives] = x
        return self._result(values)

    def _trained(self, turn: _Turn, x: Tensor) -> Tensor:
        dtype = _type_to_fuse(x)
        fused = turn.fused(self._built) if dtype and self._gains(turn, x, dtype) else None
        if fused is None or not fused.suits(given := x.to(dtype)):
            return self._by_modules(turn, x)
        self.fused += turn.children[:1]
        return self._by_children(turn.children[fused.takes :], fused.run(given, self._keep))

    def _gains(self, turn: _Turn, x: Tensor, dtype: torch.dtype) -> bool:
        """Say whether a turn that is fused in a type saves what the mode is for."""
        if not self._keep:
            return True
        large = dtype == torch.float64 or turn.size(x) >= self.fuses_from
        return large and x.device.type == "cpu" and dtype in _DTYPES

    def _by_modules(self, turn: _Turn, x: Tensor) -> Tensor:
        """Compute by the modules; transitions pool before they convolve."""
        transition = None if _global_hooks() else self._built(turn.transition)  # type: ignore[no-untyped-call]
        if not transition:
            return self._by_children(turn.children, x)
        x = self._by_children(turn.children[:-1], x)
        for module in transition.values():
            x = module(x)
        return x

    def _by_children(self, children: Sequence[str], x: Tensor) -> Tensor:
        for child in children:
            x = self._modules[child](x)  # type: ignore[misc]
        return x

    def _built(self, nodes: Sequence[Node]) -> dict[str, Any] | None:
        """Return the modules of some nodes by name, if they and their parents are as built."""
        found: dict[str, Any] = {}
        parts: dict[tuple[str, ...], Any] = {(): self}
        for node in nodes:
            place = self._places[node.name]
            path = place[:-1]
            part = parts[path] if path in parts else parts.setdefault(path, self._part(path))
            module = part and part._modules.get(place[-1])
            if module is None or not computes(module, node.op):
                return None
            found[node.name] = module
        return found

    def _part(self, path: Sequence[str]) -> Any:
        part: Any = self
        for name in path:
            part = part._modules.get(name)
            if type(part) is not Part or not untouched(part):
                return None
        return part


_LAYOUT = {4: torch.channels_last, 5: torch.channels_last_3d}


def _type_to_fuse(x: Tensor) -> torch.dtype | None:
    """Return the type in which modules may be fused for an input; None if they may not.

    Under autocast some pools give float32, and what is behind them rounds that.
    """
    if torch._C._are_functorch_transforms_active() or _global_hooks():  # type: ignore[no-untyped-call]
        return None
    cast = type_of_autocast(x.device.type)
    if cast is None:
        return x.dtype if x.dtype in _DTYPES else None
    return cast if x.dtype in (cast, torch.float32) else None


# What runs at a time

Built = Callable[[Sequence[Node]], dict[str, Any] | None]
"""Gives the modules of some nodes, if they are as they were built: :class:`Features` does."""


@dataclass(frozen=True)
class _Turn:
    """Groups children of the network that run one after another.

    Attributes:
        gives: The name of the node whose value they give.
        transition: If the last child is a transition, its nodes, the pool before the convolution.
    """

    children: tuple[str, ...]
    gives: str
    transition: tuple[Node, ...] = ()

    def fused(self, built: Built) -> BlockModules | PoolModules | None:
        """Return the modules that can be one function; None if the children run one by one."""
        return None

    def size(self, x: Tensor) -> int:
        """Return the number of values that a fused function works on for an input."""
        return x.numel()


@dataclass(frozen=True, kw_only=True)
class _PoolTurn(_Turn):
    """This is the end of a stem."""

    norm: Node
    relu: Node
    pool: Node

    def fused(self, built: Built) -> PoolModules | None:
        modules = built((self.norm, self.relu, self.pool))
        return PoolModules(modules[self.norm.name], modules[self.pool.name]) if modules else None


@dataclass(frozen=True, kw_only=True)
class _BlockTurn(_Turn):
    """Groups a dense block, and the norm or the transition behind it.

    Attributes:
        nodes: The nodes of the block.
        units: The units of each of its layers.
        behind: The steps behind the block.
    """

    nodes: tuple[Node, ...]
    units: tuple[tuple[Unit, ...], ...]
    behind: tuple[Step, ...]

    def fused(self, built: Built) -> BlockModules | None:
        modules = built(self.nodes) if self.units else None
        if modules is None:
            return None
        layers = (tuple(_unit(unit, modules) for unit in units) for units in self.units)
        return BlockModules(tuple(layers), self._tail(built))

    def size(self, x: Tensor) -> int:
        new = sum(units[-1].conv.weights[0].shape[0] for units in self.units)
        return x.numel() // x.shape[1] * (x.shape[1] + new)

    def _tail(self, built: Built) -> TailModules | None:
        modules = built([node for step in self.behind for node in step.nodes])
        if not modules:
            return None
        norm, *others = modules.values()
        relu, pools = len(self.behind[0].nodes) > 1, bool(self.transition)
        after = tuple(others[relu:])
        return TailModules(norm, relu, pools, after[:1] if pools else after)


def _unit(unit: Unit, modules: Mapping[str, Any]) -> UnitModules:
    dropout = modules[unit.dropout.name] if unit.dropout else None
    return UnitModules(modules[unit.norm.name], modules[unit.conv.name], dropout)


def _turns(
    chain: Sequence[Step], child: Callable[[Node], str], given: Collection[str]
) -> Iterator[_Turn]:
    """Cut steps at the ends of children, but not where two children are fused.

    Args:
        child: Tells in which child a node is.
        given: The names of nodes whose values are given, and so are not fused away.
    """
    rest = list(chain)
    while rest:
        taken = [rest.pop(0)]
        if rest and taken[0].output.name not in given and _fuse(taken[0], rest[0]):
            taken.append(rest.pop(0))
        while rest and child(rest[0].nodes[0]) == child(taken[-1].output):
            taken.append(rest.pop(0))
        yield _turn(taken, tuple(dict.fromkeys(child(n) for step in taken for n in step.nodes)))


def _fuse(step: Step, behind: Step) -> bool:
    """Say whether a step and the one behind it, of other children, can be one function."""
    match step, behind:
        case (Block(), NormRelu()) | (NormRelu(), Single(node=Node(op=ops.MaxPool()))):
            return True
    return False


def _turn(taken: Sequence[Step], children: tuple[str, ...]) -> _Turn:
    gives = taken[-1].output.name
    match taken:
        case [Block() as block, *behind]:
            order = _transition(behind)
            return _BlockTurn(
                children, gives, order, nodes=block.nodes, units=_units(block), behind=tuple(behind)
            )
        case [NormRelu(norm, Node() as relu), Single(node=Node(op=ops.MaxPool()) as pool)]:
            return _PoolTurn(children, gives, norm=norm, relu=relu, pool=pool)
    return _Turn(children, gives)


def _units(block: Block) -> tuple[tuple[Unit, ...], ...]:
    """Return the units of each layer of a block; none if it has other norms or activations."""
    try:
        return tuple(layer.units for layer in block.layers)
    except ValueError:
        return ()


def _transition(behind: Sequence[Step]) -> tuple[Node, ...]:
    """Return a transition's nodes, with the pool first; none if the two do not commute."""
    match behind:
        case [NormRelu() as first, Convolution(conv=conv, pool=Node() as pool)]:
            return (*first.nodes, pool, conv)
    return ()
