"""Loss and accuracy over the samples of an epoch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Means:
    """What is known of the samples of an epoch so far. The mean itself is kept, so that it goes on
    from the log as it stood.

    Attributes:
        loss: mean of each sample's.
        correct: how many samples are classified rightly; None where that is not counted.
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
