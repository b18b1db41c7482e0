"""Lists deviations in how training on several devices is put together."""

from __future__ import annotations

from densespec_conformance.deviations.deviation import Deviation

DEVIATIONS = (
    Deviation(
        "first-replica-only",
        "gradients and loss are those of the first device",
        "an all-reduce that is left out",
        lambda variant: variant.train_by(across="first"),
    ),
)
