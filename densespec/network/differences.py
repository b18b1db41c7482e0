"""Compares two specs, and finds the named variant that a spec is or is nearest to."""

from __future__ import annotations

import dataclasses
from typing import Any

from densespec.network.catalogue import catalogue
from densespec.network.spec import DenseNetSpec

TRAINING_ONLY = frozenset(
    {
        "dropout_rate",
        "dropout_place",
        "head_dropout_rate",
        "batch_norm_momentum",
        "running_variance",
    }
)
"""These fields change training, but nothing that given weights compute in inference."""

OF_HEAD = frozenset(
    {"classes", "head_units", "head_dropout_rate", "classifier_bias", "global_pool"}
)
"""These fields change only what comes after the global pool."""


def fields_of(spec: DenseNetSpec) -> dict[str, Any]:
    """Return every field of a spec by name; a stem width that is a rule is worked out."""
    fields = {field.name: getattr(spec, field.name) for field in dataclasses.fields(spec)}
    return fields | {"stem_width": spec.stem_channels}


def spec_differences(first: DenseNetSpec, second: DenseNetSpec) -> dict[str, tuple[Any, Any]]:
    """Return the fields in which two specs differ, each with the first's and the second's value.

    What says more of something that neither has, such as the place of a dropout, is no difference.
    """
    ours, theirs = fields_of(first), fields_of(second)
    apart = {name: (ours[name], theirs[name]) for name in ours if ours[name] != theirs[name]}
    if not first.dropout_rate and not second.dropout_rate:
        apart.pop("dropout_place", None)
    if "leaky-relu" not in (first.activation, second.activation):
        apart.pop("activation_slope", None)
    if "group" not in (first.norm, second.norm):
        apart.pop("norm_groups", None)
    return apart


def variant_of(spec: DenseNetSpec) -> str | None:
    """Name the variant that a spec is, whatever its classes and channels; None if it is none."""
    names = (name for name, v in catalogue().items() if _plain(v.spec) == _plain(spec))
    return next(names, None)


def nearest_variant(spec: DenseNetSpec) -> tuple[str | None, dict[str, tuple[Any, Any]]]:
    """Name the variant that differs least, classes and channels aside, and say in what it differs.

    Returns:
        Its name, and the fields that differ, each with the spec's and the variant's value. The name
        is None if no variant has these blocks and this growth rate.
    """
    alike = {
        name: spec_differences(_plain(spec), _plain(variant.spec))
        for name, variant in catalogue().items()
        if (variant.spec.blocks, variant.spec.growth_rate) == (spec.blocks, spec.growth_rate)
    }
    if not alike:
        return None, {}
    name = min(alike, key=lambda name: len(alike[name]))
    return name, alike[name]


def _plain(spec: DenseNetSpec) -> DenseNetSpec:
    """Set aside what a variant leaves open, and work out the 2k rule."""
    return spec.replace(stem_width=spec.stem_channels, classes=1, in_channels=1)
