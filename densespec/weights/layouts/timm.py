"""timm's ``state_dict``, which has torchvision's names and so is found as torchvision's."""

from __future__ import annotations

from dataclasses import replace

from densespec.weights.layouts import torchvision

LAYOUT = replace(
    torchvision.LAYOUT,
    name="timm",
    about="timm's densenet*",
    claims=lambda tensors, metadata: False,
    implements={
        name: value
        for name, value in torchvision.LAYOUT.implements.items()
        if name not in torchvision.ARGUMENTS
    },
)
