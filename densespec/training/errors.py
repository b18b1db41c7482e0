"""Defines the errors of training runs."""

from __future__ import annotations

from densespec.errors import DensespecError


class TrainingError(DensespecError, RuntimeError):
    """A run can't start or go on. The message says what to do, and the folder is as it was."""


class Diverged(TrainingError):
    """The loss or a weight is no longer a finite number.

    Attributes:
        step: the number of steps that were done, including this one.
    """

    def __init__(self, step: int, message: str) -> None:
        super().__init__(message)
        self.step = step

    def __reduce__(self) -> tuple[type, tuple[int, str]]:
        return type(self), (self.step, str(self))


class FolderInUse(TrainingError):
    """Another process trains into the folder."""
