"""Where a node of the graph lives in the module tree: torchvision's names, where it has one.

``block1.layer2.norm1`` is ``features.denseblock1.denselayer2.norm1``; what torchvision computes
without a module (the final ReLU, the global pool) stands outside ``features`` here as there.
"""

from __future__ import annotations

import re

from densespec.graph import Graph

_WHOLE = {"stem_pool": "features.pool0", "final.norm": "features.norm5", "final.relu": "relu"}
_LEAVES = {
    "kernel": "weight",
    "bias": "bias",
    "gamma": "weight",
    "beta": "bias",
    "running_mean": "running_mean",
    "running_variance": "running_var",
}


def module_path(node: str) -> str:
    """Dotted path of the module that computes a node."""
    if node in _WHOLE:
        return _WHOLE[node]
    if node.startswith("stem."):
        return f"features.{node.removeprefix('stem.')}0"
    if node.startswith("block"):
        return re.sub(r"\blayer", "denselayer", f"features.dense{node}")
    return f"features.{node}" if node.startswith("transition") else node


def state_key(weight: str) -> str:
    """Key in the ``state_dict`` of an array with this canonical name. Shapes are the same."""
    node, _, leaf = weight.rpartition(".")
    return f"{module_path(node)}.{_LEAVES[leaf]}"


def state_keys(graph: Graph) -> dict[str, str]:
    """Key in the ``state_dict`` of every array of a network, by canonical name."""
    return {weight.name: state_key(weight.name) for weight in graph.weights}
