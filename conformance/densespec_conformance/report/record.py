"""A run becomes plain data, which the JSON report holds and the other reports are made of."""

from __future__ import annotations

import datetime
import math
import os
import platform
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from typing import Any

import densespec
from densespec_conformance.asking.requests import Description
from densespec_conformance.asking.subject import Subject
from densespec_conformance.case import Case
from densespec_conformance.explaining.diagnosis import Suspect
from densespec_conformance.explaining.local.findings import WrongOp
from densespec_conformance.judging.compare import Comparison, Stats
from densespec_conformance.judging.loss import LayerLoss
from densespec_conformance.judging.outcome import Outcome
from densespec_conformance.running.choosing import Assignment
from densespec_conformance.running.result import STATUSES, Result

FORMAT = 1
"""The version of the JSON report; it goes up when a reader of an older one would misread it."""

SHOWN = 60
"""A report keeps at most this many tensors of one result: those near the first difference."""

PACKAGES = (
    *("numpy", "keras", "tensorflow", "tensorflow-cpu", "torch", "jax", "flax"),
    *("torchvision", "timm", "monai", "keras-hub", "hypothesis"),
)

COMMAND = ("python", "-m", "densespec_conformance")

Json = dict[str, Any]
"""Holds an object of JSON."""


@dataclass
class Findings:
    """Holds what has come of a run so far.

    Attributes:
        command: The command that repeats it.
        results: The records that ``result_record`` makes, by target and case.
        runs_on: The description that a target's process gives of itself, by target, if it gave one.
        interrupted: Whether the run was ended early.
    """

    assignments: tuple[Assignment, ...]
    tier: str
    command: str = ""
    results: dict[tuple[str, str], Json] = field(default_factory=dict)
    runs_on: dict[str, Json] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    seconds: float = 0.0
    interrupted: bool = False


def environment() -> Json:
    """Say which versions and machine the results belong to, without importing a framework."""
    versions = {"densespec": densespec.__version__}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "versions": versions,
    }


def as_record(found: Findings) -> Json:
    """Make JSON values of a run; ``schema.json`` beside this file is their JSON Schema."""
    results = [
        found.results[assignment.subject.name, case.id]
        for assignment in found.assignments
        for case in assignment.wanted
        if (assignment.subject.name, case.id) in found.results
    ]
    return {
        "format": FORMAT,
        "environment": environment(),
        "command": found.command,
        "tier": found.tier,
        "seconds": round(found.seconds, 3),
        "ok": not found.interrupted and _holds(results),
        "interrupted": found.interrupted,
        "warnings": list(dict.fromkeys(found.warnings)),
        "counts": _counts(results),
        "targets": [
            _target(one.subject, results, found.runs_on) for one in found.assignments if one.wanted
        ],
        "cases": _cases(found.assignments, results),
        "results": results,
    }


def _holds(results: Sequence[Json]) -> bool:
    """Say whether all that ran is as it should be, and something did pass."""
    held = any(result["status"] in ("passed", "xfailed") for result in results)
    return held and all(result["ok"] for result in results)


def _counts(results: Sequence[Json]) -> dict[str, int]:
    found = Counter(result["status"] for result in results)
    return {status: found[status] for status in STATUSES}


def _target(subject: Subject, results: Sequence[Json], runs_on: Mapping[str, Json]) -> Json:
    own = [result for result in results if result["target"] == subject.name]
    return {
        "name": subject.name,
        "kind": subject.kind,
        "spec": subject.spec.to_dict() if subject.spec else None,
        "weights": subject.weights,
        "runs_on": runs_on.get(subject.name),
        "ok": bool(own) and all(result["ok"] for result in own),
        "counts": _counts(own),
        "seconds": round(sum(result["seconds"] for result in own), 3),
    }


def _cases(assignments: Sequence[Assignment], results: Sequence[Json]) -> list[Json]:
    """List the cases that ran, whichever target met them."""
    known = {case.id: case for one in assignments for case in one.wanted}
    return [_case(known[id_]) for id_ in dict.fromkeys(result["case"] for result in results)]


