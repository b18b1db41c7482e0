"""Tells what a run does: by bars on a terminal, by plain lines elsewhere, or not at all."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from typing import Any, Protocol

from densespec.training.log import EpochLine, StepLine

EVERY = 10.0
"""Within an epoch, plain lines are this many seconds apart."""


@dataclass(frozen=True)
class Course:
    """Says how long a run is, and how far it has come.

    Attributes:
        epochs: the number of epochs of the whole run.
        steps_per_epoch: the number of steps of each epoch.
        step: the number of steps that are done.
    """

    epochs: int
    steps_per_epoch: int
    step: int

    @property
    def steps(self) -> int:
        """Return the number of steps of the whole run."""
        return self.epochs * self.steps_per_epoch


class ProgressListener(Protocol):
    """Is told what a run does, as it does it."""

    def begin(self, course: Course) -> None:
        """Hear that training starts."""
        ...

    def note(self, text: str) -> None:
        """Hear something the user should know, in a sentence."""
        ...

    def features(self, done: int, total: int) -> None:
        """Hear how many images have their features."""
        ...

    def step(self, line: StepLine) -> None:
        """Hear that a step was done."""
        ...

    def validation(self, done: int, total: int) -> None:
        """Hear how many batches were validated on."""
        ...

    def epoch(self, line: EpochLine) -> None:
        """Hear that an epoch was done."""
        ...

    def end(self) -> None:
        """Hear that there is nothing more to tell. It is called however a run ends."""
        ...


class Silent:
    """Tells nothing."""

    def begin(self, course: Course) -> None: ...

    def note(self, text: str) -> None: ...

    def features(self, done: int, total: int) -> None: ...

    def step(self, line: StepLine) -> None: ...

    def validation(self, done: int, total: int) -> None: ...

    def epoch(self, line: EpochLine) -> None: ...

    def end(self) -> None: ...


class Both:
    """Tells two listeners."""

    def __init__(self, *listeners: ProgressListener) -> None:
        self._listeners = listeners

    def begin(self, course: Course) -> None:
        for one in self._listeners:
            one.begin(course)

    def note(self, text: str) -> None:
        for one in self._listeners:
            one.note(text)

    def features(self, done: int, total: int) -> None:
        for one in self._listeners:
            one.features(done, total)

    def step(self, line: StepLine) -> None:
        for one in self._listeners:
            one.step(line)

    def validation(self, done: int, total: int) -> None:
        for one in self._listeners:
            one.validation(done, total)

    def epoch(self, line: EpochLine) -> None:
        for one in self._listeners:
            one.epoch(line)

    def end(self) -> None:
        for one in self._listeners:
            one.end()


class Plain(Silent):
    """Writes lines to stderr: one for each epoch, and in long epochs one every ten seconds."""

    def __init__(self) -> None:
        self._said = time.monotonic()

    def begin(self, course: Course) -> None:
        self._epochs, self._steps = course.epochs, course.steps_per_epoch

    def note(self, text: str) -> None:
        self._say(f"note: {text}")

    def features(self, done: int, total: int) -> None:
        if done == total or self._due():
            self._say(f"features of {done} of {total} images")

    def step(self, line: StepLine) -> None:
        if self._due():
            position = line.step - (line.epoch - 1) * self._steps
            self._say(
                f"epoch {line.epoch}/{self._epochs}, step {position}/{self._steps}: "
                f"loss {line.epoch_loss:.4f}, accuracy {_percent(line.epoch_accuracy)}, "
                f"rate {line.learning_rate:g}, {line.images_per_second:.0f} images/s"
            )

    def epoch(self, line: EpochLine) -> None:
        self._say(f"epoch {line.epoch}/{self._epochs}: {in_words(line)}")

    def _due(self) -> bool:
        return time.monotonic() - self._said > EVERY

    def _say(self, text: str) -> None:
        self._said = time.monotonic()
        print(text, file=sys.stderr, flush=True)


class Bars(Silent):
    """Shows a bar for the epochs and one for the steps of this epoch, on a terminal."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        self._console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description:10}"),
            BarColumn(bar_width=16),
            MofNCompleteColumn(),
            TextColumn("{task.fields[state]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self._console,
        )
        self._tasks: dict[str, Any] = {}
        self._best: float | None = None

    def begin(self, course: Course) -> None:
        self._epochs, self._steps = course.epochs, course.steps_per_epoch
        self._drop("features")
        self._task("epochs", course.epochs, course.step // self._steps)
        self._progress.start()

    def note(self, text: str) -> None:
        self._console.print(f"note: {text}", markup=False, highlight=False)

    def features(self, done: int, total: int) -> None:
        self._progress.start()
        self._progress.update(self._task("features", total), completed=done)

    def step(self, line: StepLine) -> None:
        position = line.step - (line.epoch - 1) * self._steps
        state = (
            f"loss {line.epoch_loss:.4f}  acc {_percent(line.epoch_accuracy)}  "
            f"lr {line.learning_rate:g}  {line.images_per_second:,.0f} img/s"
        )
        self._drop("validation")
        task = self._task(f"epoch {line.epoch}", self._steps, position - 1)
        self._progress.update(task, completed=position, state=state)
        self._progress.update(self._tasks["epochs"], completed=(line.step - 1) / self._steps)

    def validation(self, done: int, total: int) -> None:
        self._progress.update(self._task("validation", total), completed=done)

    def epoch(self, line: EpochLine) -> None:
        self._drop("validation")
        self._drop(f"epoch {line.epoch}")
        text = f"epoch {line.epoch:>{len(str(self._epochs))}}  {in_words(line)}"
        self._console.print(text, markup=False, highlight=False)
        if line.validation_accuracy is not None:
            self._best = max(self._best or 0.0, line.validation_accuracy)
        best = "" if self._best is None else f"best {self._best:.2%}"
        self._progress.update(self._tasks["epochs"], completed=line.epoch, state=best)

    def end(self) -> None:
        self._progress.stop()

    def _task(self, name: str, total: int, completed: int = 0) -> Any:
        if name not in self._tasks:
            self._tasks[name] = self._progress.add_task(
                name, total=total, completed=completed, state=""
            )
        return self._tasks[name]

    def _drop(self, name: str) -> None:
        if name in self._tasks:
            self._progress.remove_task(self._tasks.pop(name))


def listener(progress: bool | ProgressListener) -> ProgressListener:
    """Choose what a run reports to: True means bars on a terminal and lines elsewhere."""
    if not isinstance(progress, bool):
        return progress
    if not progress:
        return Silent()
    return Bars() if sys.stderr.isatty() else Plain()


def in_words(line: EpochLine) -> str:
    """Put an epoch's figures in words."""
    text = f"loss {line.loss:.4f}, accuracy {_percent(line.accuracy)}"
    if line.validation_loss is not None:
        text += (
            f", validation loss {line.validation_loss:.4f}, "
            f"accuracy {_percent(line.validation_accuracy)}"
        )
    text += "".join(f", {n} {value:.4f}" for n, value in line.metrics.items() if ":" not in n)
    return f"{text}, rate {line.learning_rate:g}, {line.seconds:.1f} s"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.2%}"
