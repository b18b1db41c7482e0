"""Draws which classes are taken for which."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from densespec.atomic import atomic_path
from densespec.installed import require

NAMED = 40
"""The axes name the classes if there are at most this many."""

NUMBERED = 15
"""Each cell shows its count if there are at most this many classes."""


def draw_matrix(
    counts: np.ndarray, classes: Sequence[str], taken_for: Sequence[str], path: Path, *, title: str
) -> None:
    """Draw a confusion matrix, each row in parts of its class, atomically.

    Args:
        counts: How many images of each class (row) are taken for what (column).
        taken_for: The names of the columns.

    Raises:
        PackageMissing: matplotlib is not installed.
    """
    require("drawing a confusion matrix", "matplotlib", extra="draw")
    from matplotlib.figure import Figure

    side = min(12.0, 3.5 + 0.3 * len(taken_for))
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.subplots()
    parts = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    image = axes.imshow(parts, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axes, label="part of the class", shrink=0.8)
    axes.set(xlabel="taken for", ylabel="class", title=title)
    if len(classes) <= NAMED:
        axes.set_xticks(range(len(taken_for)), taken_for, rotation=90)
        axes.set_yticks(range(len(classes)), classes)
    if len(classes) <= NUMBERED:
        for (row, column), count in np.ndenumerate(counts):
            colour = "white" if parts[row, column] > 0.5 else "black"
            axes.text(column, row, str(count), ha="center", va="center", color=colour)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:], dpi=130)
