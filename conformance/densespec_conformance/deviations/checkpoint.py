"""A training run that goes on without some of what it was stopped with."""

from __future__ import annotations

from densespec_conformance.deviations.deviation import Deviation

DEVIATIONS = (
    Deviation(
        "moments-not-restored",
        "a resumed run starts without the optimizer's moments",
        "a checkpoint of the model without its optimizer",
        lambda variant: variant.train_by(resumes=False),
    ),
    Deviation(
        "steps-counted-anew",
        "a resumed run corrects the bias of its moments as if it had just begun",
        "optimizer.iterations, or the state's step, that is not restored",
        lambda variant: variant.train_by(recounts=True),
    ),
)
