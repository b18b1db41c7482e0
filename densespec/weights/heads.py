"""Finds the head of a network by the shapes of linear layers, whatever their names are."""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from densespec.errors import WeightsError, bare, listed
from densespec.network.graph import CLASSIFIER
from densespec.network.spec import MOST_HEADS
from densespec.weights.layer_arrays import LayerArrays
from densespec.weights.layouts import Axes, to_canonical
from densespec.weights.tensors import Tensor, Tensors

HeadActivation = Literal["relu", "none"]

Linear = tuple[Tensor, Tensor]
"""Holds the kernel of a linear layer, (units, features), and its bias."""


@dataclass(frozen=True)
class FoundHead:
    """Holds what follows the global pool of a network.

    Attributes:
        layers: Its linear layers in order, the classifier last; empty if none was recognised.
        missing: The reason why none was recognised although there are linear layers.
    """

    layers: tuple[LayerArrays, ...] = ()
    missing: str = ""

    @property
    def features(self) -> int | None:
        """Return the number of features that its first layer reads; None if it has no layer."""
        return self.layers[0].shapes["kernel"][1] if self.layers else None

    @functools.cached_property
    def names(self) -> frozenset[str]:
        """Return the full names of its arrays."""
        return frozenset(name for layer in self.layers for name in layer.all_names)


@dataclass(frozen=True)
class HeadTensors:
    """Holds the arrays of a head.

    Attributes:
        tensors: The arrays by canonical name.
        units: The number of units of each dense layer before the classifier.
        classes: The number of outputs of the classifier; None without a classifier.
        bias: Whether the classifier has a bias. If not, the tensors contain one of zeros.
        assumptions: Sentences that say what was assumed because the names do not state it.
        notes: Sentences that say what else a user should know.
    """

    tensors: Tensors
    units: tuple[int, ...] = ()
    classes: int | None = None
    bias: bool = True
    assumptions: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def find_head(
    scopes: Iterable[Sequence[LayerArrays]], features: Sequence[int], prefix: str = ""
) -> FoundHead:
    """Find the linear layers that make a head of features, by their shapes.

    Nothing else that computes may lie beside them, for it may lie between.

    Args:
        scopes: The layers that are no part of the body, first those of the network itself, then
            all there are. The first scope that has a linear layer counts.
        features: The numbers of features that the global pool may give, the likeliest first.
        prefix: What stands before the names of the network. What it is in is no part of a head.
    """
    for layers in scopes:
        linears = [layer for layer in layers if layer.kind == "linear"]
        if linears:
            return _head_among(layers, linears, features, prefix)
    return FoundHead()


def _head_among(
    layers: Sequence[LayerArrays],
    linears: Sequence[LayerArrays],
    features: Sequence[int],
    prefix: str,
) -> FoundHead:
    if len(linears) > MOST_HEADS:
        return FoundHead(missing=f"it has {len(linears)} linear layers, more than any head")
    found = (_in_order(linears, given) or _by_shape(linears, given) for given in features)
    chain = next(filter(None, found), None)
    if chain is None:
        paths = listed([f"{bare(layer.path)} {layer.shapes['kernel']}" for layer in linears])
        advice = (
            "; those that are no part of its head are left out by their names (--without "
            f"{bare(linears[-1].path)})"
        )
        return FoundHead(
            missing=f"its linear layers are no chain that starts at {features[0]} features: {paths}"
            f"{advice if len(linears) > 1 else ''}"
        )
    if changed := [layer for layer in chain if layer.others]:
        paths = listed(
            [f"{bare(name)} ({bare(layer.path)})" for layer in changed for name in layer.others]
        )
        return FoundHead(missing=f"further arrays may change what its linear layers do: {paths}")
    homes = {_parent(linear.path) for linear in chain}
    homes = {home for home in homes if home and not prefix.startswith(f"{home}.")}
    between = [
        layer
        for layer in layers
        if layer.kind not in ("none", "linear")
        or (layer.kind == "none" and _parent(layer.path) in homes)
    ]
    if between:
        paths = listed([f"{bare(layer.path)} ({_described(layer)})" for layer in between])
        return FoundHead(missing=f"other layers may stand within it: {paths}")
    return FoundHead(tuple(chain))


def _in_order(linears: Sequence[LayerArrays], given: int) -> Sequence[LayerArrays] | None:
    """Keep the given order, if each linear layer reads what the one before it gives."""
    for layer in linears:
        units, reads = layer.shapes["kernel"]
        if reads != given:
            return None
        given = units
    return linears


