"""Networks prepared for inference: a DenseNet's modules and state, run by a program."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from densespec.network.graph import Graph
from densespec_torch.modules import DenseNet
from densespec_torch.program import Program, Values
from densespec_torch.training import read_weights


class PreparedDenseNet(DenseNet):
    """A DenseNet that runs as :func:`densespec.network.passes.prepare` rewrites it.

    It has the modules and the state of the network as it was, under the same names; the program
    that runs is made of them at the first call, and again when they have changed. Hooks on inner
    modules are not called. Where gradients of the input are wanted, the modules themselves run.
    """

    def __init__(self, graph: Graph) -> None:
        super().__init__(graph)
        self._graph, self._first = graph, next(name for name, _ in self.named_parameters())
        self._program: Program | None = None
        self._made_from: list[Any] = []
        self.train(False)

    def train(self, mode: bool = True) -> PreparedDenseNet:
        """Stay in inference mode.

        Raises:
            RuntimeError: The model is to be trained.
        """
        if mode:
            raise RuntimeError(
                "this network is prepared for inference and can't be trained: "
                "densespec.in_mode(model, 'layers') turns it back"
            )
        return super().train(False)

    def forward(self, x: Tensor) -> Tensor:
        if (torch.is_grad_enabled() and x.requires_grad) or torch.compiler.is_compiling():
            return super().forward(x)
        self._check(x.shape)
        program = self.program()
        return program.run(x, ())[program.output]

    def values(self, x: Tensor, names: Sequence[str]) -> Values:
        """Compute the values of those of the named nodes that the program computes."""
        return self.program().run(x, names, whole=True)

    def program(self) -> Program:
        """Give the program of the present weights: it is made anew where those have changed."""
        state = self._versions()
        if self._program is None or state != self._made_from:
            self._program = Program(self._graph, read_weights(self, self._graph), self._like())
            self._made_from = state
        return self._program

    def folded(self) -> Folded:
        """Make the rewritten network of plain operators, with the present weights.

        It can be compiled by ``torch.compile``, or exported.
        """
        arrays = read_weights(self, self._graph)
        return Folded(Program(self._graph, arrays, self._like(), traced=True))

    def _versions(self) -> list[Any]:
        """Give what changes with every change of a parameter or buffer, in place or not.

        Tensors that were made in PyTorch's inference mode tell no version: of those, only ones that
        are replaced are noticed.
        """
        state = [t for held in self._holders for t in held.values() if t is not None]
        return [*map(id, state), *([] if self._untracked else [t._version for t in state])]

    @functools.cached_property
    def _holders(self) -> list[Any]:
        """The dictionaries in which the modules keep their parameters and buffers."""
        return [held for m in self.modules() for held in (m._parameters, m._buffers) if held]

    @property
    def _untracked(self) -> bool:
        return self._like().is_inference()

    def _like(self) -> Tensor:
        return self.get_parameter(self._first)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the program, which is made again: oneDNN's own tensors can't be copied."""
        state = {k: v for k, v in self.__dict__.items() if k != "_holders"}
        return state | {"_program": None, "_made_from": []}


class Folded(nn.Module):
    """A program as a module, with the folded arrays as buffers."""

    def __init__(self, program: Program) -> None:
        super().__init__()
        self._program = program
        for name, tensor in program.tensors.items():
            self.register_buffer(name.replace(".", "_"), tensor)
        self.train(False)

    def forward(self, x: Tensor) -> Tensor:
        return self._program.run(x, ())[self._program.output]
