"""Describes what a check that passed came to."""

from __future__ import annotations

from dataclasses import dataclass

from densespec_conformance.judging.loss import LayerLoss


@dataclass(frozen=True)
class Outcome:
    """Describes the closest call of a check that passed: the error that came nearest to its bound.

    Attributes:
        error: The error, relative to the largest magnitude of what it was compared with.
        allowed: The largest error that was allowed.
        where: The op, weight or figure that it belongs to.
        reason: Why that much is allowed.
        layers: What each layer loses, if that is all that was asked; no error was judged then.
        said: What else there is to say of it.
    """

    error: float
    allowed: float
    where: str
    reason: str
    layers: tuple[LayerLoss, ...] = ()
    said: str = ""

    @property
    def strain(self) -> float:
        """Return the error as a share of what is allowed."""
        return self.error / self.allowed if self.allowed else 0.0


EXACT = Outcome(0.0, 0.0, "", "exact")
"""Checks that leave nothing to rounding have this outcome."""
