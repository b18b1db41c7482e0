"""What tests share: small specs, random specs that cover every field, and names of cases."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st

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

unhurried = settings(deadline=None)
"""No time limit on one example: a busy machine misses any."""


def named(sentence: str, *rows: tuple[Any, ...]) -> list[Any]:
    """Rows for ``pytest.mark.parametrize``, each named by a sentence that takes its values."""
    return [pytest.param(*row, id=sentence.format(*row)) for row in rows]


def tiny(**changes: Any) -> DenseNetSpec:
    """A spec with two blocks and a transition, small enough for loops in Python."""
    fields: dict[str, Any] = {"blocks": (2, 1), "growth_rate": 2, "stem_width": 3, "classes": 3}
    return DenseNetSpec(**(fields | changes))


@st.composite
def specs(draw: st.DrawFn) -> DenseNetSpec:
    """Valid specs: every field takes every kind of value that it may."""
    blocks = draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    growth_rate = draw(st.integers(1, 16))
    stem_width: Any = draw(st.just("2k") | st.integers(2, 32))
    padding: Any = draw(st.sampled_from(["symmetric", "same"]))
    kernels = st.integers(1, 9)
    if padding == "symmetric":
        kernels = kernels.filter(lambda size: size % 2 == 1)
    narrowest = min(blocks) * growth_rate + 1
    least = math.nextafter(1 / narrowest, 1)  # every transition keeps a feature map
    fields: dict[str, Any] = {
        "blocks": tuple(blocks),
        "growth_rate": growth_rate,
        "bottleneck_width": draw(st.none() | st.integers(1, 5)),
        "compression": draw(st.floats(least, 1)),
        "in_channels": draw(st.integers(1, 4)),
        "classes": draw(st.integers(1, 20)),
        "spatial_dims": draw(st.integers(1, 3)),
        "stem_kind": draw(st.sampled_from(STEM_KINDS)),
        "stem_width": stem_width,
        "stem_kernel": draw(kernels),
        "stem_stride": draw(st.integers(1, 3)),
        "stem_pool": draw(st.none() | st.integers(2, 5)),
        "padding": padding,
        "conv_bias": draw(st.booleans()),
        "batch_norm_epsilon": draw(st.floats(0, 1, exclude_min=True)),
        "batch_norm_momentum": draw(st.floats(0, 1, exclude_min=True)),
        "running_variance": draw(st.sampled_from(["unbiased", "biased"])),
        "transition_relu": draw(st.booleans()),
        "final_norm": draw(st.booleans()),
        "dropout_rate": draw(st.floats(0, 1, exclude_max=True)),
        "dropout_place": draw(st.sampled_from(DROPOUT_PLACES)),
        "head_units": tuple(draw(st.lists(st.integers(1, 9), max_size=2))),
        "head_dropout_rate": draw(st.just(0.0) | st.floats(0, 1, exclude_max=True)),
        "classifier_bias": draw(st.booleans()),
        "global_pool": draw(st.sampled_from(GLOBAL_POOLS)),
        "stem_pool_kind": draw(st.sampled_from(STEM_POOL_KINDS)),
        "transition_pool_kind": draw(st.sampled_from(TRANSITION_POOL_KINDS)),
        "activation": draw(st.sampled_from(ACTIVATION_KINDS)),
        "activation_slope": draw(st.floats(0, 1, exclude_min=True)),
        "norm": draw(st.sampled_from(NORMS)),
        "norm_groups": 1,  # divides any number of channels
        "norm_affine": draw(st.booleans()),
    }
    assert fields.keys() == {field.name for field in dataclasses.fields(DenseNetSpec)}
    return DenseNetSpec(**fields)
