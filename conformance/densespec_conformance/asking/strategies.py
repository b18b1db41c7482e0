"""Random specs for hypothesis, which are small enough to build and run in a moment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hypothesis import assume
from hypothesis import strategies as st

from densespec.errors import SpecError
from densespec.network.graph import lower
from densespec.network.spec import DROPOUT_PLACES, STEM_KINDS, DenseNetSpec


@st.composite
def specs(draw: st.DrawFn, spatial_dims: st.SearchStrategy[int] | None = None) -> DenseNetSpec:
    """Draw valid specs over every field; they shrink to the plain DenseNet."""
    fields: dict[str, Any] = {
        "blocks": draw(st.lists(st.integers(1, 3), min_size=1, max_size=3)),
        "growth_rate": draw(st.integers(1, 6)),
        "bottleneck_width": draw(st.none() | st.integers(1, 4)),
        "compression": draw(st.sampled_from((1.0, 0.5, 0.3, 0.77))),
        "in_channels": draw(st.integers(1, 4)),
        "classes": draw(st.integers(1, 6)),
        "spatial_dims": draw(spatial_dims or st.just(2)),
        "stem_kind": draw(st.sampled_from(STEM_KINDS)),
        "stem_width": draw(st.integers(1, 9) | st.just("2k")),
        "stem_kernel": draw(st.integers(1, 7)),
        "stem_stride": draw(st.integers(1, 3)),
        "stem_pool": draw(st.none() | st.integers(2, 4)),
        "padding": draw(st.sampled_from(("symmetric", "same"))),
        "conv_bias": draw(st.booleans()),
        "batch_norm_epsilon": draw(st.sampled_from((1e-5, 1.001e-5, 1e-3))),
        "batch_norm_momentum": draw(st.sampled_from((0.1, 0.01, 1.0))),
        "running_variance": draw(st.sampled_from(("unbiased", "biased"))),
        "transition_relu": draw(st.booleans()),
        "final_norm": draw(st.booleans()),
        "dropout_rate": draw(st.sampled_from((0.0, 0.2))),
        "dropout_place": draw(st.sampled_from(DROPOUT_PLACES)),
    }
    try:
        return DenseNetSpec(**fields)
    except SpecError:
        assume(False)
        raise


@dataclass(frozen=True)
class Sample:
    """A network, and an input size that it accepts."""

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
