"""Names arrays in trees as Flax keeps them: ``params/.../kernel``, ``batch_stats/.../mean``."""

from __future__ import annotations

from collections.abc import Callable

from densespec.network.graph import Graph
from densespec.weights.evidence import Evidence, KernelShape, evidence_by_name
from densespec.weights.layouts import canonical_shape
from densespec.weights.tensors import Tensors

Key = Callable[[str], str]
"""Returns an array's path in the tree from its canonical name."""

_LEAVES = {
    "gamma": ("params", "scale"),
    "beta": ("params", "bias"),
    "running_mean": ("batch_stats", "mean"),
    "running_variance": ("batch_stats", "var"),
}
"""Maps arrays to their collection and name; others are parameters under their canonical names."""


def key_of(module: Callable[[str], str], *, collections: bool = True) -> Key:
    """Make the function that names arrays' paths in a tree from the dotted paths of modules.

    Args:
        collections: whether paths begin with a collection such as ``params``; nnx's trees have
            none.
    """

    def key(weight: str) -> str:
        node, _, leaf = weight.rpartition(".")
        collection, name = _LEAVES.get(leaf, ("params", leaf))
        path = f"{module(node).replace('.', '/')}/{name}"
        return f"{collection}/{path}" if collections else path

    return key


def keys(key: Key) -> Callable[[Graph, str], dict[str, str]]:
    """Make the function that names a network's arrays, in any container."""
    return lambda graph, container: {weight.name: key(weight.name) for weight in graph.weights}


def evidence(key: Key) -> Callable[[Tensors], Evidence]:
    """Make the function that reads what the shapes say, by the same names."""

    def of(tensors: Tensors) -> Evidence:
        def find(canonical: str) -> KernelShape | None:
            name = key(canonical)
            return (
                KernelShape(name, canonical_shape(tensors[name].shape)) if name in tensors else None
            )

        return evidence_by_name(find)

    return of
