"""A deviation is one way in which an implementation may differ."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from densespec.network.arrays import Arrays
from densespec.network.graph import Graph
from densespec_conformance.deviations.variant import Variant

Change = Callable[[Variant], Variant]


class NotApplicable(ValueError):
    """A deviation has no meaning for a network, such as one of transitions if there are none."""


@dataclass(frozen=True)
class Deviation:
    """Describes one way in which an implementation may differ from the spec.

    Attributes:
        id: The unique name.
        phrase: The words that complete "matches the reference if ...".
        source: The implementations that do it.
        change: The function that makes the reference do it.
        dtype: The dtype of the arithmetic, if it is the difference. The values are then the
            reference's within the rounding of this dtype.
        recognises: The function that tells whether initial weights are of its kind, if they are the
            difference.
    """

    id: str
    phrase: str
    source: str
    change: Change = lambda variant: variant
    dtype: str | None = None
    recognises: Callable[[Arrays, Graph], bool] | None = None


def both(*changes: Change) -> Change:
    """Make one change after the other."""

    def change(variant: Variant) -> Variant:
        for each in changes:
            variant = each(variant)
        return variant

    return change
