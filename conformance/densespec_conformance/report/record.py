"""A run as plain data: what the JSON report holds, and what the other reports are made of."""

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
from typing import TYPE_CHECKING, Any

import densespec
from densespec_conformance.asking.requests import Description
from densespec_conformance.asking.subject import Subject
from densespec_conformance.judging.compare import Comparison, Stats
from densespec_conformance.running.runner import STATUSES, Result

if TYPE_CHECKING:
    from densespec_conformance.explaining.diagnosis import Suspect

FORMAT = 1
"""Version of the JSON report; it goes up when a reader of an older one would misread it."""

SHOWN = 60
"""Compared tensors that a report keeps of one result: those about the first difference."""

PACKAGES = (
    *("numpy", "keras", "tensorflow", "tensorflow-cpu", "torch", "jax", "flax"),
    *("torchvision", "timm", "monai", "keras-hub", "hypothesis"),
)

Record = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """Everything there is to know of a run.

    Attributes:
        command: that repeats it.
        options: what the command says of every target, such as ``--spec``.
        interrupted: it was ended early, and ``results`` are those that came before.
        descriptions: by target, what it ran on, as far as it could say.
    """

    subjects: tuple[Subject, ...]
    results: tuple[Result, ...]
    tier: str
    command: str = ""
    options: tuple[str, ...] = ()
    seconds: float = 0.0
    interrupted: bool = False
    warnings: tuple[str, ...] = ()
    descriptions: Mapping[str, Description] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """All that ran is as it should be, and something did pass."""
        held = any(result.status in ("passed", "xfailed") for result in self.results)
        return held and not self.interrupted and all(result.ok for result in self.results)


def environment() -> Record:
    """Versions and machine that the results belong to, without importing a framework."""
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


def as_record(run: Run) -> Record:
    """The run as JSON values; ``schema.json`` beside this file is its JSON Schema."""
    cases = {result.case.id: result.case for result in run.results}
    return {
        "format": FORMAT,
        "environment": environment(),
        "command": run.command,
        "tier": run.tier,
        "seconds": round(run.seconds, 3),
        "ok": run.ok,
        "interrupted": run.interrupted,
        "warnings": list(run.warnings),
        "counts": _counts(run.results),
        "targets": [_target(subject, run) for subject in run.subjects],
        "cases": [
            {
                "id": case.id,
                "group": case.id.partition("/")[0],
                "claim": case.claim,
                "tier": case.tier,
                "cost": case.cost,
            }
            for case in cases.values()
        ],
        "results": [_result(result, run) for result in run.results],
    }


def _counts(results: Sequence[Result]) -> dict[str, int]:
    found = Counter(result.status for result in results)
    return {status: found[status] for status in STATUSES}


def _target(subject: Subject, run: Run) -> Record:
    own = [result for result in run.results if result.target == subject.name]
    return {
        "name": subject.name,
        "kind": subject.kind,
        "spec": subject.spec.to_dict() if subject.spec else None,
        "weights": subject.weights,
        "runs_on": _runs_on(run.descriptions.get(subject.name)),
        "ok": bool(own) and all(result.ok for result in own),
        "counts": _counts(own),
        "seconds": round(sum(result.seconds for result in own), 3),
    }


def _runs_on(description: Description | None) -> Record | None:
    """What a target's own process says of itself; None where it said nothing."""
    if description is None:
        return None
    return {
        "versions": dict(description.versions),
        "device": description.device,
        "threads": description.threads,
        "tensor_float_32": description.tensor_float_32,
        "notes": list(description.notes),
    }


def _result(result: Result, run: Run) -> Record:
    outcome = result.outcome
    kept = around_first_difference(result.comparisons)
    return {
        "target": result.target,
        "case": result.case.id,
        "status": result.status,
        "ok": result.ok,
        "message": result.message,
        "first_difference": result.where,
        "expected_failure": result.expected,
        "closest": outcome
        and {
            "where": outcome.where,
            "error": number(outcome.error),
            "allowed": number(outcome.allowed),
            "reason": outcome.reason,
        },
        "diagnosis": [_suspect(suspect) for suspect in result.diagnosis],
        "comparisons": [_comparison(comparison) for comparison in kept],
        "comparisons_left_out": len(result.comparisons) - len(kept),
        "seconds": round(result.seconds, 3),
        "reproduce": reproduce(result, run),
    }


def around_first_difference(comparisons: Sequence[Comparison]) -> Sequence[Comparison]:
    """A few comparisons before the first that fails, and those that follow, up to ``SHOWN``."""
    first = next((index for index, one in enumerate(comparisons) if not one.ok), 0)
    start = max(0, min(first - SHOWN // 12, len(comparisons) - SHOWN))
    return comparisons[start : start + SHOWN]


def _suspect(suspect: Suspect) -> Record:
    return {
        "text": suspect.text,
        "deviations": list(suspect.deviations),
        "remaining": number(suspect.remaining),
        "complete": suspect.complete,
    }


def _comparison(comparison: Comparison) -> Record:
    return {
        "name": comparison.name,
        "ok": comparison.ok,
        "error": number(comparison.error),
        "allowed": number(comparison.allowed),
        "actual": _stats(comparison.actual),
        "expected": _stats(comparison.expected),
    }


def _stats(stats: Stats) -> Record:
    values = asdict(stats)
    return {
        name: number(value) if isinstance(value, float) else value for name, value in values.items()
    } | {"shape": list(stats.shape)}


def number(value: float) -> float | str:
    """For JSON, which has no infinities: six digits, or one of "inf", "-inf" and "nan"."""
    return float(f"{value:.6g}") if math.isfinite(value) else str(float(value))


def reproduce(result: Result, run: Run) -> str:
    """The command that repeats one result."""
    words = ["python", "-m", "densespec_conformance", result.target, *run.options]
    return shlex.join([*words, "--case", result.case.id])
