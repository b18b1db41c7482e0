"""Defines the ``torch.nn`` backend."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, NoReturn

import numpy as np
import torch
from torch import Tensor, nn

from densespec.backends import LAYERS, DataFormat, Origin, with_mode
from densespec.errors import Untrainable
from densespec.network.arrays import Arrays
from densespec.network.graph import Graph
from densespec.recipes.recipe import TrainingRecipe
from densespec.weights.layouts.torch_names import module_path, state_keys
from densespec_torch import devices, distributed
from densespec_torch.devices import FirstDevice
from densespec_torch.inference import PreparedDenseNet
from densespec_torch.inspecting import check_infers, graph_of, keys_of
from densespec_torch.keeping import keep_state
from densespec_torch.modes import EfficientDenseNet, FastDenseNet
from densespec_torch.modules import DenseNet
from densespec_torch.parallel import ReplicatedTrainer
from densespec_torch.tensors import from_numpy as from_numpy
from densespec_torch.tensors import like, unwrapped
from densespec_torch.tensors import to_numpy as to_numpy
from densespec_torch.training import TorchTrainer, mode, read_weights


@dataclass(frozen=True)
class TorchBackend:
    mode: str = LAYERS

    modes: ClassVar[tuple[str, ...]] = (LAYERS, "fast", "efficient", "inference")

    def in_mode(self, mode: str) -> TorchBackend:
        return TorchBackend(mode)

    def data_format(self, requested: DataFormat | None) -> DataFormat:
        if requested == "channels_last":
            raise ValueError(
                "torch.nn modules take channels_first arrays; for the channels_last memory layout "
                "call model.to(memory_format=torch.channels_last)"
            )
        return "channels_first"

    @torch.inference_mode(mode=False)  # whose tensors could not be trained or changed later
    def build(
        self,
        graph: Graph,
        weights: Mapping[str, np.ndarray],
        *,
        dtype: str | None,
        data_format: DataFormat,
        name: str,
    ) -> nn.Module:
        kind = _floating(dtype) if dtype else torch.get_default_dtype()
        device = torch.get_default_device()
        with torch.device("meta"):
            model = MODELS[self.mode](graph)
        state = {
            key: torch.zeros((), dtype=torch.long)
            for key in model.state_dict()
            if key.endswith(".num_batches_tracked")
        }
        for canonical, key in state_keys(graph).items():
            state[key] = from_numpy(weights[canonical]).to(device, kind)
        model.load_state_dict(state, strict=True, assign=True)
        return model

    def graph_of(self, model: nn.Module, graph: Graph) -> Graph:
        """See :class:`densespec.backends.InspectableBackend`."""
        return graph_of(unwrapped(model), graph, MODELS[self.mode])

    @torch.inference_mode(mode=False)
    def rebuild(
        self,
        source: nn.Module,
        origin: Origin,
        weights: Mapping[str, np.ndarray],
        *,
        trainable: bool,
    ) -> nn.Module:
        """See :class:`densespec.backends.InspectableBackend`."""
        if self.mode == "inference":
            check_infers(unwrapped(source))
        model = self.build(
            origin.graph,
            weights,
            dtype=origin.dtype,
            data_format=origin.data_format,
            name=origin.name,
        )
        keep_state(model, unwrapped(source), origin.graph, trainable=trainable)
        return model

    def read_weights(self, model: nn.Module, graph: Graph) -> Arrays:
        return read_weights(model, graph)

    def write_weights(
        self, model: nn.Module, graph: Graph, weights: Mapping[str, np.ndarray]
    ) -> None:
        model = unwrapped(model)
        state = {key: from_numpy(weights[name]) for name, key in keys_of(model, graph).items()}
        model.load_state_dict(state, strict=False)  # which leaves the counters alone

    def count_parameters(self, model: nn.Module) -> tuple[int, int]:
        parameters = list(model.parameters())
        trainable = sum(p.numel() for p in parameters if p.requires_grad)
        statistics = sum(b.numel() for b in model.buffers() if b.is_floating_point())
        return trainable, sum(p.numel() for p in parameters) - trainable + statistics

    def forward(self, model: nn.Module, graph: Graph, x: np.ndarray, taps: Sequence[str]) -> Arrays:
        if isinstance(model, PreparedDenseNet):
            with torch.no_grad():
                shown = model.values(like(x, model), taps)
            return {name: to_numpy(shown[name]) for name in taps if name in shown}
        values: dict[str, Tensor] = {}
        with contextlib.ExitStack() as stack, torch.no_grad():
            stack.enter_context(mode(model.modules(), training=False))
            given = [node.name for node in graph.given]
            for name in {*taps} - {*given}:
                module = model.get_submodule(module_path(name))
                handle = module.register_forward_hook(
                    lambda _module, _inputs, y, name=name: values.__setitem__(name, y)
                )
                stack.callback(handle.remove)
            y = model(like(x, model))
            values.update(zip(given, y if graph.outputs else (y,), strict=True))
        return {name: to_numpy(values[name]) for name in taps}

    def trainer(self, model: nn.Module, graph: Graph, recipe: TrainingRecipe) -> TorchTrainer:
        self._check_trains()
        return TorchTrainer(model, graph, recipe)

    def parallel_trainer(
        self,
        graph: Graph,
        weights: Mapping[str, np.ndarray],
        recipe: TrainingRecipe,
        *,
        replicas: int,
        dtype: str | None,
    ) -> ReplicatedTrainer:
        self._check_trains()
        return ReplicatedTrainer(
            graph, weights, recipe, replicas=replicas, dtype=dtype, mode=self.mode
        )

    def devices(self) -> list[str]:
        """See :class:`densespec.backends.DeviceBackend`."""
        return devices.names()

    def device(self) -> FirstDevice:
        """See :class:`densespec.backends.TimeableBackend`."""
        return FirstDevice()

    def place(self, model: nn.Module) -> nn.Module:
        return model.to(self.device().place)

    def caller(self, model: nn.Module, x: np.ndarray) -> Callable[[], object]:
        given, device = like(x, model), self.device()

        def call() -> None:
            with torch.inference_mode():
                model(given)
            device.wait()

        model.eval()
        return call

    def launcher(self, *, devices: int, nodes: int, endpoint: str | None) -> Sequence[str]:
        return distributed.launcher(devices, nodes, endpoint)

    def launched(self) -> tuple[int, int] | None:
        return distributed.launched()

    def join(self) -> distributed.World:
        return distributed.setup_from_environment()

    def leave(self) -> NoReturn:
        distributed.leave()

    def _check_trains(self) -> None:
        if self.mode == "inference":
            raise Untrainable(with_mode("torch.nn", self.mode))


MODELS: dict[str, type[DenseNet] | type[PreparedDenseNet]] = {
    LAYERS: DenseNet,
    "fast": FastDenseNet,
    "efficient": EfficientDenseNet,
    "inference": PreparedDenseNet,
}
"""Gives the class of a graph's model, by mode."""


def _floating(dtype: str) -> torch.dtype:
    """Return the type of weights; mixed precisions keep them in float32."""
    kind = torch.float32 if dtype.startswith("mixed_") else getattr(torch, dtype, None)
    if not isinstance(kind, torch.dtype) or not kind.is_floating_point:
        raise ValueError(
            f"dtype = {dtype!r}, but should be a floating-point type of PyTorch, such as 'float32'"
        )
    return kind


BACKEND = TorchBackend()
