"""Names arrays as the PyTorch original of ``densenet169-bc``, bare or within Lightning."""

from __future__ import annotations

from densespec.weights.layouts import Layout, original, torch_names
from densespec.weights.layouts.parts import under
from densespec.weights.layouts.places import UNIT, by_place

_key = torch_names.key_of(
    by_place(
        stem=lambda kind: f"first_layer.0.{UNIT[kind]}",
        layer=lambda block, layer, kind, number: (
            f"layer_dense.{2 * block - 2}.dense_layers.{layer - 1}.conv{number}.{UNIT[kind]}"
        ),
        transition=lambda number, kind: f"layer_dense.{2 * number - 1}.conv.{UNIT[kind]}",
    )
)
_STEM = _key("stem.conv.kernel")

LAYOUT = Layout(
    name="original-torch",
    about="the PyTorch original of densenet169-bc",
    containers=("torch", "safetensors"),
    keys=torch_names.keys(_key),
    axes="out_in_window",
    claims=lambda tensors, metadata: _STEM in tensors,
    evidence=torch_names.evidence(_key),
    implements=original.implements("densenet169-bc-pytorch"),
    parts=under(_STEM),
    constants=torch_names.counters(_key),
    ignored=torch_names.is_counter,
)
