"""The log of a run: one JSON object a line, in ``log.jsonl``.

Lines are appended whole, in one write each; a line that a crash tore is dropped on reading. Lines
of steps are ``{"kind": "step", ...}``, those of epochs ``{"kind": "epoch", ...}``.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from densespec.atomic import atomic_path

LogLine = dict[str, Any]
"""A line that was read, by the names of :class:`StepLine` or :class:`EpochLine`, and its kind."""


@dataclass(frozen=True)
class StepLine:
    """One training step.

    Attributes:
        time: when it was done, as an ISO date.
        epoch: counted from 1.
        step: steps done, this one included.
        loss: the loss of this batch, before the step.
        accuracy: the accuracy on this batch, in training mode; None where the backend does not
            count it.
        epoch_loss, epoch_accuracy: means over the samples of the epoch so far.
        learning_rate: the learning rate of this step.
        images_per_second: how fast this step was.
        backend: the backend that took it.
    """

    time: str
    epoch: int
    step: int
    loss: float
    accuracy: float | None
    epoch_loss: float
    epoch_accuracy: float | None
    learning_rate: float
    images_per_second: float
    backend: str

    def record(self) -> LogLine:
        return {"kind": "step"} | asdict(self)


@dataclass(frozen=True)
class EpochLine:
    """One epoch.

    Attributes:
        time: when it was done, as an ISO date.
        epoch: counted from 1.
        step: steps done, the whole epoch included.
        loss, accuracy: means over the samples of the epoch, in training mode.
        validation_loss, validation_accuracy: over the test images, in inference mode; None
            without validation.
        learning_rate: the learning rate of its steps.
        seconds: it took in this process, validation included.
        backend: the backend that ended it.
    """

    time: str
    epoch: int
    step: int
    loss: float
    accuracy: float | None
    validation_loss: float | None
    validation_accuracy: float | None
    learning_rate: float
    seconds: float
    backend: str

    def record(self) -> LogLine:
        return {"kind": "epoch"} | asdict(self)


def read_log(path: str | os.PathLike[str]) -> list[LogLine]:
    """The records of a log; of a torn line at its end, nothing. No file is an empty log."""
    with contextlib.suppress(FileNotFoundError):
        return _records(Path(path).read_bytes())
    return []


def _records(content: bytes) -> list[LogLine]:
    records = []
    for line in content.split(b"\n")[:-1]:  # what follows the last line end is torn
        with contextlib.suppress(ValueError):
            record = json.loads(line)
            if isinstance(record, dict) and isinstance(record.get("step"), int):
                records.append(record)
    return records


def as_lines(records: Sequence[LogLine]) -> bytes:
    """Records as a log holds them."""
    return b"".join(json.dumps(record, allow_nan=False).encode() + b"\n" for record in records)


class Log:
    """A log that is written to.

    Attributes:
        records: every one it holds.
    """

    def __init__(self, path: Path, records: list[LogLine], handle: int) -> None:
        self.path, self.records, self._handle = path, records, handle

    @classmethod
    def open(cls, path: Path, *, up_to_step: int) -> Self:
        """Take up a log at a checkpoint: later lines are dropped, and so is a torn one."""
        records = [record for record in read_log(path) if record["step"] <= up_to_step]
        content = as_lines(records)
        if not path.exists() or path.read_bytes() != content:
            with atomic_path(path) as temporary:
                temporary.write_bytes(content)
        return cls(path, records, os.open(path, os.O_WRONLY | os.O_APPEND))

    def append(self, line: StepLine | EpochLine) -> None:
        """Add a line.

        Raises:
            OSError: it can't be written, whole or at all.
        """
        record = line.record()
        content = as_lines([record])
        written = os.write(self._handle, content)
        while written < len(content):
            written += os.write(self._handle, content[written:])
        self.records.append(record)

    def sync(self) -> None:
        """Wait until all lines are on the disk."""
        os.fsync(self._handle)

    def epochs(self) -> list[LogLine]:
        """The lines of epochs."""
        return [record for record in self.records if record["kind"] == "epoch"]

    def close(self) -> None:
        os.close(self._handle)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
