"""Names arrays as gpleiss' efficient_densenet_pytorch: torchvision's names, but ``norm_final``."""

from __future__ import annotations

from collections.abc import Mapping

from densespec.weights.layouts import Layout, torch_names
from densespec.weights.tensors import Tensors

STEM_NORM = "features.norm0.weight"


def key(weight: str) -> str:
    return torch_names.state_key(weight).replace("features.norm5.", "features.norm_final.")


def claims(tensors: Tensors, metadata: Mapping[str, str]) -> bool:
    return torch_names.claims("gpleiss")(tensors, metadata)


LAYOUT = Layout(
    name="gpleiss",
    about="efficient_densenet_pytorch for large images",
    containers=("torch", "safetensors"),
    keys=torch_names.keys(key),
    axes="out_in_window",
    claims=lambda tensors, metadata: claims(tensors, metadata) and STEM_NORM in tensors,
    evidence=torch_names.evidence(key),
    implements={
        **{name: v for name, v in torch_names.IMPLEMENTS.items() if name != "compression"},
        "spatial_dims": 2,
    },
    parts=torch_names.parts,
    normalise=torch_names.normalise,
    constants=torch_names.counters(key),
    ignored=torch_names.is_counter,
)
