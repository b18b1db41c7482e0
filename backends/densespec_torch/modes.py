"""Runs :class:`DenseNet`'s module tree faster or in less memory.

If a dense block can be fused, it and the norm after it are computed as one function
(:mod:`densespec_torch.blocks`). If not, their modules run as in a plain :class:`DenseNet`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.module import _has_any_global_hook as _global_hooks

from densespec.network.graph import Graph, Node
from densespec.network.steps import steps
from densespec_torch.allocation import keep_freed_memory
from densespec_torch.as_built import computes, untouched
from densespec_torch.autocasting import type_of_autocast
from densespec_torch.fused import Fused
from densespec_torch.modules import DenseNet, Part, Placed
from densespec_torch.pairs import in_place, in_triton, triton_computes
from densespec_torch.turns import Turn, turns

_DTYPES = (torch.float32, torch.float64)

FUSED, MODULES, TRITON = WAYS = ("fused", "modules", "triton")
"""The ways in which a block can be trained: see :attr:`Features.ways`."""

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

    ``model.features.taken`` tells how the last training call computed each block. Whether a block
    is fused depends on shapes and types alone, so a run that is repeated gives the same bits.
    ``model.features.ways`` can say otherwise, and :func:`densespec_torch.choose_ways` measures it.

    Gradients of gradients are an error.

    Memory that a step frees stays with the process for the next one: see
    :mod:`densespec_torch.allocation`.
    """

    keeps = True

    def __init__(self, graph: Graph) -> None:
        super().__init__(graph)
        if self.keeps:
            keep_freed_memory()

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
        turns: What is computed at a time.
        fuses_from: The number of values of a block's features from which it is fused in float32.
        taken: The way in which the last call in training mode computed each child that can be
            computed with what is behind it in more than one.
    """

    turns: tuple[Turn, ...]
    taken: dict[str, str]

    def __init__(self, graph: Graph, members: Placed, depth: int, *, keep: bool) -> None:
        super().__init__(graph, members, depth)
        self._keep = keep
        self.fuses_from = FEWEST if keep else 0
        self.taken, self._ways = {}, dict[str, str]()
        self._places = {node.name: tuple(path[depth:]) for path, node in members}
        own = Graph(graph.spec, (graph.input, *(node for _, node in members)))
        chain = steps(own, batch=lambda norm: not norm.frozen)
        given = self._gives if graph.outputs else ()
        self.turns = tuple(turns(chain, lambda node: self._places[node.name][0], given))

    @property
    def ways(self) -> dict[str, str]:
        """Return in which way children are trained, by name, where it is not left to the rule.

        ``"fused"`` is one function with what is behind the child, and ``"modules"`` their modules.
        ``"triton"`` is modules, but each norm with its ReLU in Triton, on a GPU.
        """
        return dict(self._ways)

    @ways.setter
    def ways(self, ways: Mapping[str, str]) -> None:
        known = [turn.children[0] for turn in self.turns if turn.fuses]
        if unknown := [name for name in ways if name not in known]:
            raise ValueError(f"no choice for {unknown[0]!r}: there is one for {', '.join(known)}")
        if others := [way for way in ways.values() if way not in WAYS]:
            raise ValueError(f"unknown way {others[0]!r}: should be one of {', '.join(WAYS)}")
        self._ways = dict(ways)

    def forward(self, x: Tensor) -> Any:
        x = self.laid_out(x)
        trains = self.training and not torch.compiler.is_exporting()
        values = {}
        if trains:
            self.taken = {}
        for turn in self.turns:
            x = self.trained(turn, x) if trains else self._by_modules(turn, x)
            if turn.gives in self._gives:
                values[turn.gives] = x
        return self._result(values)

    def laid_out(self, x: Tensor) -> Tensor:
        """Return an input in the layout in which it is computed, channels_last."""
        return x.to(memory_format=_LAYOUT.get(x.dim(), torch.preserve_format))

    def possible(self, turn: Turn, x: Tensor) -> tuple[str, ...]:
        """Return the ways in which a turn can be trained for an input; none if there is no choice.

        The first is what the rule says.
        """
        if self._fused(turn, x) is None:
            return ()
        others = (MODULES, FUSED, TRITON) if triton_computes(x.device) else (MODULES, FUSED)
        return tuple(dict.fromkeys((self._rule(turn, x), *others)))

    def trained(self, turn: Turn, x: Tensor) -> Tensor:
        """Compute a turn in training mode."""
        fused, name, way = self._fused(turn, x), turn.children[0], MODULES
        if fused is not None:
            way = self._ways.get(name) or self._rule(turn, x)
        if turn.fuses:
            self.taken[name] = way
        if fused is None:
            return self._by_modules(turn, x)
        return self._by_children(turn.children[fused.takes :], self._computed(fused, way, x))

    def _computed(self, fused: Fused, way: str, x: Tensor) -> Tensor:
        if way == FUSED:
            return fused.run(x.to(_type_to_fuse(x)), self._keep)
        return fused.apart(x, in_triton if way == TRITON else in_place)

    def _fused(self, turn: Turn, x: Tensor) -> Fused | None:
        """Return the modules of a turn, if they can be computed together for an input."""
        fused = turn.fused(self._built) if _type_to_fuse(x) else None
        return fused if fused is not None and fused.suits(x) else None

    def _rule(self, turn: Turn, x: Tensor) -> str:
        """Return the way that saves what the mode is for, by shapes and types alone."""
        if not self._keep:
            return FUSED
        dtype = _type_to_fuse(x)
        large = dtype == torch.float64 or turn.size(x) >= self.fuses_from
        return FUSED if large and x.device.type == "cpu" and dtype in _DTYPES else MODULES

    def _by_modules(self, turn: Turn, x: Tensor) -> Tensor:
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
