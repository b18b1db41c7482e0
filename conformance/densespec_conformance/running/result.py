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
"""Only a target whose process works can have these statuses."""


@dataclass(frozen=True)
class Result:
    """Holds what came of one case on one target.

    Attributes:
        target: The target's name, as typed.
        message: The reason why it did not pass; empty if it passed.
        where: The first op, weight or figure that differs, if one does.
        outcome: The closest call of a case that passed.
        comparisons: Every tensor that was compared, in order, if one differs.
        diagnosis: The possible explanations of a difference, the best one first.
        expected: The reason why it is expected to fail; empty if it is not.
        seconds: The number of seconds that it took.
        runs_on: The description that the target's process gives of itself; only the first case that
            it answers has it.
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
        """Say whether it is as it should be, which does not mean that it passed."""
        return self.status in GOOD

    @property
    def first_line(self) -> str:
        return self.message.partition("\n")[0]
