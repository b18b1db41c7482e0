"""Draws timings: samples a second by the size of the batch, with a line for each candidate."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from densespec.atomic import atomic_path
from densespec.errors import DensespecError
from densespec.installed import require

SUFFIXES = (".png", ".svg", ".pdf")

RULE = "#9aa5b1"


def check_figure(path: Path) -> None:
    """Check that a figure can be drawn to a path.

    Raises:
        DensespecError: The path has another suffix.
        PackageMissing: matplotlib is not installed.
    """
    if path.suffix not in SUFFIXES:
        raise DensespecError(f"{path}: a figure ends in {' or '.join(SUFFIXES)}")
    require("drawing timings", "matplotlib", extra="draw")


def draw_timings(record: Mapping[str, Any], path: Path, *, title: str) -> None:
    """Draw the timings of a record, atomically."""
    from matplotlib.figure import Figure

    lines: dict[str, dict[int, float]] = defaultdict(dict)
    for row in record["timings"]:
        lines[_label(record, row)][row["batch"]] = row["per_second"]
    figure = Figure(figsize=(9, 6), layout="constrained")
    axes = figure.subplots()
    for label, points in lines.items():
        axes.plot(list(points), list(points.values()), marker="o", markersize=4, label=label)
    batches = sorted({row["batch"] for row in record["timings"]})
    axes.set(xscale="log", yscale="log", xlabel="batch", ylabel="samples a second", title=title)
    axes.set_xticks(batches, list(map(str, batches)))
    axes.minorticks_off()
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,g}")
    axes.grid(color=RULE, alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:], dpi=130)


def _label(record: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    """Name a candidate, and what else differs between lines."""
    parts = [row["candidate"]]
    if len({str(each["shape"][1:]) for each in record["timings"]}) > 1:
        parts.append("x".join(map(str, row["shape"][1:])))
    if len({each["threads"] for each in record["timings"]}) > 1:
        parts.append(f"{row['threads']} threads")
    return ", ".join(parts)
