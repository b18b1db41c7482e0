"""Writes the figures of a run for TensorBoard through tensorboardX, as they come."""

from __future__ import annotations

from pathlib import Path

from densespec.installed import require
from densespec.training.log import EpochLine, StepLine
from densespec.training.progress import Course, Silent

FOLDER = "tensorboard"


class TensorBoard(Silent):
    """Writes scalars into a folder: of steps under ``step/``, of epochs under ``epoch/``.

    Where a run goes on, what was written after its step is not shown any more.

    Raises:
        PackageMissing: tensorboardX is not installed; the message says what to install.
    """

    def __init__(self, folder: Path) -> None:
        require("TensorBoard", "tensorboardX", extra="tensorboard")
        self._folder = folder

    def begin(self, course: Course) -> None:
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(str(self._folder), purge_step=course.step + 1)

    def step(self, line: StepLine) -> None:
        names = ("loss", "accuracy", "learning_rate", "images_per_second")
        self._add("step", {name: getattr(line, name) for name in names}, line.step)

    def epoch(self, line: EpochLine) -> None:
        names = ("loss", "accuracy", "validation_loss", "validation_accuracy")
        values = {name: getattr(line, name) for name in names}
        self._add("epoch", values | dict(line.metrics), line.step)
        self._writer.flush()

    def end(self) -> None:
        if hasattr(self, "_writer"):
            self._writer.close()

    def _add(self, kind: str, values: dict[str, float | None], step: int) -> None:
        for name, value in values.items():
            if value is not None:
                self._writer.add_scalar(f"{kind}/{name}", value, step)
