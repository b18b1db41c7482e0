"""Draws random specs for hypothesis, which are small enough to build and run in a moment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hypothesis import assume
from hypothesis import strategies as st

from densespec.errors import SpecError
from densespec.network.graph import lower
from densespec.network.spec import (
    ACTIVATION_KINDS,
    DROPOUT_PLACES,
    GLOBAL_POOLS,
    NORMS,
    STEM_KINDS,
    STEM_POOL_KINDS,
    TRANSITION_POOL_KINDS,
    DenseNetSpec,
)

FIELDS: Mapping[str, st.SearchStrategy[Any]] = {
    "blocks": st.lists(st.integers(1, 3), min_size=1, max_size=3),
    "growth_rate": st.integers(1, 6),
    "bottleneck_width": st.none() | st.integers(1, 4),
    "compression": st.sampled_from((1.0, 0.5, 0.3, 0.77)),
    "in_channels": st.integers(1, 4),
    "classes": st.integers(1, 6),
    "spatial_dims": st.just(2),
    "stem_kind": st.sampled_from(STEM_KINDS),
    "stem_width": st.integers(1, 9) | st.just("2k"),
    "stem_kernel": st.integers(1, 7),
    "stem_stride": st.integers(1, 3),
    "stem_pool": st.none() | st.integers(2, 4),
    "padding": st.sampled_from(("symmetric", "same")),
    "conv_bias": st.booleans(),
    "batch_norm_epsilon": st.sampled_from((1e-5, 1.001e-5, 1e-3)),
    "batch_norm_momentum": st.sampled_from((0.1, 0.01, 1.0)),
    "running_variance": st.sampled_from(("unbiased", "biased")),
    "transition_relu": st.booleans(),
    "final_norm": st.booleans(),
    "dropout_rate": st.sampled_from((0.0, 0.2)),
    "dropout_place": st.sampled_from(DROPOUT_PLACES),
    "head_units": st.lists(st.integers(1, 5), max_size=2),
    "head_dropout_rate": st.sampled_from((0.0, 0.2)),
    "classifier_bias": st.sampled_from((True, False)),
    "global_pool": st.sampled_from(GLOBAL_POOLS),
    "stem_pool_kind": st.sampled_from(STEM_POOL_KINDS),
    "transition_pool_kind": st.sampled_from(TRANSITION_POOL_KINDS),
    "activation": st.just("relu") | st.sampled_from(ACTIVATION_KINDS),
    "activation_slope": st.sampled_from((0.01, 0.3)),
    "norm": st.just("batch") | st.sampled_from(NORMS),
    "norm_groups": st.sampled_from((1, 2)),
    "norm_affine": st.just(True) | st.booleans(),
}
"""Gives the strategy that draws each field of a spec."""


@st.composite
def specs(draw: st.DrawFn) -> DenseNetSpec:
    """Draw valid specs over every field; they shrink to the plain DenseNet."""
    fields = draw(st.fixed_dictionaries(dict(FIELDS)))
    try:
        return DenseNetSpec(**fields)
    except SpecError:
        assume(False)
        raise


@dataclass(frozen=True)
class Sample:
    """Holds a network, and an input size that it accepts."""

    spec: DenseNetSpec
    size: tuple[int, ...]


@st.composite
def samples(draw: st.DrawFn, largest: int = 40) -> Sample:
    """Draw specs with input sizes that they accept."""
    spec = draw(specs())
    sizes = st.integers(1, largest)
    size = draw(st.tuples(*[sizes] * spec.spatial_dims))
    try:
        lower(spec, size)
    except SpecError:
        assume(False)
    return Sample(spec, size)
