"""Represents a ``torch.nn.Module`` as a network, compiled or not."""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from densespec.backends import StepResult, Trainer
from densespec.network.arrays import Arrays
from densespec.network.graph import Graph
from densespec.recipes.moments import OptimizerMoments, check_moments
from densespec.recipes.recipe import TrainingRecipe
from densespec.weights import tensors
from densespec.weights.layouts import Axes
from densespec_conformance.adapters.foreign import ForeignArray, ForeignTrainer, Observation
from densespec_conformance.asking.constructor import ConstructorError
from densespec_conformance.asking.requests import Unsupported
from densespec_torch.backend import BACKEND
from densespec_torch.losses import loss_of
from densespec_torch.tensors import from_numpy, like, to_numpy, unwrapped
from densespec_torch.training import (
    clip_gradients,
    moments_of,
    optimizer_of,
    restore_moments,
    set_learning_rate,
)

COUNTER = "num_batches_tracked"
STATISTICS = {"running_mean": "running_mean", "running_var": "running_variance"}
LEAVES = {"weight": "kernel", "bias": "bias", **STATISTICS}
NORM_LEAVES = {"weight": "gamma", "bias": "beta", **STATISTICS}
ACTIVATION_LEAVES = {"weight": "slope"}


@contextlib.contextmanager
def making(dtype: str) -> Iterator[None]:
    """Seed the generator while a constructor is called."""
    torch.manual_seed(0)
    yield


def adapt(made: object, dtype: str, dims: int) -> TorchNetwork | None:
    """Return the network, or None if it is not one of PyTorch.

    Raises:
        Unsupported: PyTorch has no such dtype.
    """
    if not isinstance(made, nn.Module):
        return None
    kind = getattr(torch, dtype, None)
    if not isinstance(kind, torch.dtype) or not kind.is_floating_point:
        raise Unsupported(f"PyTorch has no dtype {dtype!r}")
    return TorchNetwork(made.to(kind))


class TorchNetwork:
    """Represents a module. A compiled one is read and written within, but runs compiled."""

    containers = ("torch",)
    axes: Axes = "out_in_window"
    any_size = True

    def __init__(self, module: nn.Module) -> None:
        self._module, self._inner = module, unwrapped(module)
        self._own: dict[str, Tensor] = {}

    @property
    def notes(self) -> tuple[str, ...]:
        return () if self._is_open else ("compiled: nothing is seen of it but its output",)

    @property
    def _is_open(self) -> bool:
        """Say whether its parts run as modules, which can be watched."""
        return self._inner is self._module

    def _state(self) -> dict[str, Tensor]:
        return self._inner.state_dict()

    def arrays(self) -> dict[str, ForeignArray]:
        state = self._state()
        return {key: _array(key, state) for key in state if not key.endswith(COUNTER)}

    def parameters(self, keys: Mapping[str, str]) -> dict[str, nn.Parameter]:
        """Return parameters by canonical name, for the module's names of them."""
        own = dict(self._inner.named_parameters())
        return {name: own[key] for name, key in keys.items()}

    def write(self, arrays: Mapping[str, np.ndarray]) -> None:
        state = self._state()
        with torch.no_grad():
            for key, array in arrays.items():
                state[key].copy_(from_numpy(array))

    def load(self, path: Path) -> None:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state: Any = load_file(path)
        else:
            try:
                state = torch.load(path, map_location="cpu", weights_only=True)
            except pickle.UnpicklingError as error:
                raise ConstructorError(f"it holds more than weights: {error}") from error
        self._inner.load_state_dict(state, strict=True)

    def keep(self) -> None:
        self._own = {key: tensor.clone() for key, tensor in self._state().items()}

    def reset(self) -> None:
        self._inner.zero_grad()
        with torch.no_grad():
            for key, tensor in self._state().items():
                tensor.copy_(self._own[key])

    def count_parameters(self) -> tuple[int, int]:
        trainable, _ = BACKEND.count_parameters(self._inner)
        statistics = (
            tensor.numel()
            for key, tensor in self._state().items()
            if key.rpartition(".")[2] in STATISTICS
        )
        return trainable, sum(statistics)

    def run(self, x: np.ndarray, parts: Collection[str]) -> Observation:
        inputs: Arrays = {}
        outputs: Arrays = {}
        with contextlib.ExitStack() as stack:
            stack.enter_context(torch.no_grad())
            for name in parts if self._is_open else ():
                stack.enter_context(_watched(self._inner, name, inputs, outputs))
            self._module.eval()
            y = self._call(x)
        return Observation(to_numpy(y), inputs, outputs)

    def logits(self, x: np.ndarray) -> Tensor:
        """Run it in training mode. Its own ``train()`` may do more than to set modes."""
        self._module.train()
        return self._call(x)

    def _call(self, x: np.ndarray) -> Tensor:
        y = self._module(like(x, self._inner))
        if not isinstance(y, Tensor):
            raise ConstructorError(
                f"the network gives a {type(y).__name__}, but should give one tensor: wrap it in "
                "a module that gives its logits"
            )
        return y

    def trainer(self, keys: Mapping[str, str], graph: Graph, recipe: TrainingRecipe) -> Trainer:
        return ForeignTorchTrainer(self, keys, graph, recipe)