def _case(case: Case) -> Json:
    return {
        "id": case.id,
        "group": case.id.partition("/")[0],
        "claim": case.claim,
        "tier": case.tier,
        "cost": case.cost,
    }


def runs_on_record(found: Description) -> Json:
    """Make JSON values of what a target's own process says of itself."""
    return {
        "versions": dict(found.versions),
        "device": found.device,
        "threads": found.threads,
        "tensor_float_32": found.tensor_float_32,
        "notes": list(found.notes),
    }


def result_record(result: Result, options: Sequence[str] = ()) -> Json:
    """Make JSON values of one result.

    Args:
        options: What the command line says of every target, such as ``--spec densenet121``.
    """
    kept = around_first_difference(result.comparisons)
    return {
        "target": result.target,
        "case": result.case.id,
        "status": result.status,
        "ok": result.ok,
        "message": result.message,
        "first_difference": result.where,
        "expected_failure": result.expected,
        **_outcome(result.outcome),
        "diagnosis": [_suspect(suspect) for suspect in result.diagnosis],
        "comparisons": [_comparison(comparison) for comparison in kept],
        "comparisons_left_out": len(result.comparisons) - len(kept),
        "seconds": round(result.seconds, 3),
        "reproduce": shlex.join([*COMMAND, result.target, *options, "--case", result.case.id]),
    }


def _outcome(outcome: Outcome | None) -> Json:
    """Make JSON values of what a check came to: its closest call, or what was told only."""
    if outcome is None:
        return {"closest": None, "said": "", "layers": []}
    closest = {
        "where": outcome.where,
        "error": number(outcome.error),
        "allowed": number(outcome.allowed),
        "reason": outcome.reason,
    }
    return {
        "closest": None if outcome.layers else closest,
        "said": outcome.said,
        "layers": [_layer(layer) for layer in outcome.layers],
    }


def _layer(layer: LayerLoss) -> Json:
    values = asdict(layer)
    return {key: number(each) if key != "name" else each for key, each in values.items()}


def around_first_difference(comparisons: Sequence[Comparison]) -> Sequence[Comparison]:
    """Keep a few comparisons before the first that fails and those that follow, up to ``SHOWN``."""
    first = next((index for index, one in enumerate(comparisons) if not one.ok), 0)
    start = max(0, min(first - SHOWN // 12, len(comparisons) - SHOWN))
    return comparisons[start : start + SHOWN]


def _suspect(suspect: Suspect) -> Json:
    return {
        "text": suspect.text,
        "deviations": list(suspect.deviations),
        "remaining": number(suspect.remaining),
        "complete": suspect.complete,
        "ops": [_wrong_op(one) for one in suspect.ops],
        "nodes": list(suspect.nodes),
    }


def _wrong_op(one: WrongOp) -> Json:
    return {
        "where": one.where,
        "among": list(one.among),
        "does": one.does,
        "remarks": list(one.remarks),
        "error": number(one.error),
        "allowed": number(one.allowed),
        "actual": _stats(one.actual),
        "expected": _stats(one.expected),
    }


def _comparison(comparison: Comparison) -> Json:
    return {
        "name": comparison.name,
        "ok": comparison.ok,
        "error": number(comparison.error),
        "allowed": number(comparison.allowed),
        "actual": _stats(comparison.actual),
        "expected": _stats(comparison.expected),
    }


def _stats(stats: Stats) -> Json:
    values = asdict(stats)
    return {
        name: number(value) if isinstance(value, float) else value for name, value in values.items()
    } | {"shape": list(stats.shape)}


def number(value: float) -> float | str:
    """Return six digits, or one of the texts "inf", "-inf" and "nan": JSON has no such numbers."""
    return float(f"{value:.6g}") if math.isfinite(value) else str(float(value))
