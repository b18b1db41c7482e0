"""Reads from a result's record what several reports need."""

from __future__ import annotations

from collections.abc import Sequence

from densespec_conformance.report.record import Json


def first_line(result: Json) -> str:
    """Return the first line of why it did not pass."""
    return str(result["message"].partition("\n")[0])


def failures_by_cause(results: Sequence[Json]) -> dict[tuple[str, str], list[Json]]:
    """Group what is not as it should be by target and likely cause, in the order of results."""
    groups: dict[tuple[str, str], list[Json]] = {}
    for result in results:
        if not result["ok"]:
            groups.setdefault((result["target"], _cause(result)), []).append(result)
    return groups


def _cause(result: Json) -> str:
    if result["status"] != "failed":
        return f"{result['status']}: {first_line(result)}"
    if result["diagnosis"]:
        return str(result["diagnosis"][0]["text"])
    return f"differs first at {result['first_difference']}"


def closest_call(result: Json) -> float | None:
    """Return the largest error as a part of the bound; None if nothing was left to rounding."""
    closest = result["closest"]
    if not closest or not float(closest["allowed"]):
        return None
    return float(closest["error"]) / float(closest["allowed"])


def percent(part: float) -> str:
    return f"{part:.0%}" if part >= 0.01 else "<1%"
