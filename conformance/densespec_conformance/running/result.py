"""What can come of a case on a target is said by a ``Result``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from densespec_conformance.asking.requests import Description
from densespec_conformance.case import Case
from densespec_conformance.explaining.diagnosis import Suspect
from densespec_conformance.judging.compare import Comparison
from densespec_conformance.judging.outcome import Outcome

Status = Literal[
    "passed",
    "failed",
    "error",
    "crashed",
    "timeout",
    "out of memory",
    "unsupported",
    "xfailed",
    "xpassed",
]
STATUSES: tuple[Status, ...] = get_args(Status)
GOOD = ("passed", "unsupported", "xfailed")
ANSWERED = ("passed", "failed", "unsupported", "xpassed")
"""Statuses that only a target whose process works can have."""


@dataclass(frozen=True)
class Result:
    """What came of one case on one target.

    Attributes:
        target: The target's name, as typed.
        message: Why it did not pass; empty if it did.
        where: The first op, weight or figure that differs, where one does.
        outcome: The closest call of a case that passed.
        comparisons: Every tensor that was compared, in order, where one differs.
        diagnosis: What would explain a difference, the best explanation first.
        expected: Why it is expected to fail; empty if it is not.
        seconds: How long it took.
        runs_on: What the target's process says of itself; of the first case that it answers alone.
    """

    target: str
    case: Case
    status: Status
    message: str = ""
    where: str = ""
    outcome: Outcome | None = None
    comparisons: tuple[Comparison, ...] = ()
    diagnosis: tuple[Suspect, ...] = ()
    expected: str = ""
    seconds: float = 0.0
    runs_on: Description | None = None

    @property
    def ok(self) -> bool:
        """Whether it is as it should be, which is not to say that it passed."""
        return self.status in GOOD

    @property
    def first_line(self) -> str:
        return self.message.partition("\n")[0]
