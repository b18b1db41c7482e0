"""Several reports read this from a result's record."""

from __future__ import annotations

from densespec_conformance.report.record import Json


def first_line(result: Json) -> str:
    """Give the first line of why it did not pass."""
    return str(result["message"].partition("\n")[0])


def closest_call(result: Json) -> float | None:
    """Give the largest error as a part of what is allowed; None if nothing was left to rounding."""
    closest = result["closest"]
    if not closest or not float(closest["allowed"]):
        return None
    return float(closest["error"]) / float(closest["allowed"])


def percent(part: float) -> str:
    return f"{part:.0%}" if part >= 0.01 else "<1%"
