"""Names arrays as the state of ``flax.nnx`` modules does: ``block1/layer2/conv1/kernel``.

Some programs write trees of ``nnx.split`` with one more level, ``value``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from densespec.weights.layouts import Layout, flax_names, renamed
from densespec.weights.layouts.parts import Part
from densespec.weights.tensors import Tensor, Tensors

_key = flax_names.key_of(lambda node: node, collections=False)
_VALUE = "/value"


_STEM, _STATISTIC = _key("stem.conv.kernel"), "/mean"


def _parts(names: Iterable[str]) -> Iterator[Part]:
    """Find the modules in a tree that are networks; what optimizers keep has no statistics."""
    bare = {name: name.removesuffix(_VALUE) for name in names}
    for stem in bare.values():
        prefix = stem.removesuffix(_STEM)
        if prefix == stem or (prefix and not prefix.endswith("/")):
            continue
        inside = {name: name.removeprefix(prefix) for name in bare if name.startswith(prefix)}
        if any(bare[name].endswith(_STATISTIC) for name in inside):
            yield Part(prefix, inside)


def _normalise(tensors: Tensors) -> dict[str, Tensor]:
    return renamed(tensors, lambda name: name.removesuffix(_VALUE))


LAYOUT = Layout(
    name="flax-nnx",
    about="the state of densespec's flax.nnx modules",
    containers=("msgpack", "orbax", "safetensors"),
    keys=flax_names.keys(_key),
    axes="window_in_out",
    claims=lambda tensors, metadata: any(
        _key("stem.conv.kernel") + end in tensors for end in ("", _VALUE)
    ),
    evidence=flax_names.evidence(_key),
    normalise=_normalise,
    parts=_parts,
    ignored=lambda name: "/rngs/" in name,
)
