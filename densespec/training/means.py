"""Averages loss and accuracy over the samples of an epoch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Means:
    """Holds what is known of the samples of an epoch so far.

    It keeps the mean itself, so that it goes on from the log as it stood.

    Attributes:
        loss: the mean of the samples' losses.
        correct: the number of samples that are classified rightly; None if that is not counted.
    """

    samples: int = 0
    loss: float = 0.0
    correct: int | None = 0

    def add(self, loss: float, correct: int | None, samples: int) -> None:
        self.samples += samples
        self.loss += (loss - self.loss) * samples / self.samples
        known = correct is not None and self.correct is not None
        self.correct = self.correct + correct if known else None  # type: ignore[operator]

    @property
    def accuracy(self) -> float | None:
        return None if self.correct is None else self.correct / self.samples
