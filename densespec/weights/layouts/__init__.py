"""Defines layouts: how files name each array and order its axes, and what an implementation fixes.

A layout is published under the entry-point group ``densespec.layouts``, by anyone. It maps the
weights of a graph to names; it knows nothing of files, which are containers' concern.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
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


def _unstated(metadata: Mapping[str, str], without: Collection[str]) -> StatedNetwork | None:
    return None


@dataclass(frozen=True)
class Layout:
    """Says how one implementation keeps its weights, and what it computes from them.

    Attributes:
        name: its name, as users type it.
        about: whose layout it is, in a few words.
        containers: the kinds of file that have this layout.
        keys: the function that returns every array's name in a container, by canonical name.
        axes: the order of the axes of kernels.
        implements: the fields of the spec that its implementation fixes; other fields are free.
        usual: the usual values of fields that users of the implementation, or of another one with
            the same names, may change; None if whoever reads a file has to state the field.
        parts: the function that finds where in a file networks with such names lie, whatever stands
            before the names.
        claims: the function that says whether a network's names, and a file's metadata, are this
            layout's.
        evidence: the function that reads what the shapes of normalised tensors say of the network.
        normalise: the function that changes names in old spellings to the layout's own.
        constants: the function that makes the arrays that files have besides the network's, such as
            counters.
        ignored: the function that says which names in files are no weights, such as an optimizer's
            state.
        metadata: the function that writes what files say beside their arrays.
        stated_network: the function that reads the network that a file's metadata state, if they
            state one, without the layers of some names.
        notes: the function that says what is assumed of a file with these metadata because it does
            not state it.
        names_tell: whether names tell where an array belongs, so that further arrays are an error.
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
    stated_network: Callable[[Mapping[str, str], Collection[str]], StatedNetwork | None] = _unstated
    notes: Callable[[Mapping[str, str]], tuple[str, ...]] = _no_notes
    names_tell: bool = True

    def differences(self, spec: DenseNetSpec) -> dict[str, tuple[Any, Any]]:
        """Return the fields in which this implementation is another network.

        The values are pairs: the spec's value, and the implementation's own.
        """
        fields = fields_of(spec)
        return {
            name: (fields[name], value)
            for name, value in self.implements.items()
            if fields[name] != value and (name != "dropout_place" or spec.dropout_rate)
        }


def layouts() -> dict[str, Layout]:
    """Load every layout that installed packages offer, by name."""
    return published.load_all(GROUP, "layout")


def get_layout(name: str) -> Layout:
    """Find a layout by its name.

    Raises:
        UnknownName: no package offers it; the message suggests near names.
    """
    known = layouts()
    if name not in known:
        raise UnknownName("layout", name, known)
    return known[name]


def renamed(tensors: Tensors, rename: Callable[[str], str]) -> dict[str, Tensor]:
    """Give the same tensors other names.

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
    """Turn (*window, in, out) into (out, in, *window); shapes of vectors stay as they are."""
    return (*shape[:-3:-1], *shape[:-2]) if len(shape) > 1 else shape


def kernel_to_canonical(kernel: np.ndarray) -> np.ndarray:
    """Transpose a kernel from (*window, in, out) to (out, in, *window)."""
    return np.ascontiguousarray(np.moveaxis(kernel, (-1, -2), (0, 1)))


def kernel_from_canonical(kernel: np.ndarray) -> np.ndarray:
    """Transpose a kernel from (out, in, *window) to (*window, in, out)."""
    return np.ascontiguousarray(np.moveaxis(kernel, (0, 1), (-1, -2)))


def to_canonical(name: str, tensor: Tensor, axes: Axes) -> Tensor:
    """Transpose a layout's tensor to canonical axes. ``name`` is canonical."""
    if axes == "out_in_window" or not name.endswith(".kernel") or len(tensor.shape) < 2:
        return tensor
    return Tensor(
        canonical_shape(tensor.shape),
        tensor.dtype,
        lambda: kernel_to_canonical(tensor.read()),
    )


def from_canonical(name: str, tensor: Tensor, axes: Axes) -> Tensor:
    """Transpose a tensor from canonical axes to a layout's. ``name`` is canonical."""
    if axes == "out_in_window" or not name.endswith(".kernel"):
        return tensor
    out, into, *window = tensor.shape
    return Tensor(
        (*window, into, out),
        tensor.dtype,
        lambda: kernel_from_canonical(tensor.read()),
    )
