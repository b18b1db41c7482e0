"""Names arrays as pytorchcv's networks for CIFAR and SVHN do, with and without bottlenecks."""

from __future__ import annotations

from functools import partial

from densespec.network.graph import Graph
from densespec.weights.evidence import Evidence
from densespec.weights.layouts import Layout, pytorchcv, torch_names
from densespec.weights.tensors import Tensor, Tensors

_STEM = "features.init_block.weight"


def _key(weight: str, plain: bool) -> str:
    """Name a unit's array: without a bottleneck there is one convolution, which has no number."""
    if weight == "stem.conv.kernel":
        return _STEM
    key = pytorchcv.key(weight)
    return key.replace(".conv1.", ".conv.") if plain else key


def _key_in(graph: Graph) -> torch_names.Key:
    return partial(_key, plain=graph.spec.bottleneck_width is None)


def _keys(graph: Graph, container: str) -> dict[str, str]:
    return torch_names.state_keys(graph, _key_in(graph))


def _counters(graph: Graph) -> dict[str, Tensor]:
    return torch_names.counters(_key_in(graph))(graph)


def _evidence(tensors: Tensors) -> Evidence:
    plain = _key("block1.layer1.conv1.kernel", plain=True) in tensors
    return torch_names.evidence(partial(_key, plain=plain))(tensors)


LAYOUT = Layout(
    name="pytorchcv-cifar",
    about="pytorchcv's densenet*_cifar10, *_cifar100 and *_svhn",
    containers=("torch", "safetensors"),
    keys=_keys,
    axes="out_in_window",
    claims=lambda tensors, metadata: _STEM in tensors,
    evidence=_evidence,
    implements={**torch_names.IMPLEMENTS, **torch_names.CIFAR},
    parts=pytorchcv.parts(_STEM),
    constants=_counters,
    ignored=torch_names.is_counter,
)
