"""A case is one claim about a backend, and how it is checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from densespec.backends import LAYERS
from densespec_conformance.answering.target import Target
from densespec_conformance.judging.expected import Reference
from densespec_conformance.judging.outcome import Outcome

Tier = Literal["quick", "full"]

TierByMode = Mapping[str, Tier]
"""Gives the tier in some modes; in the other modes the tier is the case's own."""

AS_IN_FAST: TierByMode = {"efficient": "full"}
"""The mode ``efficient`` is ``fast``, but that its backward pass computes blocks anew."""

Check = Callable[[Target, Reference], Outcome]
"""A check raises ``Mismatch`` where the claim does not hold, and ``Unsupported`` where it can't be
asked."""


@dataclass(frozen=True)
class Case:
    """Describes one claim that a backend has to meet.

    Attributes:
        id: The unique name ``group/what-is-special``, which reads as a phrase.
        claim: The claim as a sentence.
        check: The function that checks it.
        tier: The tier: ``quick`` cases run always, ``full`` ones on request.
        tier_in_modes: The tier for backends in other modes than ``layers``, if it differs, by mode
            or for all. What a mode does not change need not be asked again each time.
        cost: The rough number of seconds that the slowest backend takes; cheap cases run first.
    """

    id: str
    claim: str
    check: Check
    tier: Tier = "quick"
    tier_in_modes: Tier | TierByMode | None = field(default=None, hash=False)
    cost: float = 1.0

    def in_mode(self, mode: str) -> Case:
        """Return the case as a backend in a mode is asked it."""
        told = self.tier_in_modes
        if mode == LAYERS or told is None:
            return self
        return replace(self, tier=told if isinstance(told, str) else told.get(mode, self.tier))
