"""Networks that are a ``torch.nn.Module``, compiled or not."""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from densespec.backends import StepResult, Trainer, require_logits
from densespec.network.arrays import Arrays
from densespec.network.graph import Graph
from densespec.recipes.recipe import TrainingRecipe
from densespec.recipes.velocity import check_velocity
from densespec.weights.layouts import Axes
from densespec.weights.tensors import Tensor
from densespec_conformance.adapters.network import Run, Seen
from densespec_conformance.asking.constructor import ConstructorError
from densespec_torch.backend import from_numpy, to_numpy

COUNTER = "num_batches_tracked"
LEAVES = {"weight": "kernel", "bias": "bias"}
NORM_LEAVES = {
    "weight": "gamma",
    "bias": "beta",
    "running_mean": "running_mean",
    "running_var": "running_variance",
}


def adapt(made: object, dtype: str, dims: int) -> TorchNetwork | None:
    """The network, if it is one of PyTorch.

    Raises:
        Unsupported: PyTorch has no such dtype.
    """
    if not isinstance(made, nn.Module):
        return None
    kind = getattr(torch, dtype, None)
    if not isinstance(kind, torch.dtype) or not kind.is_floating_point:
        from densespec_conformance.asking.requests import Unsupported

        raise Unsupported(f"PyTorch has no dtype {dtype!r}")
    return TorchNetwork(made.to(kind))


class TorchNetwork:
    """A module. What ``torch.compile`` wraps is read and written within, and run compiled."""

    containers = ("torch",)
    axes: Axes = "out_in_window"
    any_size = True

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._inner: nn.Module = getattr(module, "_orig_mod", module)
        self._own: dict[str, torch.Tensor] = {}

    @property
    def notes(self) -> tuple[str, ...]:
        compiled = self._inner is not self._module
        return ("compiled: nothing is seen of it but its output",) if compiled else ()

    def _state(self) -> dict[str, torch.Tensor]:
        return self._inner.state_dict()

    def arrays(self) -> dict[str, Seen]:
        state = self._state()
        return {key: _seen(key, state) for key in state if not key.endswith(COUNTER)}

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
        parameters = list(self._inner.parameters())
        trainable = sum(p.numel() for p in parameters if p.requires_grad)
        statistics = sum(b.numel() for b in self._inner.buffers() if b.is_floating_point())
        return trainable, sum(p.numel() for p in parameters) - trainable + statistics

    def run(self, x: np.ndarray, parts: Collection[str]) -> Run:
        inputs: Arrays = {}
        outputs: Arrays = {}

        def watch(name: str) -> Any:
            def seen(_module: nn.Module, given: tuple[Any, ...], y: torch.Tensor) -> None:
                outputs[name] = to_numpy(y)

            return seen

        def watch_input(name: str) -> Any:
            def seen(_module: nn.Module, given: tuple[Any, ...]) -> None:
                inputs[name] = to_numpy(given[0])  # now: what comes after may work in place

            return seen

        with contextlib.ExitStack() as stack:
            stack.enter_context(torch.no_grad())
            for name in parts if self._inner is self._module else ():
                part = self._inner.get_submodule(name)
                for handle in (
                    part.register_forward_pre_hook(watch_input(name)),
                    part.register_forward_hook(watch(name)),
                ):
                    stack.callback(handle.remove)
            self._module.eval()
            y = self._call(x)
        return Run(to_numpy(y), inputs, outputs)

    def _call(self, x: np.ndarray) -> torch.Tensor:
        like = next(self._inner.parameters())
        images = torch.as_tensor(np.ascontiguousarray(x)).to(device=like.device, dtype=like.dtype)
        y = self._module(images)
        if not isinstance(y, torch.Tensor):
            raise ConstructorError(
                f"the network gives a {type(y).__name__}, but should give one tensor: wrap it in "
                "a module that gives its logits"
            )
        return y

    def trainer(self, keys: Mapping[str, str], graph: Graph, recipe: TrainingRecipe) -> Trainer:
        return TorchTrainer(self, keys, graph, recipe)


def _seen(key: str, state: Mapping[str, torch.Tensor]) -> Seen:
    tensor = state[key]
    part, _, leaf = key.rpartition(".")
    weight = state.get(f"{part}.weight" if part else "weight")
    of_norm = weight is not None and weight.ndim == 1
    kind = str(tensor.dtype).removeprefix("torch.")
    found = Tensor(tuple(tensor.shape), kind, lambda: to_numpy(tensor))
    return Seen(found, part, (NORM_LEAVES if of_norm else LEAVES).get(leaf, ""))


class TorchTrainer:
    """Steps of ``torch.optim.SGD``, whose rule is the recipe's."""

    def __init__(
        self, network: TorchNetwork, keys: Mapping[str, str], graph: Graph, recipe: TrainingRecipe
    ) -> None:
        require_logits(graph)
        self._network, self._graph, self._recipe = network, graph, recipe
        parameters = dict(network._inner.named_parameters())
        self._trainable = {w.name: parameters[keys[w.name]] for w in graph.weights if w.trainable}
        groups: dict[float, list[torch.Tensor]] = {}
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
        gradients: bool = True,
    ) -> StepResult:
        _refuse_masks(masks)
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        self._optimizer.zero_grad()
        self._network._module.train()
        logits = self._network._call(x)
        loss = functional.cross_entropy(logits, torch.as_tensor(labels, device=logits.device))
        loss.backward()  # type: ignore[no-untyped-call]
        found = {
            name: to_numpy(torch.zeros_like(p) if p.grad is None else p.grad)
            for name, p in self._trainable.items()
        }
        self._optimizer.step()
        return StepResult(loss.item(), found if gradients else {})

    def predict(self, x: np.ndarray) -> np.ndarray:
        return self._network.run(x, ()).output

    def velocity(self) -> Arrays:
        if not self._recipe.momentum:
            return {}
        state = self._optimizer.state
        return {name: to_numpy(state[p]["momentum_buffer"]) for name, p in self._trainable.items()}

    def restore(self, velocity: Mapping[str, np.ndarray]) -> None:
        check_velocity(self._graph, self._recipe, velocity)
        for name, array in velocity.items():
            parameter = self._trainable[name]
            self._optimizer.state[parameter]["momentum_buffer"] = from_numpy(array).to(parameter)


def _refuse_masks(masks: Mapping[str, np.ndarray] | None) -> None:
    from densespec_conformance.asking.requests import Unsupported

    if masks:
        raise Unsupported("it draws its own dropout masks, and can't be given any")
