"""Defines timm's layout: torchvision's names, but that norms hold the slopes of activations.

A state dict without slopes is found as torchvision's, unless it comes with timm's modules.
"""

from __future__ import annotations

from dataclasses import replace

from densespec.weights.layouts import torch_names, torchvision


def _key(weight: str) -> str:
    node, _, leaf = weight.rpartition(".")
    if leaf != "slope":
        return torch_names.state_key(weight)
    return f"{torch_names.module_path(node.replace('relu', 'norm'))}.act.weight"


LAYERS = {"activation": "relu", "activation_slope": 0.01, "norm": "batch", "norm_groups": 32}
"""Maps the values of ``act_layer=`` and ``norm_layer=`` to fields of the spec."""

LAYOUT = replace(
    torchvision.LAYOUT,
    name="timm",
    about="timm's densenet*",
    keys=torch_names.keys(_key),
    claims=torch_names.claims("timm"),
    evidence=torch_names.evidence(_key),
    implements={
        name: value
        for name, value in torchvision.LAYOUT.implements.items()
        if name not in (*torchvision.ARGUMENTS, *LAYERS)
    },
    usual={**torchvision.LAYOUT.usual, **LAYERS},
)
