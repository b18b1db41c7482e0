"""Reads arrays in a file: ``x_train``, ``y_train``, ``x_test`` and ``y_test``, or ``x`` and ``y``.

Any file that holds named arrays will do, such as ``.npz`` and ``.safetensors``. Nothing in it is
run. Channels are found as :meth:`densespec.data.Dataset.of` says.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from densespec.data.dataset import DataError, Dataset
from densespec.errors import WeightsError
from densespec.weights.containers import open_file

SPLIT = ("x_train", "y_train", "x_test", "y_test")
WHOLE = ("x", "y")
CLASSES = "classes"
"""Optionally, an array with this name holds the number of classes, which labels may not tell."""


def load(place: str) -> Dataset:
    """Load the data set in a file.

    Raises:
        DataError: The file can't be read, or its arrays are not what they should be.
    """
    path = Path(place).expanduser()
    try:
        with open_file(path) as opened:
            wanted = SPLIT if SPLIT[0] in opened.tensors else WHOLE
            missing = [name for name in wanted if name not in opened.tensors]
            if missing:
                raise DataError(
                    f"{path}: has {', '.join(opened.tensors) or 'nothing'}, but should have "
                    f"{', '.join(SPLIT)}, or {' and '.join(WHOLE)}; {', '.join(missing)} is missing"
                )
            arrays = [opened.tensors[name].read() for name in wanted]
            classes = opened.tensors[CLASSES].read() if CLASSES in opened.tensors else None
    except WeightsError as error:
        raise DataError(str(error)) from error
    try:
        return Dataset.of(*arrays, classes=_count(classes), name=path.name)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def _count(classes: np.ndarray | None) -> int | None:
    if classes is None:
        return None
    if classes.size != 1 or classes.dtype.kind not in "iu":
        raise DataError(
            f"{CLASSES} has shape {classes.shape} and type {classes.dtype}, but should be one "
            "whole number"
        )
    return int(classes.reshape(-1)[0])
