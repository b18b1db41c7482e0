"""Draws an evaluation's confusion matrix: which classes are taken for which."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from densespec.confusion import draw_matrix
from densespec.errors import DensespecError
from densespec.predicting.scoring import Evaluation

SUFFIXES = (".png", ".svg", ".pdf")


def draw_confusion(evaluation: Evaluation, path: Path) -> None:
    """Draw the confusion matrix, each row in parts of its class, atomically.

    Raises:
        DensespecError: The path has another suffix.
        PackageMissing: matplotlib is not installed.
    """
    if path.suffix not in SUFFIXES:
        raise DensespecError(f"{path}: a figure ends in {' or '.join(SUFFIXES)}")
    counts, names = _shown(evaluation)
    title = f"{evaluation.data}: {evaluation.top1:.1%} of {evaluation.count:,} images right"
    draw_matrix(counts, evaluation.classes, names, path, title=title)


def _shown(evaluation: Evaluation) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return the counts, without the column of other classes if it is empty."""
    if evaluation.confusion[:, -1].any():
        return evaluation.confusion, (*evaluation.classes, "another")
    return evaluation.confusion[:, :-1], evaluation.classes