@contextlib.contextmanager
def _watched(module: nn.Module, name: str, inputs: Arrays, outputs: Arrays) -> Iterator[None]:
    """Keep what a part of a module reads and gives, as long as this lasts."""

    def before(_part: nn.Module, given: tuple[Any, ...]) -> None:
        inputs[name] = to_numpy(given[0])  # now: what comes after may work in place

    def after(_part: nn.Module, _given: tuple[Any, ...], y: Tensor) -> None:
        outputs[name] = to_numpy(y)

    part = module.get_submodule(name)
    with part.register_forward_pre_hook(before), part.register_forward_hook(after):
        yield


def _array(key: str, state: Mapping[str, Tensor]) -> ForeignArray:
    tensor = state[key]
    part, _, leaf = key.rpartition(".")
    weight, bias = (state.get(f"{part}.{own}" if part else own) for own in ("weight", "bias"))
    leaves = LEAVES
    if weight is not None and weight.ndim == 1:
        leaves = ACTIVATION_LEAVES if bias is None else NORM_LEAVES
    kind = str(tensor.dtype).removeprefix("torch.")
    found = tensors.Tensor(tuple(tensor.shape), kind, lambda: to_numpy(tensor))
    return ForeignArray(found, part, leaves.get(leaf, ""))


class ForeignTorchTrainer(ForeignTrainer):
    """Trains a module with the loss and the optimizer of the ``torch.nn`` backend."""

    def __init__(
        self, network: TorchNetwork, keys: Mapping[str, str], graph: Graph, recipe: TrainingRecipe
    ) -> None:
        super().__init__(network, keys, graph, recipe)
        self._module = network
        self._trained = network.parameters(self._trainable_keys())
        self._optimizer = optimizer_of(self._trained, recipe)
        self._loss = loss_of(recipe)

    def step(
        self,
        x: np.ndarray,
        labels: np.ndarray,
        *,
        learning_rate: float,
        masks: Mapping[str, np.ndarray] | None = None,
        gradients: bool = True,
    ) -> StepResult:
        self._check_masks(masks)
        set_learning_rate(self._optimizer, learning_rate)
        self._optimizer.zero_grad()
        logits = self._module.logits(x)
        loss = self._loss(logits, torch.as_tensor(labels, device=logits.device))
        loss.backward()
        found = {
            name: to_numpy(torch.zeros_like(p) if p.grad is None else p.grad)
            for name, p in self._trained.items()
        }
        clip_gradients(self._trained.values(), self._recipe)
        self._optimizer.step()
        return StepResult(loss.item(), found if gradients else {})

    def moments(self) -> dict[str, Arrays]:
        return moments_of(self._optimizer, self._trained, self._recipe)

    def restore(self, moments: OptimizerMoments, *, step: int) -> None:
        check_moments(self._graph, self._recipe, moments)
        restore_moments(self._optimizer, self._trained, moments, step)
