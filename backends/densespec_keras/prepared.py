"""Computes whole networks on PyTorch by the program that ``torch.nn`` has in mode ``inference``.

A program folds the values of a model's variables, which users may change at any time and in any
way. So each call looks whether they still are what the program was made of.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras
import torch
from torch import Tensor

from densespec.network import ops
from densespec.network.graph import Graph, Node
from densespec.weights.layouts.densespec_keras import layer_name
from densespec_keras.variables import attribute_of, canonical, to_numpy
from densespec_torch.inference import is_transformed
from densespec_torch.primitives import first, last
from densespec_torch.program import Program
from densespec_torch.snapshot import Snapshot

_DTYPES = (torch.float32, torch.float64)
_KINDS = (Tensor, torch.nn.Parameter)


@dataclass(frozen=True)
class _Made:
    """Holds a program, and what it was made of: the values of variables, and of epsilons."""

    program: Program
    snapshot: Snapshot
    epsilons: tuple[float, ...]


class PreparedNetwork:
    """Holds the program of a network of layers, and makes it anew after a change.

    Args:
        layers: The layers by name.
    """

    def __init__(self, graph: Graph, layers: Mapping[str, Any]) -> None:
        self._graph = graph
        self._normed = [node for node in graph.nodes if hasattr(node.op, "epsilon")]
        self._norms = [layers[layer_name(node.name)] for node in self._normed]
        self._names = [weight.name for weight in graph.weights]
        self._places = [
            (layers[layer_name(node.name)], attribute_of(weight))
            for node in graph.nodes
            for weight in node.weights
        ]
        self._made: _Made | None = None
        self._lock = threading.Lock()

    def __call__(self, x: Tensor, names: Sequence[str] | None) -> Any:
        """See :class:`densespec_keras.kernels.WholeNetwork`.

        The steps compute where gradients are wanted or PyTorch traces, on accelerators, under
        autocast, and if an array is something else than a variable of x's type.
        """
        x = first(x)
        program = self._program(x)
        if program is None:
            return None
        if names is not None:
            return {name: last(y) for name, y in program.run(x, names).items()}
        y = program.given(x)
        return tuple(map(last, y)) if isinstance(y, tuple) else last(y)

    def _program(self, x: Tensor) -> Program | None:
        """Return the program for the present values."""
        tensors = self._tensors()
        if tensors is None or not _is_plain(x, tensors):
            return None
        epsilons = tuple(norm.epsilon for norm in self._norms)
        made = self._made
        if made and made.epsilons == epsilons and made.snapshot.is_untouched(tensors):
            return made.program
        with self._lock:
            self._made = made = self._renewed(tensors, epsilons)
        return made.program if made else None

    def _tensors(self) -> list[Tensor] | None:
        variables = [getattr(layer, name) for layer, name in self._places]
        if not all(isinstance(variable, keras.Variable) for variable in variables):
            return None
        return [variable.value for variable in variables]

    def _renewed(self, tensors: Sequence[Tensor], epsilons: tuple[float, ...]) -> _Made | None:
        like, before = tensors[0], self._made
        if any(not _is_ordinary(tensor, like) for tensor in tensors):
            return None
        snapshot = Snapshot(tensors)
        if before and before.epsilons == epsilons and before.snapshot.equals(snapshot):
            return replace(before, snapshot=snapshot)
        with torch.inference_mode(mode=False), torch.no_grad():
            values = zip(self._names, map(to_numpy, snapshot.copies()), strict=True)
            program = Program(self._graph_now(epsilons), canonical(dict(values)), like.detach())
        return _Made(program, snapshot, epsilons)

    def _graph_now(self, epsilons: Sequence[float]) -> Graph:
        own = {node.name: e for node, e in zip(self._normed, epsilons, strict=True)}
        return replace(
            self._graph,
            nodes=tuple(
                _with_epsilon(node, own[node.name]) if node.name in own else node
                for node in self._graph.nodes
            ),
        )


def _with_epsilon(node: Node, epsilon: float) -> Node:
    assert isinstance(node.op, ops.BatchNorm | ops.GroupNorm)
    return replace(node, op=replace(node.op, epsilon=epsilon))


def _is_plain(x: Tensor, tensors: Sequence[Tensor]) -> bool:
    """Say whether nothing is wanted but the values for x."""
    if x.device.type != "cpu" or x.dtype not in _DTYPES or torch.is_autocast_enabled("cpu"):
        return False
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        return False
    return x.dtype == tensors[0].dtype and not is_transformed(x)


def _is_ordinary(tensor: Tensor, like: Tensor) -> bool:
    """Say whether a tensor has its values in this process's memory, in the type of another."""
    return (
        type(tensor) in _KINDS
        and not tensor.is_inference()
        and tensor.device.type == "cpu"
        and tensor.dtype == like.dtype
    )
