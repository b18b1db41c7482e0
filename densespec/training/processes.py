"""Finds the processes of a run: a backend's, which a launcher started, or this one alone."""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from densespec.backends import Backend, LaunchableBackend, ProcessGroup, own_samples
from densespec.recipes.recipe import TrainingRecipe


@dataclass(frozen=True)
class Alone:
    """This is a group of this process alone: see :class:`densespec.backends.ProcessGroup`."""

    rank: int = 0
    size: int = 1

    def part(self, count: int) -> slice:
        return slice(0, count)

    def any(self, wish: bool) -> bool:
        return wish

    def place(self, model: Any) -> Any:
        return model


def launched(engine: Backend) -> tuple[int, int] | None:
    """Return this process's number and their count; None if no launcher started it."""
    return engine.launched() if isinstance(engine, LaunchableBackend) else None


def joined(engine: Backend) -> ProcessGroup:
    """Join the processes that train together, and wait for all of them."""
    return engine.join() if isinstance(engine, LaunchableBackend) else Alone()


def part_of(group: ProcessGroup, recipe: TrainingRecipe) -> Callable[[int], np.ndarray] | None:
    """Return what gives the places of a process's samples in a batch; None if all are its own."""
    if group.size == 1:
        return None
    return functools.partial(own_samples, group.part, accumulate=recipe.accumulate)


def agreed(group: ProcessGroup, text: str) -> bool:
    """Return whether all processes have the same text; every process has to call it."""
    bits = [bool(zlib.crc32(text.encode()) >> place & 1) for place in range(32)]
    return group.size == 1 or not any(group.any(bit) and group.any(not bit) for bit in bits)