def _by_shape(linears: Sequence[LayerArrays], given: int) -> Sequence[LayerArrays] | None:
    """Find the only order in which each linear layer reads what the one before it gives."""
    reading: dict[int, list[LayerArrays]] = {}
    for layer in linears:
        reading.setdefault(layer.shapes["kernel"][1], []).append(layer)
    chain: list[LayerArrays] = []
    while len(reading.get(given, ())) == 1:
        (layer,) = reading.pop(given)
        chain.append(layer)
        given = layer.shapes["kernel"][0]
    return None if reading else chain


def _parent(path: str) -> str:
    return path.rpartition("/" if "/" in path else ".")[0]


def _described(layer: LayerArrays) -> str:
    return "arrays of its own" if layer.kind in ("none", "unknown") else f"a {layer.kind}"


# Its arrays


def head_tensors(
    head: FoundHead,
    tensors: Tensors,
    axes: Axes,
    named: Collection[str],
    activation: HeadActivation | None,
) -> HeadTensors:
    """Return the arrays of a head by canonical name.

    Args:
        tensors: The arrays by full name.
        axes: The order of axes of their kernels.
        named: The full names that the layout has for a head with ReLUs, if arrays have them.
        activation: What stands between linear layers by the user's word; None for a ReLU.

    Raises:
        WeightsError: The names tell that something else stands between them.
    """
    if not head.layers:
        return HeadTensors({})
    paths = " and ".join(bare(layer.path) for layer in head.layers)
    layers = [_linear(layer, tensors, axes) for layer in head.layers]
    biased = ["bias" in layer.names for layer in head.layers]
    notes = [
        f"{bare(layer.path)} has no bias, which is the same as one of zeros"
        for layer, has_bias in zip(head.layers[:-1], biased, strict=False)
        if not has_bias
    ]
    assumptions = []
    if len(layers) > 1 and {layer.names["kernel"] for layer in head.layers} <= set(named):
        if activation == "none":
            raise WeightsError(f"head_activation = 'none', but {paths} have ReLUs between them")
    elif len(layers) > 1 and activation == "none":
        notes.append(f"{paths} are one linear layer, as nothing stands between them")
        layers, biased = [_composed(layers)], [any(biased)]
    elif len(layers) > 1 and activation is None:
        assumptions.append(
            f"a ReLU is assumed between {paths}, which no name tells; if nothing stands there, say "
            "so (--head-activation none)"
        )
    units = [kernel.shape[0] for kernel, _ in layers]
    return HeadTensors(
        dict(_canonical(layers)),
        tuple(units[:-1]),
        units[-1],
        biased[-1],
        tuple(assumptions),
        tuple(notes),
    )


def _linear(layer: LayerArrays, tensors: Tensors, axes: Axes) -> Linear:
    kernel = to_canonical("classifier.kernel", tensors[layer.names["kernel"]], axes)
    if "bias" in layer.names:
        return kernel, tensors[layer.names["bias"]]
    return kernel, zero_bias(kernel)


def zero_bias(kernel: Tensor) -> Tensor:
    """Make the bias that a linear layer without one has in effect."""
    shape = kernel.shape[:1]
    return Tensor(shape, kernel.dtype, lambda: np.zeros(shape, kernel.read().dtype))


def _canonical(layers: Sequence[Linear]) -> Iterator[tuple[str, Tensor]]:
    nodes = [*(f"head{number}.dense" for number in range(1, len(layers))), CLASSIFIER]
    for node, (kernel, bias) in zip(nodes, layers, strict=True):
        yield f"{node}.kernel", kernel
        yield f"{node}.bias", bias


def _composed(layers: Sequence[Linear]) -> Linear:
    """Compose several linear layers into one that computes the same."""
    last, (_, first_reads) = layers[-1][0], layers[0][0].shape

    def product(which: int) -> np.ndarray:
        kernel, bias = np.eye(first_reads), np.zeros(first_reads)
        for linear in layers:
            weight, offset = (np.asarray(part.read(), np.float64) for part in linear)
            kernel, bias = weight @ kernel, weight @ bias + offset
        return np.asarray((kernel, bias)[which]).astype(last.read().dtype)

    units = last.shape[0]
    return (
        Tensor((units, first_reads), last.dtype, lambda: product(0)),
        Tensor((units,), last.dtype, lambda: product(1)),
    )
