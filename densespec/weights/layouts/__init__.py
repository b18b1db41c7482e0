"""Layouts: what a framework's files call each array, in which order of axes, and what it computes.

A layout is published under the entry-point group ``densespec.layouts``, by anyone. It maps the
weights of a graph to names; it knows nothing of files, which are containers' concern.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from densespec import published
from densespec.errors import UnknownName, WeightsError
from densespec.network.differences import fields_of
from densespec.network.graph import Graph
from densespec.network.spec import DenseNetSpec
from densespec.weights.evidence import Evidence
from densespec.weights.layouts.parts import Parts, whole
from densespec.weights.stated.network import StatedNetwork
from densespec.weights.tensors import Tensor, Tensors

GROUP = "densespec.layouts"

Axes = Literal["out_in_window", "window_in_out"]


def _no_constants(graph: Graph) -> dict[str, Tensor]:
    return {}


def _no_notes(metadata: Mapping[str, str]) -> tuple[str, ...]:
    return ()


def _as_they_are(tensors: Tensors) -> dict[str, Tensor]:
    return dict(tensors)


@dataclass(frozen=True)
class Layout:
    """How one implementation keeps its weights, and what it computes from them.

    Attributes:
        name: as users type it.
        about: whose layout it is, in a few words.
        containers: kinds of file it lives in.
        keys: name of every array in a container, by canonical name.
        axes: order of axes of kernels.
        implements: fields of the spec that its implementation fixes; others are free.
        usual: fields that it has so unless it is told otherwise, or that another implementation
            of the same names may be told; None where whoever reads a file is asked.
        parts: finds where in a file networks of such names lie, whatever stands before the names.
        claims: whether the names under which one lies, and a file's metadata, are this layout's.
        evidence: what the shapes of normalised tensors say of the network.
        normalise: gives names in old spellings the layout's own.
        constants: arrays that files have besides the network's, such as counters.
        ignored: names in files that are no weights, such as optimizer state.
        metadata: what files say beside their arrays.
        stated_network: the network that a file's metadata state, if they do.
        notes: what is taken for granted of a file of these metadata, for want of a word in it.
        names_tell: whether names tell where an array belongs, so that more of them are too many.
    """

    name: str
    about: str
    containers: tuple[str, ...]
    keys: Callable[[Graph, str], dict[str, str]]
    axes: Axes
    claims: Callable[[Tensors, Mapping[str, str]], bool]
    evidence: Callable[[Tensors], Evidence]
    implements: Mapping[str, Any] = field(default_factory=dict)
    usual: Mapping[str, Any] = field(default_factory=dict)
    parts: Parts = whole
    normalise: Callable[[Tensors], dict[str, Tensor]] = _as_they_are
    constants: Callable[[Graph], dict[str, Tensor]] = _no_constants
    ignored: Callable[[str], bool] = lambda name: False
    metadata: Callable[[Graph, str], Mapping[str, str]] = lambda graph, container: {}
    stated_network: Callable[[Mapping[str, str]], StatedNetwork | None] = lambda metadata: None
    notes: Callable[[Mapping[str, str]], tuple[str, ...]] = _no_notes
    names_tell: bool = True

    def differences(self, spec: DenseNetSpec) -> dict[str, tuple[Any, Any]]:
        """Fields in which this implementation is another network: (the spec's value, its own)."""
        fields = fields_of(spec)
        return {
            name: (fields[name], value)
            for name, value in self.implements.items()
            if fields[name] != value and (name != "dropout_place" or spec.dropout_rate)
        }


def layouts() -> dict[str, Layout]:
    """Every layout that installed packages offer, by name."""
    return published.load_all(GROUP, "layout")


def get_layout(name: str) -> Layout:
    """A layout by name.

    Raises:
        UnknownName: no package offers it; the message suggests near names.
    """
    known = layouts()
    if name not in known:
        raise UnknownName("layout", name, known)
    return known[name]


def renamed(tensors: Tensors, rename: Callable[[str], str]) -> dict[str, Tensor]:
    """The same tensors under other names.

    Raises:
        WeightsError: two of them would have one name.
    """
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        new = rename(name)
        if new in found:
            raise WeightsError(f"{name} is a second {new}, of another network perhaps")
        found[new] = tensor
    return found


def canonical_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """(*window, in, out) as (out, in, *window); vectors as they are."""
    return (*shape[:-3:-1], *shape[:-2]) if len(shape) > 1 else shape


def kernel_to_canonical(kernel: np.ndarray) -> np.ndarray:
    """A kernel of (*window, in, out) as (out, in, *window)."""
    return np.ascontiguousarray(np.moveaxis(kernel, (-1, -2), (0, 1)))


def kernel_from_canonical(kernel: np.ndarray) -> np.ndarray:
    """The inverse of :func:`kernel_to_canonical`."""
    return np.ascontiguousarray(np.moveaxis(kernel, (0, 1), (-1, -2)))


def to_canonical(name: str, tensor: Tensor, axes: Axes) -> Tensor:
    """A layout's tensor with canonical axes. ``name`` is canonical."""
    if axes == "out_in_window" or not name.endswith(".kernel") or len(tensor.shape) < 2:
        return tensor
    return Tensor(
        canonical_shape(tensor.shape),
        tensor.dtype,
        lambda: kernel_to_canonical(tensor.read()),
    )


def from_canonical(name: str, tensor: Tensor, axes: Axes) -> Tensor:
    """The inverse of :func:`to_canonical`."""
    if axes == "out_in_window" or not name.endswith(".kernel"):
        return tensor
    out, into, *window = tensor.shape
    return Tensor(
        (*window, into, out),
        tensor.dtype,
        lambda: kernel_from_canonical(tensor.read()),
    )
