"""Defines what the two published originals of ``densenet169-bc`` have in common."""

from __future__ import annotations

from typing import Any

from densespec.network.catalogue import get

_FIXED = (
    "activation",
    "batch_norm_epsilon",
    "batch_norm_momentum",
    "conv_bias",
    "dropout_place",
    "dropout_rate",
    "classifier_bias",
    "final_norm",
    "global_pool",
    "head_dropout_rate",
    "head_units",
    "norm",
    "norm_affine",
    "padding",
    "running_variance",
    "spatial_dims",
    "stem_kernel",
    "stem_kind",
    "stem_pool",
    "stem_pool_kind",
    "stem_stride",
    "transition_pool_kind",
    "transition_relu",
)


def implements(variant: str) -> dict[str, Any]:
    """Return the fields that the program of this variant's network fixes."""
    return {name: getattr(get(variant), name) for name in _FIXED}
