"""Torchvision's names, which networks derived from it share, as do densespec's PyTorch modules."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import numpy as np

from densespec.network.graph import Graph
from densespec.weights.evidence import Evidence, Kernel, evidence_by_name
from densespec.weights.tensors import Tensor, Tensors

STEM_KEY = "features.conv0.weight"
COUNTER = "num_batches_tracked"

_WHOLE = {"stem_pool": "features.pool0", "final.norm": "features.norm5", "final.relu": "relu"}
_LEAVES = {
    "kernel": "weight",
    "bias": "bias",
    "gamma": "weight",
    "beta": "bias",
    "running_mean": "running_mean",
    "running_variance": "running_var",
}

# Spellings of older files, and of heads that wrap the classifier in a Sequential.
_OLD_SPELLINGS = (
    (".norm.1.", ".norm1."),
    (".norm.2.", ".norm2."),
    (".conv.1.", ".conv1."),
    (".conv.2.", ".conv2."),
    ("classifier.0.", "classifier."),
)


def module_path(node: str) -> str:
    """Dotted path of the module that computes a node, in torchvision's names.

    What torchvision computes without a module, such as the final ReLU, is outside ``features``.
    """
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


def keys(rename: Callable[[str], str] = lambda key: key) -> Callable[[Graph, str], dict[str, str]]:
    """Names of a network's arrays: torchvision's, each passed through ``rename``."""

    def of(graph: Graph, container: str) -> dict[str, str]:
        return {name: rename(key) for name, key in state_keys(graph).items()}

    return of


def evidence(rename: Callable[[str], str] = lambda key: key) -> Callable[[Tensors], Evidence]:
    """What the shapes say, by the same names."""

    def of(tensors: Tensors) -> Evidence:
        def find(canonical: str) -> Kernel | None:
            key = rename(state_key(canonical))
            return Kernel(key, tensors[key].shape) if key in tensors else None

        return evidence_by_name(find)

    return of


def normalise(tensors: Tensors) -> dict[str, Tensor]:
    """Strip whatever stands before ``features``, and modernise old spellings.

    A checkpoint of a wrapped model has names such as ``module.densenet121.features.conv0.weight``.
    """
    prefix = next((name.removesuffix(STEM_KEY) for name in tensors if name.endswith(STEM_KEY)), "")
    return {_modern(name.removeprefix(prefix)): tensor for name, tensor in tensors.items()}


def _modern(name: str) -> str:
    for old, new in _OLD_SPELLINGS:
        name = name.replace(old, new)
    return name


def has_stem(tensors: Tensors) -> bool:
    return any(name.endswith(STEM_KEY) for name in tensors)


def counters(
    rename: Callable[[str], str] = lambda key: key,
) -> Callable[[Graph], dict[str, Tensor]]:
    """PyTorch's norms count the batches they have seen, and strict loading wants the counts."""

    def of(graph: Graph) -> dict[str, Tensor]:
        zero = Tensor.of(np.zeros((), np.int64))
        return {
            rename(state_key(weight.name)).replace("running_mean", COUNTER): zero
            for weight in graph.weights
            if weight.name.endswith(".running_mean")
        }

    return of


def is_counter(name: str) -> bool:
    return name.endswith(COUNTER)


IMPLEMENTS: Mapping[str, object] = {
    "compression": 0.5,
    "stem_kind": "conv-norm-relu",
    "stem_kernel": 7,
    "stem_stride": 2,
    "stem_pool": 3,
    "padding": "symmetric",
    "conv_bias": False,
    "batch_norm_epsilon": 1e-5,
    "batch_norm_momentum": 0.1,
    "running_variance": "unbiased",
    "transition_relu": True,
    "final_norm": True,
    "dropout_place": "layer",
    "head_units": (),
}
"""What torchvision's network, and those that took its code, cannot do otherwise."""
