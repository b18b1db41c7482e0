"""Checks whether a module is as densespec built it: of its node's class, with its settings."""

from __future__ import annotations

import functools
import inspect
from typing import Any

from densespec.errors import shown
from densespec.network.graph import Node
from densespec.network.ops import Weight
from densespec_flax.layers import kind_of, path_of
from densespec_flax.precision import Precision

MODES = frozenset({"use_running_average", "deterministic"})
"""These attributes say in which mode a module is."""
NUMBERS = frozenset({"epsilon", "momentum", "rate"})
"""These attributes are read from modules wherever they matter."""


def difference(module: Any, node: Node, precision: Precision) -> tuple[str, str] | None:
    """Say what a node's module is and what is built for it; None if that is the same.

    Its numbers and its mode may differ, but not the shapes of its arrays.
    """
    kind, settings = kind_of(node, precision)
    if type(module) is not (type(None) if kind is None else kind):
        return type(module).__name__, "no module" if kind is None else kind.__name__
    for name, wanted in (_defaults(kind) | settings).items() if kind else ():
        if name not in MODES | NUMBERS and getattr(module, name) != wanted:
            return f"{kind.__name__} with {name} = {shown(getattr(module, name))}", shown(wanted)
    for weight in node.weights:
        shape = tuple(getattr(getattr(module, path_of(weight.name)[-1], None), "shape", ()))
        if shape != flax_shape(weight):
            return f"{kind.__name__} with {weight.short} of shape {shape}", str(flax_shape(weight))
    return None


def flax_shape(weight: Weight) -> tuple[int, ...]:
    """Return the shape that Flax has for an array: of kernels, (*window, in, out)."""
    if weight.short != "kernel":
        return weight.shape
    units, features, *window = weight.shape
    return (*window, features, units)


@functools.cache
def _defaults(kind: Any) -> dict[str, Any]:
    """Return the settings of a class that it has unless told otherwise, as attributes."""
    parameters = inspect.signature(kind.__init__).parameters.values()
    passing = ("_init", "_metadata", "rngs")
    return {
        p.name: p.default
        for p in parameters
        if p.default is not inspect.Parameter.empty and not p.name.endswith(passing)
    }
