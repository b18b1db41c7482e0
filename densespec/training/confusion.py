"""Draws which classes a run's network takes for which, as a table and a figure beside its log."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from densespec.atomic import atomic_path
from densespec.confusion import draw_matrix

FIGURE, TABLE = "confusion.png", "confusion.csv"

MOST = 200
"""At most this many classes are counted and drawn."""


def write_confusion(
    folder: Path, counts: np.ndarray, classes: Sequence[str], *, title: str, draws: bool
) -> None:
    """Write how many images of each class (row) are taken for each class (column).

    Args:
        draws: Whether to draw them too.
    """
    with atomic_path(folder / TABLE) as temporary, temporary.open("w", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["class", *classes])
        rows.writerows([name, *row] for name, row in zip(classes, counts.tolist(), strict=True))
    if draws:
        draw_matrix(counts, classes, classes, folder / FIGURE, title=title)
