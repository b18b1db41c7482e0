"""Groups arrays by the layer that their names belong to, and finds each layer's kind."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Literal

from densespec.weights.layouts import Axes, canonical_shape
from densespec.weights.tensors import Tensors

LayerKind = Literal["convolution", "norm", "linear", "unknown", "none"]

LEAVES = {
    "weight": "kernel",
    "kernel": "kernel",
    "gamma": "kernel",
    "scale": "kernel",
    "bias": "bias",
    "beta": "bias",
    "running_mean": "mean",
    "moving_mean": "mean",
    "mean": "mean",
    "running_var": "variance",
    "moving_variance": "variance",
    "var": "variance",
}
"""The last part of a name tells what the array is in its layer. A norm's scale is its kernel."""

NUMBERED = {"0": "kernel", "1": "bias", "2": "mean", "3": "variance"}
"""States what the arrays of a layer are where Keras 3 numbers them."""

COLLECTIONS = ("params/", "batch_stats/")
"""Flax's trees keep arrays under these names, before the path of their layer."""

Shape = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class LayerArrays:
    """Holds the arrays of one layer.

    Attributes:
        path: The part that their names have in common.
        names: The full name of each array, by its role in the layer.
        shapes: The shape of each array, by its role in the layer; a kernel's shape is (out, in,
            *window).
        others: The shapes of the arrays without a known role, by full name.
    """

    path: str
    names: dict[str, str] = field(default_factory=dict)
    shapes: dict[str, Shape] = field(default_factory=dict)
    others: dict[str, Shape] = field(default_factory=dict)

    @functools.cached_property
    def kind(self) -> LayerKind:
        """Say what the layer computes: nothing if it only keeps constants."""
        kernel = self.shapes.get("kernel", ())
        dims = 0 if 0 in kernel else len(kernel)
        if any(len(shape) > 1 and "weight" in name for name, shape in self.others.items()):
            return "unknown"
        if dims > 1:
            return "linear" if dims == 2 else "convolution"
        scales = dims == 1 and not {"bias", "mean"}.isdisjoint(self.names)
        return "norm" if scales or "running" in self.names.get("mean", "") else "none"

    @property
    def all_names(self) -> tuple[str, ...]:
        """Return the full names of all its arrays."""
        return (*self.names.values(), *self.others)


def layers_of(tensors: Tensors, axes: Axes) -> list[LayerArrays]:
    """Collect arrays by the layer that they are in, in the order of the first of each.

    Args:
        axes: The order of axes of kernels.
    """
    found: dict[str, LayerArrays] = {}
    for name, tensor in tensors.items():
        path, leaf = _split(name)
        layer = found.setdefault(path, LayerArrays(path))
        if not leaf or leaf in layer.names:
            layer.others[name] = tensor.shape
            continue
        layer.names[leaf] = name
        moved = leaf == "kernel" and axes == "window_in_out"
        layer.shapes[leaf] = canonical_shape(tensor.shape) if moved else tensor.shape
    return list(found.values())


def _split(name: str) -> tuple[str, str]:
    """Split a name into its layer's path and its role in the layer; empty if that is unknown."""
    for collection in COLLECTIONS:
        name = name.removeprefix(collection)
    path, _, leaf = name.rpartition("/" if "/" in name else ".")
    if path.endswith("/vars"):
        return path.removesuffix("/vars"), NUMBERED.get(leaf, "")
    return path, LEAVES.get(leaf.removesuffix(":0"), "")
