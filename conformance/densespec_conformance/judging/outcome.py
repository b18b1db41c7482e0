"""Describes what a check that passed came to."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Outcome:
    """Describes the closest call of a check that passed: the error that came nearest to its bound.

    Attributes:
        error: The error, relative to the largest magnitude of what it was compared with.
        allowed: The largest error that was allowed.
        where: The op, weight or figure that it belongs to.
        reason: Why that much is allowed.
    """

    error: float
    allowed: float
    where: str
    reason: str

    @property
    def strain(self) -> float:
        """Return the error as a share of what is allowed."""
        return self.error / self.allowed if self.allowed else 0.0


EXACT = Outcome(0.0, 0.0, "", "exact")
"""Checks that leave nothing to rounding have this outcome."""
