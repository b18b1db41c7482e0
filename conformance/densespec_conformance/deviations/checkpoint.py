"""A training run that goes on without some of what it was stopped with."""

from __future__ import annotations

from densespec_conformance.deviations.deviation import Deviation

DEVIATIONS = (
    Deviation(
        "velocity-not-restored",
        "a resumed run starts without its momentum",
        "a checkpoint of the model without its optimizer",
        lambda variant: variant.train_by(resumes=False),
    ),
)
