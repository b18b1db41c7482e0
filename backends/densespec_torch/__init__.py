"""Builds graphs in native PyTorch as plain ``torch.nn`` modules, channels first.

Modules have torchvision's names.

Importing this package does not import PyTorch; the names below do, on first use.
"""

import importlib
from typing import TYPE_CHECKING, Any

from densespec.installed import require

if TYPE_CHECKING:
    from densespec_torch.backend import BACKEND as BACKEND
    from densespec_torch.choosing import choose_ways as choose_ways
    from densespec_torch.modules import DenseNet as DenseNet
    from densespec_torch.norms import synchronise_norms as synchronise_norms
    from densespec_torch.rmsprop import RMSProp as RMSProp

_NEEDS_TORCH = {
    "BACKEND": "backend",
    "DenseNet": "modules",
    "choose_ways": "choosing",
    "RMSProp": "rmsprop",
    "synchronise_norms": "norms",
}


def __getattr__(name: str) -> Any:
    if name not in _NEEDS_TORCH:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    require("backend 'torch.nn'", "torch", extra="torch")
    return getattr(importlib.import_module(f"{__name__}.{_NEEDS_TORCH[name]}"), name)
