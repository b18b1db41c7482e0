"""Nests parts of the graph by name as modules, each of which runs its children in graph order."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from densespec.network.graph import Graph, Node
from densespec.weights.layouts.torch_names import module_path
from densespec_torch.heads import WithHead
from densespec_torch.layers import Concat, emit
from densespec_torch.norms import SynchronisedNorm
from densespec_torch.scripting import require_scriptable, require_size

Placed = Sequence[tuple[list[str], Node]]
"""Holds nodes, each after the names that lead to its module."""


@dataclass(frozen=True)
class _Child:
    """Holds a child: it reads values by name and gives some, after which others are not needed."""

    name: str
    reads: tuple[str, ...]
    gives: tuple[str, ...]
    spent: tuple[str, ...]


class Part(nn.Module):
    """This is a part of the network with one input, such as a dense block or a layer.

    It gives one value, or a tuple of the values within it that the network gives, and of its last
    value.

    Args:
        graph: The network.
        placed: The nodes of the part.
        depth: The number of names that lead to the part itself.
    """

    def __init__(self, graph: Graph, placed: Placed, depth: int) -> None:
        super().__init__()
        outputs = {node.name for node in graph.given} if graph.outputs else set[str]()
        children: list[_Child] = []
        for child, group in itertools.groupby(placed, key=lambda item: item[0][depth]):
            members = list(group)
            path, last = members[-1]
            leaf = len(path) == depth + 1
            module = emit(last) if leaf else self._nested(graph, child, members, depth + 1)
            self.add_module(child, module)
            inner = {node.name for _, node in members}
            outer = dict.fromkeys(n for _, node in members for n in node.inputs if n not in inner)
            gives = _given(members, outputs)
            children.append(_Child(child, tuple(outer), gives, ()))
        self._entry = children[0].reads[0]
        self._gives = _given(placed, outputs)
        self._children = _with_lifetimes(children, self._gives)

    def _nested(self, graph: Graph, name: str, members: Placed, depth: int) -> Part:
        """Make a child that is a part itself."""
        return Part(graph, members, depth)

    def add_module(self, name: str, module: nn.Module | None) -> None:
        """Add a child; where PyTorch converts a norm to ``SyncBatchNorm``, densespec's own."""
        norm = self._modules.get(name)
        if isinstance(module, nn.SyncBatchNorm) and isinstance(norm, _BatchNorm):
            module = SynchronisedNorm.of(norm, module.process_group)
        super().add_module(name, module)

    # What an ``nn.Sequential`` has

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[nn.Module]:
        return self.children()

    def __getitem__(self, place: int | slice) -> nn.Module:
        """Return a child by its number, or several that run one after another as an
        ``nn.Sequential`` of the same modules.

        Raises:
            TypeError: Those do not run one after another: each reads what others gave.
        """
        if not isinstance(place, slice):
            return list(self.children())[place]
        chosen = self._children[place]
        for before, child in itertools.pairwise(chosen):
            if child.reads != before.gives:
                raise TypeError(
                    f"{child.name} does not read what {before.name} gives alone, so that these "
                    "are no nn.Sequential: take one by its number"
                )
        return nn.Sequential(OrderedDict((c.name, self.get_submodule(c.name)) for c in chosen))

    def __prepare_scriptable__(self) -> Any:
        """Return what ``torch.jit.script`` compiles in the place of this module.

        TorchScript looks up no modules as it runs, so their calls are written out.

        Raises:
            TypeError: TorchScript can't compile a module, such as a padding that depends on sizes.
        """
        graph = fx.Graph()
        x = graph.placeholder("x")
        self._written_before(graph, x)
        graph.output(self._result(self.written(graph, x, "")))
        return fx.GraphModule(self, graph)

    def _written_before(self, graph: fx.Graph, x: fx.Node) -> None:
        """Write out what comes before the children."""

    def written(self, graph: fx.Graph, x: fx.Node, prefix: str) -> dict[str, fx.Node]:
        """Write the calls of all modules into a graph of calls, and give those by name whose values
        the part gives.

        Args:
            x: What gives the input.
            prefix: What stands before the names of children.
        """
        values = {self._entry: x}
        for child in self._children:
            module, inputs = self._modules[child.name], [values[name] for name in child.reads]
            if isinstance(module, Part):
                values |= module.written(graph, inputs[0], f"{prefix}{child.name}.")
            elif isinstance(module, Concat):
                values[child.gives[0]] = graph.call_function(torch.cat, (inputs, 1))
            else:
                require_scriptable(f"{prefix}{child.name}", module)
                called = graph.call_module(f"{prefix}{child.name}", tuple(inputs))
                values[child.gives[0]] = called
        return {name: values[name] for name in self._gives}

    def forward(self, x: Tensor) -> Any:
        values = {self._entry: x}
        for child in self._children:
            y = self._modules[child.name](*[values[name] for name in child.reads])  # type: ignore[misc]
            for name in child.spent:
                del values[name]
            values.update(zip(child.gives, y if len(child.gives) > 1 else (y,), strict=True))
        return self._result(values)

    def _result(self, values: Mapping[str, Any]) -> Any:
        """Return what the part gives, of values by name."""
        given = tuple(values[name] for name in self._gives)
        return given if len(given) > 1 else given[0]


def _given(placed: Placed, outputs: Collection[str]) -> tuple[str, ...]:
    """Name the nodes of a part whose values it gives: the network's outputs, and its last one."""
    names = [node.name for _, node in placed]
    return tuple(name for name in names if name in outputs or name == names[-1])


def _with_lifetimes(children: Sequence[_Child], kept: Collection[str]) -> tuple[_Child, ...]:
    last_reader = {name: child.name for child in children for name in child.reads}
    return tuple(
        replace(
            child,
            spent=tuple(n for n in child.reads if last_reader[n] == child.name and n not in kept),
        )
        for child in children
    )


class DenseNet(Part, WithHead):
    """This is a DenseNet as a plain module, which takes (batch, channels, *spatial).

    It gives logits or features, or a tuple of the outputs that it was built with.

    Module names are torchvision's, such as ``features.denseblock1.denselayer1.norm1``.
    """

    def __init__(self, graph: Graph) -> None:
        placed = [(module_path(node.name).split("."), node) for node in graph.nodes[1:]]
        super().__init__(graph, placed, 0)
        self._sizes = graph.input_size
        self.know_head(graph)
        self._outputs = tuple(node.name for node in graph.given) if graph.outputs else ()

    def forward(self, x: Tensor) -> Any:
        self.check_size(x.shape)
        return super().forward(x)

    def _result(self, values: Mapping[str, Any]) -> Any:
        """Return the outputs in the order that was asked for, if any was."""
        if self._outputs:
            return tuple(values[name] for name in self._outputs)
        return super()._result(values)

    def _written_before(self, graph: fx.Graph, x: fx.Node) -> None:
        if any(self._sizes):
            graph.call_function(require_size, (x, [size or -1 for size in self._sizes]))

    def check_size(self, shape: Sequence[int]) -> None:
        """Refuse another size than the network was built for: its padding may depend on it.

        Raises:
            ValueError: The input, of a shape (batch, channels, *spatial), has another size.
        """
        if not any(self._sizes):
            return
        sizes = shape[2:]
        fits = len(sizes) == len(self._sizes) and all(
            size in (None, actual) for size, actual in zip(self._sizes, sizes, strict=True)
        )
        if not fits:
            wanted = ", ".join(str(size or "any") for size in self._sizes)
            raise ValueError(
                f"input of spatial size {tuple(sizes)}, but this network was built for ({wanted}): "
                "build it without input_shape for any size"
            )
