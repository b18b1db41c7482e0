"""Lists what each kind of op may do instead: a file for each kind, and one for any op."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np

from densespec.network import ops
from densespec_conformance.explaining.local.alternatives import (
    activations,
    any_op,
    convolutions,
    ends,
    joins,
    norms,
    pools,
)
from densespec_conformance.explaining.local.alternatives.alternative import (
    Alternative,
    Find,
    Observation,
)

OF_KIND: Mapping[type, tuple[Find, ...]] = {
    ops.BatchNorm: (*norms.FIND, *any_op.FIND, *norms.LAST, *any_op.LAST),
    ops.GroupNorm: (*norms.FIND_OF_SAMPLE, *any_op.FIND, *any_op.LAST),
    ops.Conv: (*convolutions.FIND, *any_op.FIND, *any_op.LAST),
    ops.Dense: (*convolutions.FIND, *any_op.FIND, *any_op.LAST),
    ops.Relu: (*activations.FIND, *any_op.FIND, *activations.LAST, *any_op.LAST),
    ops.Activation: (*activations.FIND, *any_op.FIND, *activations.LAST, *any_op.LAST),
    ops.PRelu: (*activations.FIND, *any_op.FIND, *activations.LAST, *any_op.LAST),
    ops.MaxPool: (*pools.FIND, *any_op.FIND, *any_op.LAST),
    ops.AvgPool: (*pools.FIND, *any_op.FIND, *any_op.LAST),
    ops.BlurPool: (*pools.FIND_BLUR, *any_op.FIND, *any_op.LAST),
    ops.GlobalPool: (*pools.FIND_GLOBAL, *any_op.FIND, *any_op.LAST),
    ops.Concat: (*joins.FIND, *any_op.FIND, *any_op.LAST),
    ops.Softmax: (*ends.FIND, *any_op.FIND, *any_op.LAST),
    ops.Sigmoid: (*ends.FIND, *any_op.FIND, *any_op.LAST),
    ops.Dropout: (*any_op.FIND, *any_op.LAST),
}
"""Lists where to look for what an op does instead, the simplest first."""


def alternatives(seen: Observation) -> Iterator[Alternative]:
    """Yield everything that an op may do instead, what is simplest first."""
    if isinstance(seen.op, ops.BatchNorm) and not seen.op.affine:
        one = np.ones(seen.op.channels)
        weights = {"gamma": one, "beta": 0 * one, **seen.context.weights}
        seen = replace(seen, context=replace(seen.context, weights=weights))
    for find in OF_KIND.get(type(seen.op), ()):
        yield from find(seen)
