"""The figure of an evaluation: which classes are taken for which."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from densespec.atomic import atomic_path
from densespec.errors import DensespecError
from densespec.installed import require
from densespec.predicting.scoring import Evaluation

SUFFIXES = (".png", ".svg", ".pdf")
NAMED = 40
"""Up to how many classes the axes name them."""

NUMBERED = 15
"""Up to how many classes each cell has its number."""


def draw_confusion(evaluation: Evaluation, path: Path) -> None:
    """Draw the confusion matrix, each row in parts of its class, atomically.

    Raises:
        DensespecError: The path has another suffix.
        PackageMissing: matplotlib is not installed.
    """
    if path.suffix not in SUFFIXES:
        raise DensespecError(f"{path}: a figure ends in {' or '.join(SUFFIXES)}")
    require("drawing a confusion matrix", "matplotlib", extra="draw")
    from matplotlib.figure import Figure

    counts, names = _shown(evaluation)
    side = min(12.0, 3.5 + 0.3 * len(names))
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.subplots()
    parts = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    image = axes.imshow(parts, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axes, label="part of the class", shrink=0.8)
    axes.set(
        xlabel="taken for",
        ylabel="class",
        title=f"{evaluation.data}: {evaluation.top1:.1%} of {evaluation.count:,} images right",
    )
    if len(evaluation.classes) <= NAMED:
        axes.set_xticks(range(len(names)), names, rotation=90)
        axes.set_yticks(range(len(evaluation.classes)), evaluation.classes)
    if len(evaluation.classes) <= NUMBERED:
        for (row, column), count in np.ndenumerate(counts):
            colour = "white" if parts[row, column] > 0.5 else "black"
            axes.text(column, row, str(count), ha="center", va="center", color=colour)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:], dpi=130)


def _shown(evaluation: Evaluation) -> tuple[np.ndarray, tuple[str, ...]]:
    """The counts, without the column of other classes where nothing is in it."""
    if evaluation.confusion[:, -1].any():
        return evaluation.confusion, (*evaluation.classes, "another")
    return evaluation.confusion[:, :-1], evaluation.classes
