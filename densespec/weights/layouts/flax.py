"""Flax-style trees whose modules have canonical names: ``params/block1/layer2/conv1/kernel``."""

from __future__ import annotations

from densespec.weights.layouts import Layout, flax_names

_key = flax_names.key_of(lambda node: node)

LAYOUT = Layout(
    name="flax",
    about="Flax-style trees of variables: params and batch_stats",
    containers=("msgpack", "safetensors"),
    keys=flax_names.keys(_key),
    axes="window_in_out",
    claims=lambda tensors, metadata: _key("stem.conv.kernel") in tensors,
    evidence=flax_names.evidence(_key),
)
