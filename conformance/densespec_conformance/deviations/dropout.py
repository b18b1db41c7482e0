"""Lists deviations of dropout in inference."""

from __future__ import annotations

from dataclasses import replace

from densespec.network import ops
from densespec_conformance.deviations.deviation import Deviation, NotApplicable
from densespec_conformance.deviations.kernels import Dropout
from densespec_conformance.deviations.variant import Variant


def _scaling(variant: Variant) -> Variant:
    kernel = variant.kernels[ops.Dropout]
    assert isinstance(kernel, Dropout)
    if not variant.graph.nodes_of(ops.Dropout):
        raise NotApplicable
    return variant.compute_by(ops.Dropout, replace(kernel, in_inference="kept"))


DEVIATIONS = (
    Deviation(
        "dropout-scales-inference",
        "dropout scales in inference",
        "dropout as first published, Caffe",
        _scaling,
    ),
)
