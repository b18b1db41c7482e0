"""Names arrays as gpleiss' network for small images does, which has no norm in its stem."""

from __future__ import annotations

from dataclasses import replace

from densespec.weights.layouts import gpleiss, torch_names

LAYOUT = replace(
    gpleiss.LAYOUT,
    name="gpleiss-cifar",
    about="efficient_densenet_pytorch with small_inputs=True, for CIFAR",
    claims=lambda tensors, metadata: (
        gpleiss.claims(tensors, metadata) and gpleiss.STEM_NORM not in tensors
    ),
    implements={**gpleiss.LAYOUT.implements, **torch_names.CIFAR},
)
