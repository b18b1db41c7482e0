"""Names arrays as Flax-style trees do: ``params/block1/layer2/conv1/kernel``."""

from __future__ import annotations

from collections.abc import Mapping

from densespec.weights.layouts import Layout, flax_names
from densespec.weights.tensors import Tensors

_key = flax_names.key_of(lambda node: node)


def _claims(tensors: Tensors, metadata: Mapping[str, str]) -> bool:
    """Say whether a file is Flax's. Running statistics among parameters are those of ``nnx``."""
    among = (name.startswith("params/") and name.endswith("/mean") for name in tensors)
    return _key("stem.conv.kernel") in tensors and not any(among)


LAYOUT = Layout(
    name="flax",
    about="Flax-style trees of variables: params and batch_stats",
    containers=("msgpack", "orbax", "safetensors"),
    keys=flax_names.keys(_key),
    axes="window_in_out",
    claims=_claims,
    evidence=flax_names.evidence(_key),
)
