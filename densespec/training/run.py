"""The folder of a run, whole at every moment.

| file | |
| --- | --- |
| ``run.toml`` | what is trained: spec, recipe, data, and which backends took which steps |
| ``last.safetensors`` | the last checkpoint: weights, momentum, and the step they are of |
| ``best.safetensors`` | the checkpoint of the epoch with the best validation accuracy |
| ``epoch-0012.safetensors`` | checkpoints of some last epochs, where they are kept |
| ``log.jsonl`` | a line for every step and every epoch |
| ``curve.png`` | loss and accuracy |
| ``features.safetensors`` | what the frozen part gives for each image, where that is cached |
| ``lock`` | held while a process trains into the folder |

The checkpoint is the truth, and replacing it is what takes a run forward: the log's lines are on
the disk before it and those after its step are dropped on resuming, and ``best`` is put right from
the two. ``run.toml`` is the last file of a new run to be written.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from densespec.atomic import atomic_path
from densespec.errors import DensespecError
from densespec.network.arrays import Arrays
from densespec.network.graph import Graph
from densespec.network.spec import DenseNetSpec
from densespec.recipes.recipe import TrainingRecipe
from densespec.training.errors import Diverged, TrainingError
from densespec.training.lock import locked
from densespec.training.log import Log, Record
from densespec.version import __version__
from densespec.weights.checkpoint import (
    Checkpoint,
    TrainingState,
    read_checkpoint,
    write_checkpoint,
)

FORMAT = 1
RUN, LOG, CURVE, LOCK = "run.toml", "log.jsonl", "curve.png", "lock"
LAST, BEST, FEATURES = "last.safetensors", "best.safetensors", "features.safetensors"
DROPOUTS = ("exact", "framework")


@dataclass(frozen=True)
class Stretch:
    """Steps that one process took.

    Attributes:
        backend: that took them.
        from_step: steps done before.
        devices: it used.
        time: when it began, as an ISO date.
        version: of densespec.
    """

    backend: str
    from_step: int
    devices: int
    time: str
    version: str

    def record(self) -> dict[str, Any]:
        return {
            "name": self.backend,
            "from_step": self.from_step,
            "devices": self.devices,
            "time": self.time,
            "densespec": self.version,
        }

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Stretch:
        return cls(
            backend=str(record["name"]),
            from_step=int(record["from_step"]),
            devices=int(record["devices"]),
            time=str(record["time"]),
            version=str(record["densespec"]),
        )


@dataclass(frozen=True)
class Run:
    """What is trained: what ``run.toml`` holds.

    Attributes:
        network: as messages call it.
        spec: of the network, the recipe's dropout rate put in.
        data: as :func:`densespec.data.load` takes it; None for arrays, which have to be given
            again.
        fingerprint: of the data.
        size: spatial size of the images.
        trainable_from: the first part that trains; None where all of it does.
        dropout: ``exact`` masks, the same on every backend, or those the ``framework`` draws.
        keep: checkpoints of how many last epochs are kept besides the last and the best.
        log_every: steps between lines of the log.
        validate: whether each epoch ends in a validation.
        stretches: who took which steps, in order.
    """

    network: str
    spec: DenseNetSpec
    recipe: TrainingRecipe
    data: str | None
    fingerprint: str
    size: tuple[int, ...]
    trainable_from: str | None = None
    dropout: str = "exact"
    keep: int = 0
    log_every: int = 1
    validate: bool = True
    stretches: tuple[Stretch, ...] = ()

    def to_toml(self) -> str:
        import tomli_w

        record: dict[str, Any] = {
            "format": FORMAT,
            "network": self.network,
            "data": self.data,
            "fingerprint": self.fingerprint,
            "size": list(self.size),
            "trainable_from": self.trainable_from,
            "dropout": self.dropout,
            "keep": self.keep,
            "log_every": self.log_every,
            "validate": self.validate,
            "spec": _stated(self.spec.to_dict()),
            "recipe": _stated(self.recipe.to_dict()),
            "backend": [stretch.record() for stretch in self.stretches],
        }
        return tomli_w.dumps(_stated(record))

    @classmethod
    def from_toml(cls, text: str) -> Run:
        import tomllib

        record = tomllib.loads(text)
        if record["format"] != FORMAT:
            raise ValueError(f"format = {record['format']}, but this densespec reads {FORMAT}")
        return cls(
            network=str(record["network"]),
            spec=DenseNetSpec.from_dict(record["spec"]),
            recipe=TrainingRecipe.from_dict(record["recipe"]),
            data=record.get("data"),
            fingerprint=str(record["fingerprint"]),
            size=tuple(int(size) for size in record["size"]),
            trainable_from=record.get("trainable_from"),
            dropout=str(record["dropout"]),
            keep=int(record["keep"]),
            log_every=int(record["log_every"]),
            validate=bool(record["validate"]),
            stretches=tuple(map(Stretch.from_record, record["backend"])),
        )

    def begun(self, backend: str, devices: int, step: int) -> Run:
        """The run as another process goes on with it, which drops what it takes again."""

        stretch = Stretch(backend, step, devices, now(), __version__)
        before = tuple(s for s in self.stretches if s.from_step < step)
        return replace(self, stretches=(*before, stretch))


def _stated(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record without what is none: TOML has no null."""
    return {name: value for name, value in record.items() if value is not None}


