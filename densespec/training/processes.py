"""Finds the processes of a run: a backend's, which a launcher started, or this one alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from densespec.backends import Backend, LaunchableBackend, ProcessGroup


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
