"""Lists deviations of norms."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from densespec.network import ops
from densespec_conformance.deviations.deviation import Change
from densespec_conformance.deviations.kernels import Norm
from densespec_conformance.deviations.variant import Variant


def norm(**choices: Any) -> Change:
    """Make norms choose otherwise."""

    def change(variant: Variant) -> Variant:
        kernel = variant.kernels[ops.BatchNorm]
        assert isinstance(kernel, Norm)
        return variant.compute_by(ops.BatchNorm, replace(kernel, **choices))

    return change
