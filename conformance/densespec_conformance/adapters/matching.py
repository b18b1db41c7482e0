"""Which array of somebody else's network is which is told by names that a layout knows, or by
order."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from densespec.errors import WeightsError, listed
from densespec.network import ops
from densespec.network.graph import Graph
from densespec.network.spec import DenseNetSpec
from densespec.weights.evidence import Evidence, KernelShape, evidence_in_order, inferred_fields
from densespec.weights.layouts import Axes, Layout, layouts, to_canonical
from densespec.weights.tensors import Tensor
from densespec_conformance.adapters.foreign import ForeignArray

LEGACY = "keras-legacy"
"""In this container, Keras's layouts use the names of layers, as live models have them."""


@dataclass(frozen=True)
class Match:
    """Holds the names of a network's arrays by canonical name, and says how they were found."""

    keys: Mapping[str, str]
    how: str


@dataclass(frozen=True)
class ForeignNames:
    """Holds what the names and shapes of a network's arrays tell, whatever network it should be.

    Attributes:
        layout: The layout that knows the names; None if none does.
        keys: The names in the network, by the layout's names.
        tensors: The arrays by the layout's names.
        arrays: The arrays by the network's names.
        order: The names of parts in the order in which they run.
        axes: The order of axes of kernels.
    """

    layout: Layout | None
    keys: Mapping[str, str]
    tensors: Mapping[str, Tensor]
    arrays: Mapping[str, ForeignArray]
    order: Sequence[str]
    axes: Axes

    @property
    def has_classifier(self) -> bool:
        return self._evidence().classifier is not None

    def _evidence(self) -> Evidence:
        if self.layout is not None:
            return self.layout.evidence(self.tensors)
        parts = _Parts(self)
        return evidence_in_order(
            convs=parts.kernels("conv"),
            norms=[kernel.shape[0] for kernel in parts.kernels("norm")],
            conv_bias=any("bias" in part for part in parts.of("conv")),
            dense=parts.kernels("dense"),
        )

    def fields(self) -> dict[str, Any]:
        """Return the fields of a spec that the shapes determine.

        Raises:
            WeightsError: The shapes are not those of a DenseNet.
        """
        return inferred_fields(self._evidence())


def names_of(
    arrays: Mapping[str, ForeignArray], order: Sequence[str], containers: Sequence[str], axes: Axes
) -> ForeignNames:
    """Find out what the names of a network's arrays tell."""
    by_name = {name: seen.tensor for name, seen in arrays.items()}
    parts = {"layer_names": json.dumps({seen.part: seen.part for seen in arrays.values()})}
    found = [
        layout
        for layout in layouts().values()
        if set(layout.containers) & set(containers) and layout.claims(by_name, parts)
    ]
    if not found:
        return ForeignNames(None, {}, {}, arrays, order, axes)
    layout = min(found, key=lambda layout: not layout.implements)
    name_of = {id(tensor): name for name, tensor in by_name.items()}
    tensors = {
        name: tensor
        for name, tensor in layout.normalise(by_name).items()
        if not layout.ignored(name)
    }
    keys = {name: name_of[id(tensor)] for name, tensor in tensors.items()}
    return ForeignNames(layout, keys, tensors, arrays, order, axes)


def match(graph: Graph, names: ForeignNames) -> Match:
    """Find every array of a graph in a network.

    Raises:
        WeightsError: The network differs from the graph's; the message says in what.
    """
    by_layout = names.layout is not None
    found, problems = _by_layout(graph, names) if by_layout else _by_order(graph, names)
    if problems:
        raise WeightsError(_another(graph.spec, names, problems))
    if names.layout is not None:
        return Match(found, f"its arrays have the names of the layout {names.layout.name}")
    return Match(found, "no layout knows its names, so its arrays were told by order and shape")


