"""Compares a network in int8 with the same one in float32, and times both."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from densespec.deploy.network import ExportedProgram
from densespec.errors import DensespecError
from densespec.quantizing.calibration import Images

TIMED = (1, 8)
"""Batches of these sizes are timed if a file takes any size."""

ROUNDS = 9


class Int8Disagrees(DensespecError):
    """A network in int8 gives other classes than in float32 for too many images.

    Attributes:
        comparison: The comparison that shows it.
    """

    def __init__(self, comparison: Comparison, least: float) -> None:
        super().__init__(
            f"in int8 the likeliest class is the same as in float32 for {comparison.agreement:.2%} "
            f"of {comparison.count:,} held-out images, where {least:.2%} were wanted: nothing was "
            f"written. {comparison.in_words()}. Calibrate on images that are more like those in "
            "use, or on more of them, or say how much is enough (--least-agreement)"
        )
        self.comparison, self._least = comparison, least

    def __reduce__(self) -> tuple[type[Int8Disagrees], tuple[Comparison, float]]:
        return type(self), (self.comparison, self._least)


@dataclass(frozen=True)
class Agreement:
    """Tells how far answers in int8 are from the same network's in full precision.

    Attributes:
        count: The number of images.
        largest: The largest difference of an output, as a part of the largest output in full.
        mean: The mean difference, as a part of the same.
        agreement: The part of the images whose likeliest class is the same.
        accuracy: The part of the images whose likeliest class is the right one, in full and in
            int8; None if the right ones are not known.
    """

    count: int
    largest: float
    mean: float
    agreement: float
    accuracy: tuple[float, float] | None

    def in_words(self) -> str:
        """Say how far it is off."""
        far = (
            f"Outputs differ by {self.largest:.1e} of the largest at most, and by {self.mean:.1e} "
            "on average"
        )
        if self.accuracy is None:
            return far
        full, int8 = self.accuracy
        return f"{far}; {full:.2%} of the classes are right in float32, {int8:.2%} in int8"


@dataclass(frozen=True)
class Comparison(Agreement):
    """Compares a network in int8 with the same one in float32, on held-out images.

    Attributes:
        seconds: The median seconds in float32 and in int8, by the size of the batch.
    """

    seconds: Mapping[int, tuple[float, float]]

    @property
    def ratios(self) -> dict[int, float]:
        """Return the time in int8 as a part of the time in float32, by the size of the batch."""
        return {batch: int8 / full for batch, (full, int8) in self.seconds.items()}


def agreement_of(
    exact: Sequence[np.ndarray],
    rounded: Sequence[np.ndarray],
    labels: Sequence[np.ndarray] | None,
) -> Agreement:
    """Compare outputs, batch by batch.

    Args:
        exact: The outputs in full precision, of shape (batch, classes).
        rounded: Those in int8.
        labels: The right classes, of shape (batch,); None if they are not known.
    """
    full, int8 = (np.concatenate(values).astype(np.float64) for values in (exact, rounded))
    chosen = full.argmax(1), int8.argmax(1)
    apart = np.abs(int8 - full) / (np.abs(full).max() or 1.0)
    return Agreement(
        count=len(full),
        largest=float(apart.max()),
        mean=float(apart.mean()),
        agreement=float((chosen[0] == chosen[1]).mean()),
        accuracy=None if labels is None else _accuracy(chosen, np.concatenate(labels)),
    )


def compare(full: ExportedProgram, int8: ExportedProgram, images: Images, count: int) -> Comparison:
    """Run a network in float32 and in int8 on up to ``count`` held-out images, and time both."""
    exact, rounded, labels = zip(
        *(
            (_output(full, x), _output(int8, x), right)
            for x, right in images.labelled("test", count)
        ),
        strict=True,
    )
    known = None if images.classes is None else labels
    found = agreement_of(exact, rounded, known)
    return Comparison(**vars(found), seconds=_times(full, int8, images))


def _output(program: ExportedProgram, x: np.ndarray) -> np.ndarray:
    given = program.run(x)
    return given if isinstance(given, np.ndarray) else given[0]


def _accuracy(chosen: tuple[np.ndarray, np.ndarray], right: np.ndarray) -> tuple[float, float]:
    full, int8 = (float((each == right).mean()) for each in chosen)
    return full, int8


def _times(
    full: ExportedProgram, int8: ExportedProgram, images: Images
) -> dict[int, tuple[float, float]]:
    """Take the median seconds of both, in turn, for each size of a batch that the file takes."""
    x = next(images.inputs("test", images.batch))[:1]
    fixed = full.shape[0]
    found = {}
    for batch in TIMED if fixed is None else (fixed,):
        inputs = np.repeat(x, batch, axis=0)
        found[batch] = _in_turn(lambda x=inputs: full.run(x), lambda x=inputs: int8.run(x))  # type: ignore[misc]
    return found


def _in_turn(first: Callable[[], object], second: Callable[[], object]) -> tuple[float, float]:
    taken: tuple[list[float], list[float]] = ([], [])
    for index in range(ROUNDS + 2):
        for call, times in zip((first, second), taken, strict=True):
            call()
            start = time.perf_counter()
            call()
            if index >= 2:
                times.append(time.perf_counter() - start)
    return statistics.median(taken[0]), statistics.median(taken[1])
