"""The state of ``flax.nnx`` modules with canonical names: ``block1/layer2/conv1/kernel``.

A tree of ``nnx.split`` has one more level, ``value``, in the files that some programs make of it.
"""

from __future__ import annotations

from densespec.weights.layouts import Layout, flax_names, renamed
from densespec.weights.tensors import Tensor, Tensors

_key = flax_names.key_of(lambda node: node, collections=False)
_VALUE = "/value"


def _normalise(tensors: Tensors) -> dict[str, Tensor]:
    return renamed(tensors, lambda name: name.removesuffix(_VALUE))


LAYOUT = Layout(
    name="flax-nnx",
    about="the state of densespec's flax.nnx modules",
    containers=("msgpack", "safetensors"),
    keys=flax_names.keys(_key),
    axes="window_in_out",
    claims=lambda tensors, metadata: any(
        _key("stem.conv.kernel") + end in tensors for end in ("", _VALUE)
    ),
    evidence=flax_names.evidence(_key),
    normalise=_normalise,
    ignored=lambda name: "/rngs/" in name,
)
