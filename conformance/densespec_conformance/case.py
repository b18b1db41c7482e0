"""What a case is: one claim about a backend, and how it is checked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from densespec_conformance.expected import Reference
    from densespec_conformance.target import Target

Tier = Literal["quick", "full"]


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

Check = Callable[["Target", "Reference"], Outcome]
"""Raises ``Mismatch`` where the claim does not hold, ``Unsupported`` where it can't be asked."""


@dataclass(frozen=True)
class Case:
    """One claim that a backend has to meet.

    Attributes:
        id: ``group/what-is-special``; reads as a phrase, unique.
        claim: the claim, as a sentence.
        check: how it is checked.
        tier: ``quick`` cases run always, ``full`` ones on request.
        cost: roughly, seconds on the slowest backend; cheap cases run first.
    """

    id: str
    claim: str
    check: Check
    tier: Tier = "quick"
    cost: float = 1.0
