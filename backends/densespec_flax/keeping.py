"""Carries over what a model has beyond the values of its arrays to another of the same network."""

from __future__ import annotations

from typing import Any

from flax import nnx

from densespec.network.graph import Graph
from densespec.network.ops import Dropout
from densespec_flax.arrays import at
from densespec_flax.as_built import MODES
from densespec_flax.layers import path_of
from densespec_flax.modes import PreparedDenseNet
from densespec_flax.modules import DenseNet


def keep_state(model: DenseNet, source: DenseNet, graph: Graph, *, trainable: bool) -> None:
    """Give a model the arrays of another, with their types and devices, and its mode.

    Args:
        graph: The network of both.
        trainable: Whether the kinds of its variables are taken over too, which say what trains.
    """
    for weight in graph.weights:
        *path, leaf = path_of(weight.name)
        module, given = at(model, path), at(source, path_of(weight.name))
        kind = type(given if trainable else getattr(module, leaf))
        setattr(module, leaf, kind(given.get_value()))
    for node in graph.nodes:
        own, other = model.module(node.name), source.module(node.name)
        if own is not None and type(other) is type(own):
            _keep(own, other, draws=isinstance(node.op, Dropout))
    if isinstance(model, PreparedDenseNet):
        model.eval()  # type: ignore[no-untyped-call]


def _keep(module: Any, source: Any, *, draws: bool) -> None:
    for name in MODES:
        if hasattr(source, name):
            setattr(module, name, getattr(source, name))
    if draws:
        nnx.update(module, nnx.state(source))
