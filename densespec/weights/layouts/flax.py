"""Trees as Flax keeps them: ``params/block1/layer2/conv1/kernel``, ``batch_stats/.../mean``."""

from __future__ import annotations

from densespec.network.graph import Graph
from densespec.weights.evidence import Evidence, Kernel, evidence_by_name
from densespec.weights.layouts import Layout, canonical_shape
from densespec.weights.tensors import Tensors

_LEAVES = {
    "kernel": ("params", "kernel"),
    "bias": ("params", "bias"),
    "gamma": ("params", "scale"),
    "beta": ("params", "bias"),
    "running_mean": ("batch_stats", "mean"),
    "running_variance": ("batch_stats", "var"),
}


def _key(weight: str) -> str:
    node, _, leaf = weight.rpartition(".")
    collection, name = _LEAVES[leaf]
    return f"{collection}/{node.replace('.', '/')}/{name}"


def _keys(graph: Graph, container: str) -> dict[str, str]:
    return {weight.name: _key(weight.name) for weight in graph.weights}


def _evidence(tensors: Tensors) -> Evidence:
    def find(canonical: str) -> Kernel | None:
        key = _key(canonical)
        return Kernel(key, canonical_shape(tensors[key].shape)) if key in tensors else None

    return evidence_by_name(find)


LAYOUT = Layout(
    name="flax",
    about="Flax-style trees of variables: params and batch_stats",
    containers=("msgpack", "safetensors"),
    keys=_keys,
    axes="window_in_out",
    claims=lambda tensors, metadata: "params/stem/conv/kernel" in tensors,
    evidence=_evidence,
)
