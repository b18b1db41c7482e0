"""Keeps the log of a run: one JSON object a line, in ``log.jsonl``.

Each line is appended whole, in one write. A line that a crash tore is dropped on reading. Lines of
steps are ``{"kind": "step", ...}``, those of epochs ``{"kind": "epoch", ...}``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from densespec.atomic import atomic_path
from densespec.texts import JsonError, check_regular, parsed_json
from densespec.training.errors import TrainingError

LogLine = dict[str, Any]
"""Holds a line that was read: its kind, and what :class:`StepLine` or :class:`EpochLine` has."""


@dataclass(frozen=True)
class StepLine:
    """Describes one training step.

    Attributes:
        time: the time at which it was done, as an ISO date.
        epoch: the number of the epoch, counted from 1.
        step: the number of steps done, including this one.
        loss: the loss of this batch, before the step.
        accuracy: the accuracy on this batch, in training mode; None if the backend does not count
            it.
        epoch_loss, epoch_accuracy: the means over the samples of the epoch so far.
        learning_rate: the learning rate of this step.
        images_per_second: the speed of this step.
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
    """Describes one epoch.

    Attributes:
        time: the time at which it was done, as an ISO date.
        epoch: the number of the epoch, counted from 1.
        step: the number of steps done, including the whole epoch.
        loss, accuracy: the means over the samples of the epoch, in training mode.
        metrics: the further metrics that were asked for, over the test images, by name; see
            :mod:`densespec.training.metrics`.
        validation_loss, validation_accuracy: the same over the test images, in inference mode; None
            without validation.
        learning_rate: the learning rate of its last step.
        seconds: the seconds that it took in this process, including validation.
        backend: the backend that ended it.
    """

    time: str
    epoch: int
    step: int
    loss: float
    accuracy: float | None
    validation_loss: float | None
    validation_accuracy: float | None
    metrics: dict[str, float]
    learning_rate: float
    seconds: float
    backend: str

    def record(self) -> LogLine:
        return {"kind": "epoch"} | asdict(self)


KINDS: Mapping[str, type[StepLine | EpochLine]] = {"step": StepLine, "epoch": EpochLine}

FIELD_TYPES: Mapping[Any, tuple[type, ...]] = {
    "str": (str,),
    "int": (int,),
    "float": (int, float),
    "float | None": (int, float, type(None)),
    "dict[str, float]": (dict,),
}
"""Gives the types in JSON of a field, by its annotation."""


def read_log(path: str | os.PathLike[str]) -> list[LogLine]:
    """Read the records of a log, without a torn line at its end. No file is an empty log."""
    return [record for record in _lines(Path(path)) if record is not None]


def _lines(path: Path) -> list[LogLine | None]:
    """Read the lines of a log; None for each that can't be read."""
    try:
        check_regular(path)
        content = path.read_bytes()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise TrainingError(f"{path}: {error.strerror or error}") from error
    return list(map(_line, content.split(b"\n")[:-1]))  # what follows the last line end is torn


def _line(text: bytes) -> LogLine | None:
    with contextlib.suppress(JsonError):
        record = parsed_json(text, "a line")
        if isinstance(record, dict):
            if record.get("kind") == "epoch":
                record.setdefault("metrics", {})  # lines of older versions have none
            return record if _is_whole(record) else None
    return None


def _is_whole(record: LogLine) -> bool:
    kind = record.get("kind")
    fields = dataclasses.fields(KINDS[kind]) if isinstance(kind, str) and kind in KINDS else ()
    sound = [isinstance(record.get(field.name, ...), FIELD_TYPES[field.type]) for field in fields]
    return bool(sound) and all(sound)


def as_lines(records: Sequence[LogLine]) -> bytes:
    """Write records as the lines of a log."""
    return b"".join(json.dumps(record, allow_nan=False).encode() + b"\n" for record in records)


class Log:
    """Writes a log.

    Attributes:
        records: all records that it holds.
        unreadable: the number of lines that could not be read when it was opened.
    """

    def __init__(
        self, path: Path, records: list[LogLine], handle: int, unreadable: int = 0
    ) -> None:
        self.path, self.records, self._handle = path, records, handle
        self.unreadable = unreadable

    @classmethod
    def open(cls, path: Path, *, up_to_step: int) -> Self:
        """Take up a log at a checkpoint: later lines are dropped, and so is a torn one."""
        lines = _lines(path)
        records = [line for line in lines if line is not None and line["step"] <= up_to_step]
        content = as_lines(records)
        if not path.exists() or path.read_bytes() != content:
            with atomic_path(path) as temporary:
                temporary.write_bytes(content)
        handle = os.open(path, os.O_WRONLY | os.O_APPEND)
        return cls(path, records, handle, lines.count(None))

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
        """Return the lines of epochs."""
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
