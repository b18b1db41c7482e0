"""What a case is: one claim about a backend, and how it is checked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from densespec.backends import LAYERS
from densespec_conformance.answering.target import Target
from densespec_conformance.judging.expected import Reference
from densespec_conformance.judging.outcome import Outcome

Tier = Literal["quick", "full"]


Check = Callable[[Target, Reference], Outcome]
"""Raises ``Mismatch`` where the claim does not hold, ``Unsupported`` where it can't be asked."""


@dataclass(frozen=True)
class Case:
    """One claim that a backend has to meet.

    Attributes:
        id: ``group/what-is-special``; reads as a phrase, unique.
        claim: the claim, as a sentence.
        check: how it is checked.
        tier: ``quick`` cases run always, ``full`` ones on request.
        tier_in_modes: the tier for backends in another mode than ``layers``, where it is another:
            what a mode leaves as it is need not be asked again each time.
        cost: roughly, seconds on the slowest backend; cheap cases run first.
    """

    id: str
    claim: str
    check: Check
    tier: Tier = "quick"
    tier_in_modes: Tier | None = None
    cost: float = 1.0

    def in_mode(self, mode: str) -> Case:
        """The case as it is asked of a backend in a mode."""
        tier = self.tier if mode == LAYERS else self.tier_in_modes
        return replace(self, tier=tier or self.tier)
