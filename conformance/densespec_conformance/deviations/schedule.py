"""The learning rate is another than the step's."""

from __future__ import annotations

from dataclasses import replace

from densespec_conformance.deviations.deviation import Deviation

DEVIATIONS = (
    Deviation(
        "rate-constant",
        "the learning rate does not drop",
        "a schedule that nothing steps",
        lambda variant: variant.train_by(rate=lambda rates, index: rates[0]),
    ),
    Deviation(
        "rate-late",
        "the learning rate drops one step late",
        "a scheduler stepped after the epoch it is meant for",
        lambda variant: variant.train_by(rate=lambda rates, index: rates[max(index - 1, 0)]),
    ),
    Deviation(
        "rate-early",
        "the learning rate drops one step early",
        "a scheduler stepped before the first epoch, epochs counted from 1",
        lambda variant: variant.train_by(
            rate=lambda rates, index: rates[min(index + 1, len(rates) - 1)]
        ),
    ),
    Deviation(
        "drop-applied-twice",
        "the learning rate drops twice at each milestone",
        "two schedulers, or a factor that is squared",
        lambda variant: variant.train_by(rate=lambda rates, index: rates[index] ** 2 / rates[0]),
    ),
    Deviation(
        "layer-rates-ignored",
        "every part of the network has the same learning rate",
        "an optimizer with one parameter group",
        lambda variant: variant.train_by(recipe=lambda recipe: replace(recipe, layer_rates=())),
    ),
)
