"""Defines timm's layout, which has torchvision's names and so is found as torchvision's."""

from __future__ import annotations

from dataclasses import replace

from densespec.weights.layouts import torchvision

LAYERS = {"activation": "relu", "activation_slope": 0.01, "norm": "batch", "norm_groups": 32}
"""Maps the values of ``act_layer=`` and ``norm_layer=`` to fields of the spec."""

LAYOUT = replace(
    torchvision.LAYOUT,
    name="timm",
    about="timm's densenet*",
    claims=lambda tensors, metadata: False,
    implements={
        name: value
        for name, value in torchvision.LAYOUT.implements.items()
        if name not in (*torchvision.ARGUMENTS, *LAYERS)
    },
    usual={**torchvision.LAYOUT.usual, **LAYERS},
)
