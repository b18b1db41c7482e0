"""Runs networks that are prepared for inference by a program."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from densespec.network.graph import Graph
from densespec_torch.modules import DenseNet
from densespec_torch.program import Program, Values
from densespec_torch.read_only import ReadOnly
from densespec_torch.training import read_weights


class PreparedDenseNet(nn.Module):
    """Runs as :func:`densespec.network.passes.prepare` rewrites the network.

    It has the state of the network that it is made from, under the same names, but no modules. Its
    parameters and buffers can only be read, so what it computes can't differ from what it shows.
    Loading a state, and moving it to another type or device, work as for every module. If gradients
    of the input are wanted, or if PyTorch traces, transforms or compiles, the modules of the
    network compute.
    """

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        # Kept out of PyTorch's sight, which would show the modules.
        self._graph, self._original = graph, (DenseNet(graph).eval(),)
        self._program: Program | None = None
        self._trainable: set[str] = set()
        self.training = False
        with self.changing():
            pass

    @contextlib.contextmanager
    def changing(self) -> Iterator[DenseNet]:
        """Return the network that it is made of, to be changed; the program is made anew after."""
        original = self._original[0]
        for name in self._trainable:
            original.get_parameter(name).requires_grad_()
        try:
            yield original
        finally:
            trainable = (name for name, p in original.named_parameters() if p.requires_grad)
            self._trainable, self._program = set(trainable), None
            original.requires_grad_(False)

    def train(self, mode: bool = True) -> PreparedDenseNet:
        """Stay in inference mode.

        Raises:
            RuntimeError: Training mode is asked for.
        """
        if mode:
            raise RuntimeError(
                "this network is prepared for inference and can't be trained: "
                "densespec.in_mode(model, 'layers') turns it back"
            )
        return self

    def forward(self, x: Tensor) -> Any:
        if is_transformed(x):
            return self._original[0](x)
        self._original[0].check_size(x.shape)
        program = self.program()
        program.check_type(x)
        return program.given(x)

    @property
    def num_features(self) -> int:
        """Return the number of channels that :meth:`forward_features` gives."""
        return self._original[0].num_features

    def forward_features(self, x: Tensor) -> Any:
        """Compute the feature map by the modules of the network; see :class:`DenseNet`."""
        return self._original[0].forward_features(x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Any:
        """Compute what the network gives from its feature map; see :class:`DenseNet`."""
        return self._original[0].forward_head(x, pre_logits)

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Refuse another classifier."""
        _refuse("classifier")

    def values(self, x: Tensor, names: Sequence[str]) -> Values:
        """Compute the values of those of the named nodes that the program computes."""
        return self.program().run(x, names)

    def program(self) -> Program:
        """Return the program, which is made when it is first needed."""
        if self._program is None:
            self._program = self._made()
        return self._program

    def folded(self) -> Folded:
        """Make the rewritten network of plain operators, with the present weights.

        It can be compiled by ``torch.compile``, or exported.
        """
        return Folded(self._made(traced=True))

    def _made(self, *, traced: bool = False) -> Program:
        original = self._original[0]
        arrays, like = read_weights(original, self._graph), next(original.parameters())
        return Program(self._graph, arrays, like, traced=traced)

    # State, which can be read, loaded and moved

    def named_parameters(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, nn.Parameter]]:
        original = self._original[0]
        trainable = {id(original.get_parameter(name)) for name in self._trainable}
        for name, parameter in original.named_parameters(*args, **kwargs):
            view: Any = ReadOnly.of(parameter, trainable=id(parameter) in trainable)
            yield name, view

    def named_buffers(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, Tensor]]:
        for name, buffer in self._original[0].named_buffers(*args, **kwargs):
            yield name, ReadOnly.of(buffer)

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        state = self._original[0].state_dict(*args, **kwargs)
        prefix = kwargs.get("prefix", "")
        for name in (name for name in state if name.startswith(prefix)):
            state[name] = ReadOnly.of(state[name])
        return state

    def _load_from_state_dict(
        self,
        state_dict: Mapping[str, Any],
        prefix: str,
        local_metadata: Mapping[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        own = {
            name.removeprefix(prefix): value
            for name, value in state_dict.items()
            if name.startswith(prefix)
        }
        assign = local_metadata.get("assign_to_params_buffers", False)
        with self.changing() as original:
            found = original.load_state_dict(own, strict=False, assign=assign)
        missing_keys += [prefix + name for name in found.missing_keys]
        unexpected_keys += [prefix + name for name in found.unexpected_keys if strict]

    def _apply(self, fn: Any, recurse: bool = True) -> PreparedDenseNet:
        with self.changing() as original:
            original._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def requires_grad_(self, requires_grad: bool = True) -> PreparedDenseNet:
        """Say whether its parameters are to train once it is turned back."""
        with self.changing() as original:
            original.requires_grad_(requires_grad)
        return self

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the program, which is made again: oneDNN's own tensors can't be copied."""
        return {**self.__dict__, "_program": None}

    # What can't be changed

    def __getattr__(self, name: str) -> Any:
        original = self.__dict__.get("_original", (None,))[0]
        if name in getattr(original, "_modules", ()):
            _refuse(name)
        return super().__getattr__(name)

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, nn.Module | Tensor):
            _refuse(name)
        super().__setattr__(name, value)

    def add_module(self, name: str, module: nn.Module | None) -> None:
        """Refuse to have modules."""
        _refuse(name)

    def register_parameter(self, name: str, param: nn.Parameter | None) -> None:
        """Refuse to have other parameters."""
        _refuse(name)

    def register_buffer(self, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
        """Refuse to have other buffers."""
        _refuse(name)

    def get_submodule(self, target: str) -> nn.Module:
        """Refuse to show modules."""
        return _refuse(target) if target else self

    def _get_name(self) -> str:
        """Say what ``torch.func.functional_call``, which names nothing else, should not replace."""
        return (
            "a network that is prepared for inference, whose parameters can't be replaced "
            "(densespec.in_mode(model, 'layers') gives one whose can),"
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    def __prepare_scriptable__(self) -> Any:
        """Return what ``torch.jit.script`` compiles: the network that it is made of."""
        return self._original[0].__prepare_scriptable__()


def _refuse(name: str) -> NoReturn:
    raise AttributeError(
        f"{name}: this network is prepared for inference, has no modules of its own and can't be "
        "changed: change the network of mode 'layers' (densespec.in_mode(model, 'layers') gives "
        "it), then call densespec.optimize again"
    )


def is_transformed(x: Tensor) -> bool:
    """Say whether more is wanted of an input than the values that a program gives."""
    return bool(
        (torch.is_grad_enabled() and x.requires_grad)
        or torch.compiler.is_compiling()
        or torch._C._get_tracing_state()
        or torch._C._are_functorch_transforms_active()
        or forward_ad.unpack_dual(x).tangent is not None  # type: ignore[no-untyped-call]
    )


class Folded(nn.Module):
    """Runs a program as a module, with the folded arrays as buffers."""

    def __init__(self, program: Program) -> None:
        super().__init__()
        self._program = program
        for name, tensor in program.tensors.items():
            self.register_buffer(name.replace(".", "_"), tensor)
        self.train(False)

    def forward(self, x: Tensor) -> Any:
        return self._program.given(x)
