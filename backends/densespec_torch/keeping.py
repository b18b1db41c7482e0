"""Carries over what a model has beyond the values of its arrays to another of the same network."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any

from torch import nn

from densespec.network.graph import Graph
from densespec.weights.layouts.torch_names import state_keys
from densespec_torch.inference import PreparedDenseNet
from densespec_torch.inspecting import keys_of
from densespec_torch.norms import FrozenDropout, FrozenNorm


def keep_state(model: nn.Module, source: nn.Module, graph: Graph, *, trainable: bool) -> None:
    """Give a model the tensors of another, with their types and devices, and its training mode.

    Args:
        graph: The network of both.
        trainable: Whether what wants gradients is taken over too.
    """
    names = {key: name for name, key in keys_of(source, graph).items()}
    own = state_keys(graph)
    renamed = {key: own[names[key]] if key in names else key for key in source.state_dict()}
    state = {renamed[key]: t.detach().clone() for key, t in source.state_dict().items()}
    parameters = dict(source.named_parameters(remove_duplicate=False))
    wanted = {renamed[key]: p.requires_grad for key, p in parameters.items()}
    with _changing(model) as inner:
        inner.load_state_dict(state, assign=True)
        _tie(inner, [(renamed[key], p) for key, p in parameters.items()])
        for name, parameter in inner.named_parameters() if trainable else ():
            parameter.requires_grad_(wanted[name])
    if not isinstance(model, PreparedDenseNet):
        _keep_modes(model, source)


def _tie(model: nn.Module, sources: Iterable[tuple[str, nn.Parameter]]) -> None:
    """Share those parameters of a model, by name, that are one and the same in its source."""
    first: dict[int, str] = {}
    for name, source in sources:
        if (known := first.setdefault(id(source), name)) != name:
            path, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(path), leaf, model.get_parameter(known))


def _changing(model: nn.Module) -> AbstractContextManager[Any]:
    if isinstance(model, PreparedDenseNet):
        return model.changing()
    return contextlib.nullcontext(model)


def _keep_modes(model: nn.Module, source: nn.Module) -> None:
    """Put each module into the mode that it is in there; those of another kind follow the whole."""
    others: dict[str, Any] = dict(source.named_modules())
    model.train(source.training)
    for name, module in model.named_modules():
        other: Any = others.get(name)
        if type(other) is type(module) and not isinstance(module, FrozenNorm | FrozenDropout):
            module.training = other.training
