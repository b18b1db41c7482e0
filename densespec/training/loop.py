"""Runs the training loop: steps, validation and checkpoints, and stops well."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np

from densespec.backends import (
    ConfigurableBackend,
    ParallelBackend,
    ProcessGroup,
    Trainer,
)
from densespec.data import Batches, dropout_masks
from densespec.network.arrays import Arrays
from densespec.network.graph import Graph
from densespec.training import features
from densespec.training.confusion import write_confusion
from densespec.training.curve import can_draw, draw_curve
from densespec.training.errors import Diverged, TrainingError
from densespec.training.folder import (
    CURVE,
    FEATURES,
    LAST,
    LOG,
    RunFolder,
    advice,
    best_of,
    kept,
    new_folder,
    old_folder,
    read_last,
)
from densespec.training.log import EpochLine, LogLine, StepLine, read_log
from densespec.training.means import Means
from densespec.training.metrics import Judgement
from densespec.training.plan import TrainingPlan
from densespec.training.processes import agreed, joined, part_of
from densespec.training.progress import Both, ProgressListener, listener
from densespec.training.result import RunResult
from densespec.training.run import now
from densespec.training.stop import Stop
from densespec.training.tensorboard import FOLDER, TensorBoard
from densespec.weights.checkpoint import TrainingState

REDRAWN = 30.0
"""The curve is drawn again after this many seconds, and at the end."""


def _trainer(
    plan: TrainingPlan,
    graph: Graph,
    arrays: Mapping[str, np.ndarray],
    state: TrainingState,
    group: ProcessGroup,
) -> Trainer:
    """Make the planned trainer of a graph, on one device or several, from a state on."""
    engine, recipe = plan.engine, state.recipe
    own = {weight.name: arrays[weight.name] for weight in graph.weights}
    if plan.devices > 1 and group.size == 1:
        trainer = _parallel(plan).parallel_trainer(
            graph, own, recipe, replicas=plan.devices, dtype=recipe.dtype
        )
    else:
        model = engine.build(
            graph, own, dtype=recipe.dtype, data_format=engine.data_format(None), name="densenet"
        )
        trainer = engine.trainer(group.place(model), graph, recipe)
    if state.step:
        trainer.restore(state.moments, step=state.step)
    return trainer


def _parallel(plan: TrainingPlan) -> ParallelBackend:
    if not isinstance(plan.engine, ParallelBackend):
        raise TrainingError(
            f"{plan.backend} trains on several devices by a process for each: start them by "
            f"`densespec train --devices {plan.devices}`"
        )
    return plan.engine


class _Session:
    """Holds one process's part of a run.

    Attributes:
        step: the number of steps done.
        closed: the number of epochs that are done, including validation.
        part: gives the places of this process's samples in a batch; None if all are its own.
        folder: the run's folder; None in a process that writes nothing.
    """

    def __init__(
        self,
        plan: TrainingPlan,
        group: ProcessGroup,
        folder: RunFolder | None,
        arrays: Mapping[str, np.ndarray],
        state: TrainingState,
        listener: ProgressListener,
        stop: Stop,
    ) -> None:
        self.plan, self.group, self.folder = plan, group, folder
        self.listener, self.stop = listener, stop
        self.step, self.recipe = state.step, plan.run.recipe
        self.part = part_of(group, self.recipe)
        self.per_epoch = len(plan.training)
        self.graph, self.batches, self.validation = self._inputs(arrays)
        self.frozen = dict(arrays) if plan.caches else {}
        state = replace(state, recipe=self.recipe)
        self.trainer = _trainer(plan, self.graph, arrays, state, group)
        self._records = self._log()
        self.closed = self._epochs_closed()
        self.means = self._means_so_far()
        self._judged: Judgement | None = None
        self._unlogged: StepLine | None = None
        self._saved, self._drawn = state.step, time.monotonic()
        self._clock = self._epoch_clock = time.perf_counter()
        self._stopping = False

    def _inputs(
        self, arrays: Mapping[str, np.ndarray]
    ) -> tuple[Graph, Batches | features.FeatureBatches, Batches | features.FeatureBatches]:
        """Choose what trains on what: the network on images, or its unfrozen part on features."""
        plan = self.plan
        if not plan.caches:
            return plan.graph, replace(plan.training, part=self.part), plan.validation
        parts = features.cut(plan.graph)
        images = {"train": plan.training}
        if plan.run.validate:
            images["test"] = plan.validation
        found = features.cached(
            plan.folder / FEATURES,
            features.fingerprint(parts, arrays, plan.run.fingerprint, self.recipe.dtype),
            plan.engine,
            parts,
            arrays,
            images,
            dtype=self.recipe.dtype,
            advance=self.listener.features,
        )
        train = features.FeatureBatches(plan.training, found["train"])
        if not plan.run.validate:
            return parts.after, train, train
        return parts.after, train, features.FeatureBatches(plan.validation, found["test"])

    def run(self) -> None:
        """Train until the last epoch is done or a stop is wished for."""
        self.listener.begin(self.plan.course)
        self._clock = self._epoch_clock = time.perf_counter()
        while not self.done and not self._stop_wished():
            if self._train_epoch() and self._validated():
                self._epoch_clock = time.perf_counter()
        if self.step != self._saved:
            self._save(self.trainer.weights())
        self._draw(always=True)

    @property
    def done(self) -> bool:
        """Say whether all epochs are done, or no epoch was better for too long."""
        return self.closed >= self.recipe.epochs or self._exhausted()

    def _exhausted(self) -> bool:
        patience, epochs = self.plan.run.patience, self._epoch_lines()
        best = best_of(epochs, self.plan.run.judged_by)
        late = best is not None and epochs[-1]["epoch"] - best["epoch"] >= (patience or math.inf)
        return self.group.any(late)

    def _epoch_lines(self) -> list[LogLine]:
        return self.folder.log.epochs() if self.folder is not None else []

    def _log(self) -> list[LogLine]:
        """Return the log up to the checkpoint, which every process has to know."""
        if self.folder is not None:
            return self.folder.log.records
        records = read_log(self.plan.folder / LOG) if self.step else []
        return [record for record in records if record["step"] <= self.step]

    def _epochs_closed(self) -> int:
        whole, position = divmod(self.step, self.per_epoch)
        return whole - 1 if not position and self._last_step is not None else whole

    @property
    def _last_step(self) -> LogLine | None:
        """Return the log's last line, if it belongs to the checkpoint's step."""
        last = self._records[-1] if self._records else None
        here = last is not None and last["kind"] == "step" and last["step"] == self.step
        return last if here else None

    def _means_so_far(self) -> Means:
        """Continue the means of a checkpoint's epoch from the log's last line."""
        samples = min(
            (self.step - self.closed * self.per_epoch) * self.recipe.batch_size,
            len(self.plan.dataset.train),
        )
        last = self._last_step
        if last is None:
            return Means()
        accuracy = last["epoch_accuracy"]
        correct = None if accuracy is None else round(accuracy * samples)
        return Means(samples, last["epoch_loss"], correct)

    def _train_epoch(self) -> bool:
        """Take the steps of an epoch that are left; False if a stop was wished for."""
        start = self.step - self.closed * self.per_epoch
        batches = self.batches.epoch(self.closed, start)
        with contextlib.closing(batches):  # type: ignore[type-var]
            for x, labels in batches:
                self._take(x, labels)
                if self._stop_wished():
                    return False
        return True

    def _take(self, x: np.ndarray, labels: np.ndarray) -> None:
        """Take a step on this process's part of a batch."""
        rate, count = self._rate(self.step), self._samples()
        done = self.trainer.step(
            x, labels, learning_rate=rate, masks=self._masks(count), gradients=False
        )
        self.step += 1
        if not math.isfinite(done.loss):
            self._diverged(done.loss, rate)
        self.means.add(done.loss, done.correct, count)
        before, self._clock = self._clock, time.perf_counter()
        line = StepLine(
            time=now(),
            epoch=self.closed + 1,
            step=self.step,
            loss=done.loss,
            accuracy=None if done.correct is None else done.correct / count,
            epoch_loss=self.means.loss,
            epoch_accuracy=self.means.accuracy,
            learning_rate=rate,
            images_per_second=round(count / max(self._clock - before, 1e-9), 2),
            backend=self.plan.backend,
        )
        self._unlogged = line
        if self.step % self.plan.run.log_every == 0:
            self._write_line()
        self.listener.step(line)

    def _samples(self) -> int:
        """Return the number of samples of the next step, including those of other processes."""
        return len(self.plan.training.rows(*divmod(self.step, self.per_epoch)))

    def _rate(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0."""
        return self.recipe.rate_of_step(step, self.per_epoch)

    def _masks(self, count: int) -> dict[str, np.ndarray] | None:
        """Draw the next step's masks; None if the framework draws them, or nothing is dropped."""
        if self.plan.run.dropout != "exact":
            return None
        part = None if self.part is None else self.part(count)
        return dropout_masks(self.graph, self.recipe.seed, self.step, count, part=part) or None

    def _diverged(self, loss: float, rate: float) -> None:
        raise Diverged(
            self.step,
            f"the loss of step {self.step} (epoch {self.closed + 1}, learning rate {rate:g}) is "
            f"{loss}: the run has diverged. {advice(self.plan.folder / LAST)}",
        )

    def _validated(self) -> bool:
        """Close an epoch; False if a stop was wished for before that was done."""
        arrays = self.trainer.weights()  # brings the statistics of several devices together
        judged = Judgement(self.recipe, self.plan.run.metrics, self.plan.dataset.classes)
        if self.plan.run.validate and self.folder is not None:
            total = len(self.validation)
            for done, (x, labels) in enumerate(self.validation.epoch(0), start=1):
                judged.add(self.trainer.predict(x), labels)
                self.listener.validation(done, total)
                if self.stop and self.group.size == 1:
                    return False
        seen = judged.means.samples > 0
        line = EpochLine(
            time=now(),
            epoch=self.closed + 1,
            step=self.step,
            loss=self.means.loss,
            accuracy=self.means.accuracy,
            validation_loss=judged.loss if seen else None,
            validation_accuracy=judged.accuracy if seen else None,
            metrics=judged.figures() if seen else {},
            learning_rate=self._rate(self.step - 1),
            seconds=round(time.perf_counter() - self._epoch_clock, 3),
            backend=self.plan.backend,
        )
        self.closed, self.means, self._judged = self.closed + 1, Means(), judged
        self._save(arrays, line)
        self.listener.epoch(line)
        self._draw(always=False)
        self._clock = time.perf_counter()
        return True

    def _save(self, arrays: Arrays, line: EpochLine | None = None) -> None:
        """Write a checkpoint, after the log that leads to it."""
        state = TrainingState(
            self.step, self.recipe, self.trainer.moments(), self.plan.run.trainable_from
        )
        if self.folder is not None:
            self._write_line()
            if line is not None:
                with kept(self.folder.last):
                    self.folder.log.append(line)
            self.folder.save(self.plan.graph, self.frozen | arrays, state)
        self._saved = self.step

    def _write_line(self) -> None:
        if self.folder is not None and self._unlogged is not None:
            with kept(self.folder.last):
                self.folder.log.append(self._unlogged)
        self._unlogged = None

    def _stop_wished(self) -> bool:
        self._stopping = self._stopping or self.group.any(bool(self.stop))
        return self._stopping

    def _draw(self, *, always: bool) -> None:
        if self.folder is None or not self.folder.log.records:
            return
        if always or time.monotonic() - self._drawn > REDRAWN:
            with kept(self.folder.last):
                self._draw_confusion(self.folder)
                if not can_draw():
                    return
                draw_curve(
                    self.folder.log.records,
                    self.folder.path / CURVE,
                    title=f"{self.plan.run.network} on {self.plan.dataset.name}",
                    epochs=self.recipe.epochs,
                    steps_per_epoch=self.per_epoch,
                )
            self._drawn = time.monotonic()

    def _draw_confusion(self, folder: RunFolder) -> None:
        """Write which classes were taken for which after the last epoch that is done."""
        if self._judged is None or self._judged.confusion is None:
            return
        dataset = self.plan.dataset
        write_confusion(
            folder.path,
            self._judged.confusion,
            dataset.classes,
            title=f"{dataset.name} after epoch {self.closed}",
            draws=can_draw(),
        )


def carry_out(plan: TrainingPlan) -> RunResult:
    """Train as planned. SIGINT and SIGTERM end it after the step it is at, with a checkpoint.

    Raises:
        TrainingError: it can't start or go on; the message says what to do.
        Diverged: the loss is not finite.
    """
    told = listener(plan.progress if plan.rank == 0 else False)
    if plan.run.tensorboard and plan.rank == 0:
        told = Both(told, TensorBoard(plan.folder / FOLDER))
    with Stop(patient=plan.launched) as stop:
        try:
            for note in plan.notes:
                told.note(note)
            return _carried_out(plan, told, stop)
        finally:
            told.end()


def _carried_out(plan: TrainingPlan, told: ProgressListener, stop: Stop) -> RunResult:
    if isinstance(plan.engine, ConfigurableBackend):
        plan.engine.configure(plan.run.recipe)
    group = joined(plan.engine)
    if not agreed(group, plan.run.fingerprint):
        raise TrainingError(
            "the processes of the run have other data than each other: give all of them the same "
            "files, whole and in the same order"
        )
    with _folder(plan, told) as (folder, arrays, state):
        session = _Session(plan, group, folder, arrays, state, told, stop)
        with contextlib.closing(session.trainer):
            session.run()
        return RunResult(
            folder=plan.folder,
            finished=session.done,
            judged_by=plan.run.judged_by,
            signal=stop.signal,
            step=session.step,
            epochs=tuple(folder.log.epochs()) if folder is not None else (),
        )


@contextlib.contextmanager
def _folder(
    plan: TrainingPlan, told: ProgressListener
) -> Iterator[tuple[RunFolder | None, Arrays, TrainingState]]:
    """Open the run's folder and read its state. Processes that do not write have no folder."""
    if plan.rank > 0:
        if plan.start is not None:
            yield None, *plan.start
        else:
            checkpoint, state = read_last(plan.folder, plan.run)
            yield None, checkpoint.arrays, state
        return
    with contextlib.ExitStack() as stack:
        if plan.start is not None:
            arrays, state = plan.start
            begun = plan.run.begun(plan.backend, plan.devices, 0)
            folder = stack.enter_context(
                new_folder(plan.folder, begun, plan.graph, arrays, state, plan.bequest, told.note)
            )
        else:
            folder, checkpoint, state = stack.enter_context(old_folder(plan.folder, told.note))
            arrays = checkpoint.arrays
            if state.step < plan.course.steps:
                folder.write_run(plan.run.begun(plan.backend, plan.devices, state.step))
        yield folder, arrays, state
