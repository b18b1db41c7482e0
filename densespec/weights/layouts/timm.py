"""timm's ``state_dict``, which has torchvision's names and so is found as torchvision's."""

from __future__ import annotations

from dataclasses import replace

from densespec.weights.layouts import torchvision

_ARGUMENTS = (
    "head_dropout_rate",
    "global_pool",
    "stem_kind",
    "stem_kernel",
    "stem_pool_kind",
    "transition_pool_kind",
)
"""Fields that torchvision's network fixes, and that are arguments of timm's."""


def _implements(*, arguments: bool) -> dict[str, object]:
    """Give what torchvision's implements: of timm's arguments their defaults, or the rest."""
    return {
        name: value
        for name, value in torchvision.LAYOUT.implements.items()
        if (name in _ARGUMENTS) is arguments
    }


LAYOUT = replace(
    torchvision.LAYOUT,
    name="timm",
    about="timm's densenet*",
    claims=lambda tensors, metadata: False,
    implements=_implements(arguments=False),
    usual=_implements(arguments=True),
)
