"""Results for a reader: a table on the terminal, and the same as JSON."""

from __future__ import annotations

import datetime
import json
import os
import platform
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

import densespec
from densespec.files import atomic_path
from densespec_conformance.runner import Result

PACKAGES = ("numpy", "keras", "tensorflow", "tensorflow-cpu", "torch", "jax", "hypothesis")


def environment() -> dict[str, Any]:
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


def as_json(results: Sequence[Result], tier: str) -> dict[str, Any]:
    """Everything there is to know of a run."""
    return {
        "environment": environment(),
        "tier": tier,
        "passed": sum(result.status == "passed" for result in results),
        "failed": sum(result.status != "passed" for result in results),
        "results": [
            {
                "backend": result.backend,
                "case": result.case.id,
                "claim": result.case.claim,
                "status": result.status,
                "message": result.message,
                "first_difference": result.where,
                "largest_relative_error": result.error,
                "tolerance": result.case.tolerance.relative,
                "tolerance_reason": result.case.tolerance.reason,
                "seconds": round(result.seconds, 3),
            }
            for result in results
        ],
    }


def write_json(results: Sequence[Result], tier: str, path: Path) -> None:
    """Write :func:`as_json` to a file, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(as_json(results, tier), indent=2) + "\n", encoding="utf-8")


def print_report(results: Sequence[Result], console: Console) -> None:
    """Print a matrix of case groups by backends, then every failure."""
    about = environment()
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    console.print(
        Group(
            _matrix(results),
            *_failures(results),
            Text(f"{versions}; Python {about['python']}; {about['machine']}", style="dim"),
        )
    )


def _matrix(results: Sequence[Result]) -> Table:
    backends = list(dict.fromkeys(result.backend for result in results))
    groups = list(dict.fromkeys(result.case.id.partition("/")[0] for result in results))
    table = Table(title="Conformance: cases passed, largest relative error")
    table.add_column("cases")
    for backend in backends:
        table.add_column(backend, justify="right")
    for group in groups:
        cells = [
            _cell([r for r in results if r.backend == backend and _group(r) == group])
            for backend in backends
        ]
        table.add_row(group, *cells)
    return table


def _group(result: Result) -> str:
    return result.case.id.partition("/")[0]


def _cell(results: Sequence[Result]) -> Text:
    passed = [result for result in results if result.status == "passed"]
    worst = max((result.error or 0.0 for result in passed), default=0.0)
    error = f"  {worst:.0e}" if worst else ""
    style = "green" if len(passed) == len(results) else "bold red"
    return Text(f"{len(passed)}/{len(results)}{error}", style=style)


def _failures(results: Sequence[Result]) -> list[RenderableType]:
    """A panel for each failure; cases that failed for the same reason share one."""
    groups: dict[tuple[str, str, str], list[Result]] = {}
    for result in results:
        if result.status != "passed":
            key = (result.backend, result.status, result.message)
            groups.setdefault(key, []).append(result)
    panels: list[RenderableType] = []
    for (backend, status, message), members in groups.items():
        ids = ", ".join(result.case.id for result in members[:3])
        more = f" and {len(members) - 3} more" if len(members) > 3 else ""
        title = Text(f"{backend}: {ids}{more} {status}")
        panels.append(Panel(Text(message), title=title, title_align="left", border_style="red"))
    return panels