def now() -> str:
    """The time as an ISO date, to the millisecond."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")


def read_run(folder: str | os.PathLike[str]) -> Run:
    """What a folder's run trains.

    Raises:
        TrainingError: there is no run in it, or ``run.toml`` is damaged.
    """
    path = Path(folder) / RUN
    try:
        return Run.from_toml(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise TrainingError(f"{folder} holds no run: there is no {RUN} in it") from None
    except OSError as error:
        raise TrainingError(f"{path}: {error.strerror or error}") from error
    except (DensespecError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise TrainingError(f"{path} does not describe a run: {error}") from error


class RunFolder:
    """The folder of a run that this process trains into.

    Attributes:
        path: of the folder.
        run: what is trained.
        log: open at the last checkpoint's step.
    """

    def __init__(self, path: Path, run: Run, log: Log) -> None:
        self.path, self.run, self.log = path, run, log
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
            write_checkpoint(self.last, graph, arrays, state)
            _sync(self.path)
            self._put_right()

    def write_run(self, run: Run) -> None:
        self.run = run
        _write_run(self.path, run)

    def _put_right(self) -> None:
        """Bring the other checkpoints to where the last one and the log are."""
        epochs = self.log.epochs()
        if not epochs or epochs[-1] is not self.log.records[-1]:
            return
        if best_of(epochs) is epochs[-1]:
            _copy(self.last, self.best)
        if self.run.keep:
            _copy(self.last, self.path / f"epoch-{epochs[-1]['epoch']:04}.safetensors")
        old = sorted(self.path.glob("epoch-[0-9]*.safetensors"))
        for path in old[: max(0, len(old) - self.run.keep)]:
            path.unlink()


@contextlib.contextmanager
def new_folder(
    path: Path, run: Run, graph: Graph, arrays: Arrays, state: TrainingState
) -> Iterator[RunFolder]:
    """Make the folder of a new run.

    Raises:
        TrainingError: there is a run in it, or files that this one would replace, or it can't be
            written into.
    """
    _make(path)
    with locked(path / LOCK):
        _check_empty(path)
        _sweep(path)
        with kept(None):
            write_checkpoint(path / LAST, graph, arrays, state)
            for name in (LOG, BEST, CURVE):
                (path / name).unlink(missing_ok=True)
            _write_run(path, run)
        with Log.open(path / LOG, up_to_step=0) as log:
            yield RunFolder(path, run, log)


@contextlib.contextmanager
def old_folder(path: Path) -> Iterator[tuple[RunFolder, Checkpoint, TrainingState]]:
    """Take up the run in a folder at its last checkpoint.

    Raises:
        TrainingError: there is no run in it, or its files do not belong together.
    """
    read_run(path)
    _check_writable(path)
    with locked(path / LOCK):
        _sweep(path)
        run = read_run(path)
        checkpoint, state = read_last(path, run)
        with Log.open(path / LOG, up_to_step=state.step) as log:
            yield RunFolder(path, run, log), checkpoint, state


def read_last(path: Path, run: Run) -> tuple[Checkpoint, TrainingState]:
    """The last checkpoint of a run, which has to be of that run.

    Raises:
        TrainingError: it is of another one.
        WeightsError: it is absent or damaged.
    """
    checkpoint = read_checkpoint(path / LAST)
    state = checkpoint.training
    if state is None:
        raise TrainingError(f"{path / LAST} is no checkpoint of a training run")
    differing = differences(checkpoint.spec, run.spec) + [
        line for line in differences(state.recipe, run.recipe) if not line.startswith("epochs ")
    ]
    if state.trainable_from != run.trainable_from:
        differing.append(
            f"trainable_from is {state.trainable_from!r}, but {run.trainable_from!r} here"
        )
    if differing:
        raise TrainingError(
            f"{path / LAST} is not of the run that {RUN} describes: {'; '.join(differing)}"
        )
    return checkpoint, state


def best_of(epochs: Sequence[Record]) -> Record | None:
    """The first of the epochs with the best validation accuracy; None where none has one."""
    known = [epoch for epoch in epochs if epoch["validation_accuracy"] is not None]
    return max(known, key=lambda epoch: epoch["validation_accuracy"], default=None)


def differences(
    there: DenseNetSpec | TrainingRecipe, here: DenseNetSpec | TrainingRecipe
) -> list[str]:
    """In which fields two records of one kind differ, in words."""
    ours = here.to_dict()
    return [
        f"{name} is {value!r} there, but {ours[name]!r} here"
        for name, value in there.to_dict().items()
        if value != ours[name]
    ]


def _check_finite(arrays: Arrays, state: TrainingState, last: Path) -> None:
    for name, array in (*arrays.items(), *state.velocity.items()):
        if not np.isfinite(array).all():
            raise Diverged(
                state.step,
                f"after step {state.step}, {name} holds values that are not finite: the run has "
                f"diverged. {advice(last)}",
            )


def advice(last: Path) -> str:
    """What to do about a run that diverged."""
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
    from densespec.errors import WeightsError

    try:
        yield
    except (OSError, WeightsError) as error:
        text = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else str(error)
        rest = f"; {last} is whole: make room, and resume" if last is not None else ""
        raise TrainingError(f"{text}{rest}") from error


def _make(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror or error
        raise TrainingError(f"{path} can't be made a folder: {reason}") from error
    _check_writable(path)


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
    for name in (RUN, LOG, CURVE, LAST, BEST, FEATURES, "epoch-*.safetensors"):
        for unfinished in path.glob(f".{name}.*.tmp"):
            unfinished.unlink()


def _write_run(path: Path, run: Run) -> None:
    with kept(path / LAST), atomic_path(path / RUN) as temporary:
        temporary.write_text(run.to_toml(), encoding="utf-8")
    _sync(path)


def _copy(source: Path, target: Path) -> None:
    """The file under another name as well: a link where there are links, since none is changed."""
    with atomic_path(target) as temporary:
        temporary.unlink()
        try:
            os.link(source, temporary)
        except OSError:
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
