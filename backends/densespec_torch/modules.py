"""The module tree: parts of the graph nested by name, each running its children in graph order."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from densespec.network.graph import Graph, Node
from densespec.weights.layouts.torch_names import module_path
from densespec_torch.layers import Concat, emit
from densespec_torch.norms import SynchronisedNorm
from densespec_torch.scripting import require_scriptable, require_size

Placed = Sequence[tuple[list[str], Node]]
"""Nodes, each behind the names that lead to its module."""


@dataclass(frozen=True)
class _Child:
    """A child: it reads values by name and gives one, after which some are needed no more."""

    name: str
    reads: tuple[str, ...]
    gives: str
    spent: tuple[str, ...]


class Part(nn.Module):
    """A part of the network with one input and one output, such as a dense block or a layer.

    Args:
        graph: The network.
        placed: The nodes of the part.
        depth: How many names lead to the part itself.
    """

    def __init__(self, graph: Graph, placed: Placed, depth: int) -> None:
        super().__init__()
        reads: list[tuple[str, tuple[str, ...], str]] = []
        for child, group in itertools.groupby(placed, key=lambda item: item[0][depth]):
            members = list(group)
            path, last = members[-1]
            leaf = len(path) == depth + 1
            module = emit(last) if leaf else self._nested(graph, child, members, depth + 1)
            self.add_module(child, module)
            inner = {node.name for _, node in members}
            outer = dict.fromkeys(n for _, node in members for n in node.inputs if n not in inner)
            reads.append((child, tuple(outer), last.name))
        self._entry = reads[0][1][0]
        self._children = _with_lifetimes(reads)

    def _nested(self, graph: Graph, name: str, members: Placed, depth: int) -> Part:
        """Make a child that is a part itself."""
        return Part(graph, members, depth)

    def add_module(self, name: str, module: nn.Module | None) -> None:
        """Add a child; where PyTorch converts a norm to ``SyncBatchNorm``, densespec's own."""
        norm = self._modules.get(name)
        if isinstance(module, nn.SyncBatchNorm) and isinstance(norm, _BatchNorm):
            module = SynchronisedNorm.of(norm, module.process_group)
        super().add_module(name, module)

    def __prepare_scriptable__(self) -> Any:
        """Give what ``torch.jit.script`` compiles in the place of this module.

        TorchScript looks up no modules as it runs, so their calls are written out.

        Raises:
            TypeError: TorchScript can't compile a module, such as a padding that depends on sizes.
        """
        graph = fx.Graph()
        x = graph.placeholder("x")
        self._written_before(graph, x)
        graph.output(self.written(graph, x, ""))
        return fx.GraphModule(self, graph)

    def _written_before(self, graph: fx.Graph, x: fx.Node) -> None:
        """Write out what comes before the children."""

    def written(self, graph: fx.Graph, x: fx.Node, prefix: str) -> fx.Node:
        """Write the calls of all modules into a graph of calls, and give the last one.

        Args:
            x: What gives the input.
            prefix: What stands before the names of children.
        """
        values = {self._entry: x}
        for child in self._children:
            module, inputs = self._modules[child.name], [values[name] for name in child.reads]
            if isinstance(module, Part):
                x = module.written(graph, inputs[0], f"{prefix}{child.name}.")
            elif isinstance(module, Concat):
                x = graph.call_function(torch.cat, (inputs, 1))
            else:
                require_scriptable(f"{prefix}{child.name}", module)
                x = graph.call_module(f"{prefix}{child.name}", tuple(inputs))
            values[child.gives] = x
        return x

    def forward(self, x: Tensor) -> Tensor:
        values = {self._entry: x}
        for child in self._children:
            x = self._modules[child.name](*[values[name] for name in child.reads])  # type: ignore[misc]
            for name in child.spent:
                del values[name]
            values[child.gives] = x
        return x


def _with_lifetimes(reads: Sequence[tuple[str, tuple[str, ...], str]]) -> tuple[_Child, ...]:
    last_reader = {name: child for child, names, _ in reads for name in names}
    return tuple(
        _Child(child, names, gives, tuple(n for n in names if last_reader[n] == child))
        for child, names, gives in reads
    )


class DenseNet(Part):
    """A DenseNet as a plain module, which takes (batch, channels, *spatial) to logits or features.

    Module names are torchvision's, such as ``features.denseblock1.denselayer1.norm1``.
    """

    def __init__(self, graph: Graph) -> None:
        placed = [(module_path(node.name).split("."), node) for node in graph.nodes[1:]]
        super().__init__(graph, placed, 0)
        self._sizes = graph.input_size

    def forward(self, x: Tensor) -> Tensor:
        self.check_size(x.shape)
        return super().forward(x)

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
