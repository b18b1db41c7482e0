"""How a run ended."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from densespec.training.folder import BEST, LAST, best_of
from densespec.training.log import LogLine


@dataclass(frozen=True)
class RunResult:
    """How a run, or a part of it, ended.

    Attributes:
        folder: the folder of the run.
        finished: whether all epochs are done.
        judged_by: the metric that the best epoch is told by.
        signal: the number of the signal that stopped it; None where none did.
        step: how many steps are done.
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
        """The last checkpoint: a weight file like any other."""
        return self.folder / LAST

    @property
    def best(self) -> Path | None:
        """The checkpoint of the best epoch; None before the first."""
        path = self.folder / BEST
        return path if path.exists() else None

    @property
    def accuracy(self) -> float | None:
        """Validation accuracy after the last epoch."""
        return self.epochs[-1]["validation_accuracy"] if self.epochs else None

    @property
    def best_epoch(self) -> LogLine | None:
        """The log's line of the epoch that ``best`` is of."""
        return best_of(self.epochs, self.judged_by)
