"""What a case is: one claim about a backend, how it is checked, how exactly, and why so exactly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from densespec_conformance.compare import Tolerance
from densespec_conformance.target import Reference, Target

Tier = Literal["quick", "full"]
Check = Callable[[Target, Reference], float]
"""Gives the largest relative error; raises ``Mismatch`` where the claim does not hold."""

EXACT = Tolerance(0.0, "exact")


@dataclass(frozen=True)
class Case:
    """One claim that a backend has to meet.

    Attributes:
        id: ``group/what-is-special``; reads as a phrase, unique.
        claim: the claim, as a sentence.
        check: how it is checked.
        tolerance: how exactly, and why so.
        tier: ``quick`` cases run always, ``full`` ones on request.
        cost: roughly, seconds on the slowest backend; cheap cases run first.
    """

    id: str
    claim: str
    check: Check
    tolerance: Tolerance = EXACT
    tier: Tier = "quick"
    cost: float = 1.0
