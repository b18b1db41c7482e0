"""Names classes that nobody names, and turns labels that are names into numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from densespec.data.dataset import DataError, check_count
from densespec.errors import shown


def told(labels: Sequence[np.ndarray]) -> Sequence[str]:
    """Return the names of classes that labels tell: themselves where they are names, or numbers."""
    if all(part.dtype.kind == "U" for part in labels):
        return sorted(set(np.concatenate(labels).tolist()))
    several = labels[0].ndim == 2
    if not several and any(part.dtype.kind not in "iu" for part in labels):
        return ()  # no labels of a data set, which says so
    most = labels[0].shape[1] if several else max(int(y.max()) for y in labels) + 1
    check_count(most)
    return [str(number) for number in range(most)]


def numbered(labels: np.ndarray, names: Sequence[str], what: str) -> np.ndarray:
    """Return labels as numbers.

    Args:
        what: What has the labels, in messages.

    Raises:
        DataError: A label is not among the names.
    """
    if labels.dtype.kind != "U" or labels.ndim != 1:
        return labels
    unknown = np.flatnonzero(~np.isin(labels, names))
    if len(unknown):
        raise DataError(
            f"the label of {what} {unknown[0]} is {shown(str(labels[unknown[0]]))}, but classes "
            f"are {shown(list(names))}"
        )
    places = {name: place for place, name in enumerate(names)}
    return np.array([places[str(label)] for label in labels])
