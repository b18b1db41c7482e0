"""Tells how a run ended."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from densespec.training.folder import BEST, LAST, best_of
from densespec.training.log import LogLine


@dataclass(frozen=True)
class RunResult:
    """Tells how a run, or a part of it, ended.

    Attributes:
        folder: the folder of the run.
        finished: whether all epochs are done.
        judged_by: the metric that tells the best epoch.
        signal: the number of the signal that stopped it; None if no signal did.
        step: the number of steps that are done.
        epochs: the log's lines of epochs.
    """

    folder: Path
    finished: bool
    judged_by: str
    signal: int | None
    step: int
    epochs: tuple[LogLine, ...]

    @property
    def checkpoint(self) -> Path:
        """Return the path of the last checkpoint, which is a weight file like any other."""
        return self.folder / LAST

    @property
    def best(self) -> Path | None:
        """Return the path of the best epoch's checkpoint; None before the first."""
        path = self.folder / BEST
        return path if path.exists() else None

    @property
    def accuracy(self) -> float | None:
        """Return the validation accuracy after the last epoch."""
        return self.epochs[-1]["validation_accuracy"] if self.epochs else None

    @property
    def best_epoch(self) -> LogLine | None:
        """Return the log's line of the epoch that ``best`` holds."""
        return best_of(self.epochs, self.judged_by)
