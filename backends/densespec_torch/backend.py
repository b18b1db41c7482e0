"""The ``torch.nn`` backend."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from densespec import ops
from densespec.backends import DataFormat, StepResult, require_logits
from densespec.graph import Graph
from densespec.recipe import TrainingRecipe
from densespec.weights import Arrays
from densespec.weights.layouts.torch_names import module_path, state_keys
from densespec_torch.modules import DenseNet


class TorchBackend:
    def data_format(self, requested: DataFormat | None) -> DataFormat:
        if requested == "channels_last":
            raise ValueError(
                "torch.nn modules take channels_first arrays; for the channels_last memory layout "
                "call model.to(memory_format=torch.channels_last)"
            )
        return "channels_first"

    def build(
        self,
        graph: Graph,
        weights: Mapping[str, np.ndarray],
        *,
        dtype: str | None,
        data_format: DataFormat,
        name: str,
    ) -> DenseNet:
        kind = _floating(dtype) if dtype else torch.get_default_dtype()
        with torch.device("meta"):
            model = DenseNet(graph)
        state = {
            key: torch.zeros((), dtype=torch.long)
            for key in model.state_dict()
            if key.endswith(".num_batches_tracked")
        }
        for canonical, key in state_keys(graph).items():
            state[key] = from_numpy(weights[canonical]).to(kind)
        model.load_state_dict(state, strict=True, assign=True)
        return model

    def read_weights(self, model: nn.Module, graph: Graph) -> Arrays:
        state = _uncompiled(model).state_dict()
        return {name: to_numpy(state[key]) for name, key in state_keys(graph).items()}

    def write_weights(
        self, model: nn.Module, graph: Graph, weights: Mapping[str, np.ndarray]
    ) -> None:
        state = _uncompiled(model).state_dict()
        with torch.no_grad():
            for name, key in state_keys(graph).items():
                state[key].copy_(from_numpy(weights[name]))

    def count_parameters(self, model: nn.Module) -> tuple[int, int]:
        parameters = list(model.parameters())
        trainable = sum(p.numel() for p in parameters if p.requires_grad)
        statistics = sum(b.numel() for b in model.buffers() if b.is_floating_point())
        return trainable, sum(p.numel() for p in parameters) - trainable + statistics

    def forward(self, model: nn.Module, graph: Graph, x: np.ndarray, taps: Sequence[str]) -> Arrays:
        values: dict[str, Tensor] = {}
        with contextlib.ExitStack() as stack, torch.no_grad():
            stack.enter_context(_mode(model, training=False))
            for name in taps:
                module = model.get_submodule(module_path(name))
                handle = module.register_forward_hook(
                    lambda _module, _inputs, y, name=name: values.__setitem__(name, y)
                )
                stack.callback(handle.remove)
            model(_tensor(x, model))
        return {name: to_numpy(values[name]) for name in taps}

    def trainer(self, model: nn.Module, graph: Graph, recipe: TrainingRecipe) -> TorchTrainer:
        return TorchTrainer(model, graph, recipe)


class TorchTrainer:
    """Steps of ``torch.optim.SGD``, whose rule is the recipe's."""

    def __init__(self, model: nn.Module, graph: Graph, recipe: TrainingRecipe) -> None:
        require_logits(graph)
        self._model, self._graph, self._recipe = model, graph, recipe
        parameters = dict(model.named_parameters())
        keys = state_keys(graph)
        self._trainable = {w.name: parameters[keys[w.name]] for w in graph.weights if w.trainable}
        groups: dict[float, list[Tensor]] = {}
        for name, parameter in self._trainable.items():
            groups.setdefault(recipe.decay_of(name), []).append(parameter)
        self._optimizer = torch.optim.SGD(
            [{"params": group, "weight_decay": decay} for decay, group in groups.items()],
            lr=recipe.learning_rate,
            momentum=recipe.momentum,
            nesterov=recipe.nesterov,
        )

    def step(
        self,
        x: np.ndarray,
        labels: np.ndarray,
        *,
        learning_rate: float,
        masks: Mapping[str, np.ndarray] | None = None,
    ) -> StepResult:
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        self._optimizer.zero_grad()
        with _mode(self._model, training=True), self._masked(masks or {}):
            logits = self._model(_tensor(x, self._model))
            loss = functional.cross_entropy(logits, torch.as_tensor(labels, device=logits.device))
            loss.backward()  # type: ignore[no-untyped-call]
        gradients = {name: to_numpy(_gradient(p)) for name, p in self._trainable.items()}
        self._optimizer.step()
        return StepResult(loss.item(), gradients)

    def velocity(self) -> Arrays:
        state = self._optimizer.state
        if not self._recipe.momentum:
            return {}
        return {name: to_numpy(state[p]["momentum_buffer"]) for name, p in self._trainable.items()}

    @contextlib.contextmanager
    def _masked(self, masks: Mapping[str, np.ndarray]) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for name, mask in masks.items():
                op = self._graph[name].op
                assert isinstance(op, ops.Dropout), f"{name} is no dropout"
                scale = _tensor(mask / (1 - op.rate), self._model)
                handle = self._model.get_submodule(module_path(name)).register_forward_hook(
                    lambda _module, inputs, _y, scale=scale: inputs[0] * scale
                )
                stack.callback(handle.remove)
            yield


def from_numpy(array: np.ndarray) -> Tensor:
    """A copy as a tensor; ``torch.tensor`` is many times slower at that."""
    return torch.from_numpy(np.array(array))


def to_numpy(tensor: Tensor) -> np.ndarray:
    """A copy as numpy; bfloat16, which numpy lacks, as float32."""
    tensor = tensor.detach().cpu()
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy().copy()


def _floating(dtype: str) -> torch.dtype:
    kind = getattr(torch, dtype, None)
    if not isinstance(kind, torch.dtype) or not kind.is_floating_point:
        raise ValueError(
            f"dtype = {dtype!r}, but should be a floating-point type of PyTorch, such as 'float32'"
        )
    return kind


def _uncompiled(model: nn.Module) -> nn.Module:
    """The module that ``torch.compile`` wrapped, if it did: its keys have no prefix."""
    return getattr(model, "_orig_mod", model)


def _gradient(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None, "every parameter takes part in the loss"
    return parameter.grad


def _tensor(x: np.ndarray, model: nn.Module) -> Tensor:
    like = next(model.parameters())
    return torch.as_tensor(np.ascontiguousarray(x)).to(device=like.device, dtype=like.dtype)


@contextlib.contextmanager
def _mode(model: nn.Module, *, training: bool) -> Iterator[Any]:
    """Training or inference mode for a while; then every module is back in its own."""
    before = {module: module.training for module in model.modules()}
    model.train(training)
    try:
        yield
    finally:
        for module, mode in before.items():
            module.training = mode


BACKEND = TorchBackend()
