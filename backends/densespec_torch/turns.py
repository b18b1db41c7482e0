"""Cuts a network into what is computed at a time in the modes that train fast: a dense block with
the norm behind it, the end of a stem, or modules one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from densespec.network import ops
from densespec.network.graph import Node
from densespec.network.steps import Block, Convolution, NormRelu, Single, Step, Unit
from densespec_torch.fused import BlockModules, Fused, PoolModules, TailModules, UnitModules

Built = Callable[[Sequence[Node]], dict[str, Any] | None]
"""Gives the modules of some nodes, if they are as they were built."""


@dataclass(frozen=True)
class Turn:
    """Groups children of the network that run one after another.

    Attributes:
        fuses: Whether the first of them can be one function with what is behind it.
        gives: The name of the node whose value they give.
        transition: If the last child is a transition, its nodes, the pool before the convolution.
    """

    fuses: ClassVar[bool] = False

    children: tuple[str, ...]
    gives: str
    transition: tuple[Node, ...] = ()

    def fused(self, built: Built) -> Fused | None:
        """Return the modules that can be one function; None if the children run one by one."""
        return None

    def size(self, x: Tensor) -> int:
        """Return the number of values that a fused function works on for an input."""
        return x.numel()


@dataclass(frozen=True, kw_only=True)
class PoolTurn(Turn):
    """This is the end of a stem."""

    fuses: ClassVar[bool] = True

    norm: Node
    relu: Node
    pool: Node

    def fused(self, built: Built) -> PoolModules | None:
        modules = built((self.norm, self.relu, self.pool))
        return PoolModules(modules[self.norm.name], modules[self.pool.name]) if modules else None


@dataclass(frozen=True, kw_only=True)
class BlockTurn(Turn):
    """Groups a dense block, and the norm or the transition behind it.

    Attributes:
        nodes: The nodes of the block.
        units: The units of each of its layers.
        behind: The steps behind the block.
    """

    fuses: ClassVar[bool] = True

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


def turns(
    chain: Sequence[Step], child: Callable[[Node], str], given: Collection[str]
) -> Iterator[Turn]:
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


def _turn(taken: Sequence[Step], children: tuple[str, ...]) -> Turn:
    gives = taken[-1].output.name
    match taken:
        case [Block() as block, *behind]:
            order = _transition(behind)
            return BlockTurn(
                children, gives, order, nodes=block.nodes, units=_units(block), behind=tuple(behind)
            )
        case [NormRelu(norm, Node() as relu), Single(node=Node(op=ops.MaxPool()) as pool)]:
            return PoolTurn(children, gives, norm=norm, relu=relu, pool=pool)
    return Turn(children, gives)


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
