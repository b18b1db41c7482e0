"""Keeps the folder of a run, which is whole at every moment.

| file | |
| --- | --- |
| ``run.toml`` | what is trained: spec, recipe, data, and which backends took which steps |
| ``last.safetensors`` | the last checkpoint: weights, moments, and their step |
| ``best.safetensors`` | the checkpoint of the best epoch by validation accuracy or another metric |
| ``epoch-0012.safetensors`` | checkpoints of some last epochs, where they are kept |
| ``log.jsonl`` | a line for every step and every epoch |
| ``curve.png`` | loss, accuracy and metrics |
| ``confusion.csv``, ``confusion.png`` | which classes are taken for which, after the last epoch |
| ``features.safetensors`` | what the frozen part gives for each image, where that is cached |
| ``lock`` | held while a process trains into the folder |

The checkpoint decides how far a run has come, and replacing it takes the run forward. The log's
lines are on the disk before it. On resuming, lines after its step are dropped, and ``best`` is
corrected from the two. ``run.toml`` is the last file of a new run to be written.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from densespec.atomic import atomic_path
from densespec.errors import WeightsError, bare
from densespec.network.arrays import Arrays
from densespec.network.files import to_toml
from densespec.network.graph import Graph
from densespec.pretrained.accompaniment import Accompaniment
from densespec.recipes.moments import flat_moments
from densespec.training.confusion import FIGURE, TABLE
from densespec.training.errors import Diverged, TrainingError
from densespec.training.lock import locked
from densespec.training.log import Log, LogLine
from densespec.training.metrics import worth
from densespec.training.run import RUN, TrainingRun, read_run
from densespec.weights.checkpoint import (
    Checkpoint,
    TrainingState,
    read_checkpoint,
    write_checkpoint,
)

LOG, CURVE, LOCK = "log.jsonl", "curve.png", "lock"
LAST, BEST, FEATURES = "last.safetensors", "best.safetensors", "features.safetensors"


class RunFolder:
    """Represents the folder of a run that this process trains into.

    Attributes:
        path: the path of the folder.
        run: what is trained.
        log: the log, open at the last checkpoint's step.
        bequest: what goes with the weights in its checkpoints.
    """

    def __init__(self, path: Path, run: TrainingRun, log: Log, bequest: Accompaniment) -> None:
        self.path, self.run, self.log, self.bequest = path, run, log, bequest
        self._put_right()

    @property
    def last(self) -> Path:
        return self.path / LAST

    @property
    def best(self) -> Path:
        return self.path / BEST

    def save(self, graph: Graph, arrays: Arrays, state: TrainingState) -> None:
        """Take the run forward to a step.

        Raises:
            Diverged: a value is not finite; the last checkpoint stays.
            TrainingError: it can't be written; the last checkpoint stays.
        """
        _check_finite(arrays, state, self.last)
        self.log.sync()
        with kept(self.last):
            write_checkpoint(self.last, graph, arrays, state, accompaniment=self.bequest)
            _sync(self.path)
            self._put_right()

    def write_run(self, run: TrainingRun) -> None:
        self.run = run
        _write_run(self.path, run)

    def _put_right(self) -> None:
        """Bring the other checkpoints to where the last one and the log are."""
        epochs = self.log.epochs()
        if not epochs or epochs[-1] is not self.log.records[-1]:
            return
        if best_of(epochs, self.run.judged_by) is epochs[-1]:
            _copy(self.last, self.best)
        if self.run.keep:
            _copy(self.last, self.path / f"epoch-{epochs[-1]['epoch']:04}.safetensors")
        old = sorted(self.path.glob("epoch-[0-9]*.safetensors"))
        for path in old[: max(0, len(old) - self.run.keep)]:
            path.unlink()


@contextlib.contextmanager
def new_folder(
    path: Path,
    run: TrainingRun,
    graph: Graph,
    arrays: Arrays,
    state: TrainingState,
    bequest: Accompaniment,
    note: Callable[[str], None],
) -> Iterator[RunFolder]:
    """Make the folder of a new run.

    Args:
        bequest: what goes with its weights.
        note: is told what the user should know.

    Raises:
        TrainingError: there is a run in it, or files that this one would replace, or it can't be
            written into.
    """
    _make(path)
    with locked(path / LOCK, note):
        _check_empty(path)
        _sweep(path)
        with kept(None):
            write_checkpoint(path / LAST, graph, arrays, state, accompaniment=bequest)
            for name in (LOG, BEST, CURVE, FIGURE, TABLE):
                (path / name).unlink(missing_ok=True)
            _write_run(path, run)
        with Log.open(path / LOG, up_to_step=0) as log:
            yield RunFolder(path, run, log, bequest)


@contextlib.contextmanager
def old_folder(
    path: Path, note: Callable[[str], None]
) -> Iterator[tuple[RunFolder, Checkpoint, TrainingState]]:
    """Take up the run in a folder at its last checkpoint.

    Args:
        note: is told what the user should know.

    Raises:
        TrainingError: there is no run in it, or its files do not belong together.
    """
    read_run(path)
    _check_writable(path)
    with locked(path / LOCK, note):
        _sweep(path)
        run = read_run(path)
        checkpoint, state = read_last(path, run)
        with Log.open(path / LOG, up_to_step=state.step) as log:
            _check_log(log, state.step, note)
            yield RunFolder(path, run, log, checkpoint.accompaniment), checkpoint, state


def read_last(path: Path, run: TrainingRun) -> tuple[Checkpoint, TrainingState]:
    """Read the last checkpoint of a run, which has to belong to that run.

    Raises:
        TrainingError: it belongs to another run.
        WeightsError: it is absent or damaged.
    """
    checkpoint = read_checkpoint(path / LAST)
    state = checkpoint.training
    if state is None:
        raise TrainingError(f"{path / LAST} is no checkpoint of a training run")
    there = run.replace(
        spec=checkpoint.spec, recipe=state.recipe, trainable_from=state.trainable_from
    )
    differing = there.differences(run)
    if differing:
        raise TrainingError(
            f"{path / LAST} is not of the run that {RUN} describes: {'; '.join(differing)}"
        )
    return checkpoint, state


def best_of(epochs: Sequence[LogLine], judged_by: str) -> LogLine | None:
    """Find the first epoch that is best by a metric; None if no epoch is judged by it."""
    known = [(value, epoch) for epoch in epochs if (value := worth(epoch, judged_by)) is not None]
    return max(known, key=lambda pair: pair[0], default=(0.0, None))[1]


def _check_log(log: Log, step: int, note: Callable[[str], None]) -> None:
    """Say what of the run the log no longer tells, and what follows from that."""
    logged = log.records[-1]["step"] if log.records else 0
    if logged < step:
        note(
            f"{log.path} tells of {logged} of the {step} steps that are done: the rest of it is "
            f"lost, and {BEST} will be the best of the epochs that it tells of"
        )
    if log.unreadable:
        note(f"{log.path}: {log.unreadable} lines of it could not be read and are dropped")


def _check_finite(arrays: Arrays, state: TrainingState, last: Path) -> None:
    for name, array in (arrays | flat_moments(state.moments)).items():
        if not np.isfinite(array).all():
            raise Diverged(
                state.step,
                f"after step {state.step}, {name} holds values that are not finite: the run has "
                f"diverged. {advice(last)}",
            )


def advice(last: Path) -> str:
    """Say what to do about a run that diverged."""
    return (
        f"{last} is the last good checkpoint, and nothing has replaced it. Go on from it with "
        f"another recipe in a new folder, such as a lower learning rate: --weights {last} --set "
        "learning_rate=..."
    )


@contextlib.contextmanager
def kept(last: Path | None) -> Iterator[None]:
    """Say of a file that can't be written what there still is.

    Raises:
        TrainingError: the disk is full, the folder can't be written into, or the like.
    """
    try:
        yield
    except (OSError, WeightsError) as error:
        text = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else str(error)
        rest = f"; {last} is whole: make room, and resume" if last is not None else ""
        raise TrainingError(f"{text}{rest}") from error


def check_free(path: Path) -> None:
    """Check that a new run could be made in a folder, which need not be there yet.

    Raises:
        TrainingError: as for :func:`new_folder`.
    """
    with _as_folder(path):
        there = next(each for each in (path, *path.absolute().parents) if each.exists())
        if not there.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        _check_writable(there)
    _check_empty(path)


def _make(path: Path) -> None:
    with _as_folder(path):
        path.mkdir(parents=True, exist_ok=True)
    _check_writable(path)


@contextlib.contextmanager
def _as_folder(path: Path) -> Iterator[None]:
    """Say that a path can't be a folder's, which may hold characters that no path has."""
    try:
        yield
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise TrainingError(f"{bare(str(path))} can't be made a folder: {reason}") from error


def _check_writable(path: Path) -> None:
    if not os.access(path, os.W_OK | os.X_OK):
        raise TrainingError(
            f"{path} can't be written into: change its permissions, or give another"
        )


def _check_empty(path: Path) -> None:
    if (path / RUN).exists():
        raise TrainingError(
            f"{path} holds a run already: go on with it by --resume {path}, or give another folder"
        )
    if (path / LAST).exists():
        state = read_checkpoint(path / LAST).training
        if state is None or state.step:
            raise TrainingError(f"{path / LAST} is there already: give another folder")


def _sweep(path: Path) -> None:
    """Remove what a process that was killed had not finished writing."""
    figures = (CURVE, FIGURE, TABLE)
    for name in (RUN, LOG, *figures, LAST, BEST, FEATURES, "epoch-*.safetensors"):
        for unfinished in path.glob(f".{name}.*.tmp"):
            unfinished.unlink()


def _write_run(path: Path, run: TrainingRun) -> None:
    with kept(path / LAST), atomic_path(path / RUN) as temporary:
        temporary.write_text(to_toml(run), encoding="utf-8")
    _sync(path)


def _copy(source: Path, target: Path) -> None:
    """Copy the file under another name. A link would not protect one from damage to the other."""
    with atomic_path(target) as temporary:
        shutil.copyfile(source, temporary)


def _sync(folder: Path) -> None:
    """Wait until the names in a folder are on the disk."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
