"""Other averages of the arrays than the recipe's."""

from __future__ import annotations

from dataclasses import replace

from densespec_conformance.deviations.deviation import Change, Deviation
from densespec_conformance.deviations.variant import Average, Averaged, Variant


def _average(average: Average) -> Change:
    """Change how much averages take up, whatever that was before."""

    def change(variant: Variant) -> Variant:
        before = variant.rules.average
        return variant.train_by(average=lambda now: average(replace(now, share=before(now))))

    return change


def _without_warmup(now: Averaged) -> float:
    return 1 - (now.recipe.average or 0.0)


def _copied_at_first(now: Averaged) -> float:
    return 1.0 if now.number == 1 else now.share


def _of_weights_alone(now: Averaged) -> float:
    return 1.0 if ".running_" in now.name else now.share


def _corrected(now: Averaged) -> float:
    """Take the average of zeros, over what of the arrays it has by then."""
    kept = now.recipe.average or 0.0
    return (1 - kept) / (1 - kept**now.number)


def _from_zero(now: Averaged) -> float:
    kept, before = now.recipe.average or 0.0, now.number - 1
    return 1 - min(kept, before / max(before + now.recipe.average_warmup, 1))


DEVIATIONS = (
    Deviation(
        "average-of-weights-alone",
        "running statistics are not averaged",
        "use_ema of Keras's optimizers, torch.optim.swa_utils.AveragedModel without use_buffers",
        _average(_of_weights_alone),
    ),
    Deviation(
        "average-copied-at-first",
        "the average begins with what the first step came to",
        "use_ema of Keras's optimizers, the first update of AveragedModel and ModelEmaV3",
        _average(_copied_at_first),
    ),
    Deviation(
        "average-of-zeros-corrected",
        "the average begins with zeros, whose share is divided out",
        "optax.ema with debias=True",
        _average(_corrected),
    ),
    Deviation(
        "average-without-warm-up",
        "the average keeps as much from the first step on",
        "an ignored option",
        _average(_without_warmup),
    ),
    Deviation(
        "average-counts-from-zero",
        "the warm-up of the average counts steps from 0",
        "timm's ModelEmaV3, where a step's number is that of those before it",
        _average(_from_zero),
    ),
)