def _by_layout(graph: Graph, names: ForeignNames) -> tuple[dict[str, str], list[str]]:
    assert names.layout is not None
    wanted = names.layout.keys(graph, LEGACY)
    found, problems = {}, []
    for weight in graph.weights:
        key = wanted[weight.name]
        if key not in names.tensors:
            problems.append(f"{key} is missing")
            continue
        shape = to_canonical(weight.name, names.tensors[key], names.axes).shape
        found[weight.name] = names.keys[key]
        if shape != weight.shape:
            problems.append(f"{key} has shape {shape}, but should have {weight.shape}")
    expected = set(wanted.values())
    return found, problems + [f"{k} is unexpected" for k in names.tensors if k not in expected]


KINDS: Mapping[str, tuple[type[ops.Op], ...]] = {
    "conv": (ops.Conv,),
    "norm": (ops.BatchNorm, ops.GroupNorm),
    "activation": (ops.PRelu,),
    "dense": (ops.Dense,),
}
"""Maps the kinds that arrays tell apart to the ops that have such arrays."""


def _by_order(graph: Graph, names: ForeignNames) -> tuple[dict[str, str], list[str]]:
    parts = _Parts(names)
    found: dict[str, str] = {}
    problems: list[str] = []
    for kind, kinds in KINDS.items():
        nodes = [node for node in graph.nodes_of(*kinds) if node.weights]
        theirs = parts.of(kind)
        if len(nodes) != len(theirs):
            problems.append(f"{len(theirs)} {kind} parts, but should be {len(nodes)}")
            continue
        for node, part in zip(nodes, theirs, strict=True):
            for weight in node.weights:
                leaf = weight.short
                if leaf not in part:
                    problems.append(f"nothing for {weight.name}")
                    continue
                key = part[leaf]
                shape = to_canonical(weight.name, names.arrays[key].tensor, names.axes).shape
                found[weight.name] = key
                if shape != weight.shape:
                    problems.append(
                        f"{key} has shape {shape} where {weight.name} should have {weight.shape}"
                    )
    used = set(found.values())
    return found, problems + [f"{key} is unexpected" for key in names.arrays if key not in used]


class _Parts:
    """Holds a network's parts by kind, in order: each is a table of names by canonical leaf."""

    def __init__(self, names: ForeignNames) -> None:
        self._names = names
        parts: dict[str, dict[str, str]] = {name: {} for name in names.order}
        for key, seen in names.arrays.items():
            parts.setdefault(seen.part, {})[seen.leaf] = key
        self._kinds: dict[str, list[dict[str, str]]] = {kind: [] for kind in KINDS}
        for part in parts.values():
            kind = self._kind(part)
            if kind is not None:
                self._kinds[kind].append(part)

    def _kind(self, part: Mapping[str, str]) -> str | None:
        if "kernel" in part:
            return "dense" if len(self._shape(part["kernel"])) == 2 else "conv"
        if "slope" in part:
            return "activation"
        return "norm" if _of_channels(part) else None

    def _shape(self, key: str) -> tuple[int, ...]:
        return to_canonical("any.kernel", self._names.arrays[key].tensor, self._names.axes).shape

    def of(self, kind: str) -> list[dict[str, str]]:
        return self._kinds[kind]

    def kernels(self, kind: str) -> list[KernelShape]:
        found = (part.get("kernel") or _of_channels(part) for part in self.of(kind))
        return [KernelShape(key, self._shape(key)) for key in found]


def _of_channels(part: Mapping[str, str]) -> str:
    """Return the name of an array of a norm; empty where a part has none."""
    return part.get("gamma") or part.get("running_mean") or ""


def _another(spec: DenseNetSpec, names: ForeignNames, problems: Sequence[str]) -> str:
    """Say why a network differs: by the fields that tell it, or else by its arrays."""
    try:
        theirs = names.fields()
    except WeightsError:
        theirs = {}
    ours = {name: getattr(spec, name) for name in theirs} | {"stem_width": spec.stem_channels}
    apart = [
        f"{name} is {value!r}, but {ours[name]!r} in the spec"
        for name, value in theirs.items()
        if ours[name] != value
    ]
    if apart:
        return f"by its arrays this is another network: {'; '.join(apart)}"
    return f"its arrays are not those of the spec: {listed(problems)}"
