"""What a check that passed came to."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Outcome:
    """The closest call of a check that passed: the error that came nearest to its bound.

    Attributes:
        error: relative to the largest magnitude of what it was compared with.
        allowed: how large it might have been.
        where: the op, weight or figure it belongs to.
        reason: why that much is allowed.
    """

    error: float
    allowed: float
    where: str
    reason: str

    @property
    def strain(self) -> float:
        """The error as a share of what is allowed."""
        return self.error / self.allowed if self.allowed else 0.0


EXACT = Outcome(0.0, 0.0, "", "exact")
"""Of checks that leave nothing to rounding."""
