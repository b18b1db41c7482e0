"""Names arrays as torchvision's ``state_dict`` does; timm's has the same names."""

from __future__ import annotations

from densespec.weights.layouts import Layout, torch_names

ARGUMENTS = (
    "head_dropout_rate",
    "global_pool",
    "stem_kind",
    "stem_kernel",
    "stem_pool_kind",
    "transition_pool_kind",
)
"""Torchvision's network fixes these fields, but they are arguments of timm's."""

LAYOUT = Layout(
    name="torchvision",
    about="torchvision.models.densenet*, timm's densenet*, CheXNet-like checkpoints",
    containers=("torch", "safetensors"),
    keys=torch_names.keys(),
    axes="out_in_window",
    claims=torch_names.claims(),
    evidence=torch_names.evidence(),
    implements={**torch_names.IMPLEMENTS, "spatial_dims": 2},
    usual={name: torch_names.IMPLEMENTS[name] for name in ARGUMENTS},
    parts=torch_names.parts,
    normalise=torch_names.normalise,
    constants=torch_names.counters(),
    ignored=torch_names.is_counter,
)
