"""Builds graphs in native JAX as ``flax.nnx`` modules, in densespec's names.

Importing this package imports neither JAX nor Flax; the names below do, on first use.
"""

import importlib
from typing import TYPE_CHECKING, Any

from densespec.installed import require

if TYPE_CHECKING:
    from densespec_flax.backend import BACKEND as BACKEND
    from densespec_flax.layers import Frozen as Frozen
    from densespec_flax.losses import loss_of as loss_of
    from densespec_flax.modules import DenseNet as DenseNet
    from densespec_flax.optimizers import optimizer_of as optimizer_of
    from densespec_flax.optimizers import schedule_of as schedule_of

_NEEDS_FLAX = {
    "BACKEND": "backend",
    "DenseNet": "modules",
    "Frozen": "layers",
    "loss_of": "losses",
    "optimizer_of": "optimizers",
    "schedule_of": "optimizers",
}


def __getattr__(name: str) -> Any:
    if name not in _NEEDS_FLAX:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    for package in ("jax", "flax", "optax"):
        require("backend 'flax.nnx'", package, extra="flax")
    return getattr(importlib.import_module(f"{__name__}.{_NEEDS_FLAX[name]}"), name)
