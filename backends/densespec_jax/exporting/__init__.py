"""Holds the export formats that need JAX alone, one in each file, and what they share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from densespec.deploy.network import Runner


def channels_first(run: Callable[[np.ndarray], Any]) -> Runner:
    """Turn what runs channels-last inputs into a runner, which takes channels-first ones."""

    def runner(x: np.ndarray) -> list[np.ndarray]:
        given = run(np.ascontiguousarray(np.moveaxis(x, 1, -1)))
        values = given if isinstance(given, list | tuple) else [given]
        return [np.moveaxis(np.asarray(value), -1, 1) for value in values]

    return runner
