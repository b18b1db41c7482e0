"""Plans what a run would do, and checks it before anything is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from densespec.backends import (
    Backend,
    LaunchableBackend,
    ParallelBackend,
    get_backend,
    split_mode,
)
from densespec.data import Batches, Dataset
from densespec.errors import Untrainable, shown
from densespec.network.arrays import Arrays
from densespec.network.graph import Graph
from densespec.network.initial import initial_weights
from densespec.pretrained.accompaniment import Accompaniment
from densespec.recipes.moments import initial_moments
from densespec.recipes.recipe import TrainingRecipe
from densespec.recipes.schedules import FALLING
from densespec.training.bequest import bequest_of
from densespec.training.errors import TrainingError
from densespec.training.features import may_cache
from densespec.training.folder import read_last
from densespec.training.keywords import takes_options
from densespec.training.metrics import check_metrics
from densespec.training.options import RunOptions
from densespec.training.processes import launched
from densespec.training.progress import Course, ProgressListener
from densespec.training.resolve import Resolved, resolve_options
from densespec.training.run import RUN, TrainingRun, read_run
from densespec.weights.checkpoint import TrainingState
from densespec.weights.given import fitted, opened
from densespec.weights.reading import FITTED


@dataclass(frozen=True, eq=False, kw_only=True)
class TrainingPlan:
    """Holds everything that a run will do, worked out and checked.

    Attributes:
        folder: the folder of the run.
        run: the description of what is trained.
        dataset: the data set that it is trained on.
        graph: the network at the size of the images, frozen as the run says.
        training: the batches to train on.
        validation: the batches on which the network is judged after each epoch.
        backend: the name of the backend that goes on.
        engine: the backend itself.
        devices: the number of devices that it uses.
        rank: the number of this process; 0 if no launcher started it.
        launched: whether a launcher started this process.
        caches: whether the features of the frozen part are cached.
        start: the weights and the state of a new run; None for a resumed run.
        bequest: the accompaniment of the weights of a new run.
        step: the step at which it begins.
        notes: sentences that say what a user should know.
        progress: whether to show progress on stderr, or the listener that is told.
    """

    folder: Path
    run: TrainingRun
    dataset: Dataset
    graph: Graph
    training: Batches
    validation: Batches
    backend: str
    engine: Backend
    devices: int
    rank: int
    launched: bool
    caches: bool
    start: tuple[Arrays, TrainingState] | None
    bequest: Accompaniment
    step: int
    notes: tuple[str, ...]
    progress: bool | ProgressListener

    @property
    def course(self) -> Course:
        """Say how long the run is, and how far it has come."""
        return Course(self.run.recipe.epochs, len(self.training), self.step)


@takes_options
def plan_of(said: dict[str, Any]) -> TrainingPlan:
    """Plan what :func:`densespec.train` would do with these options.

    Args:
        {options}

    Raises:
        TrainingError: the run can't be made or resumed like this.
        DensespecError: a spec, a recipe, data or weights are not what they should be.
    """
    return _resumed(said) if said.get("resume") else _new(RunOptions(**said))


def _new(options: RunOptions) -> TrainingPlan:
    if options.backend is None:
        raise TrainingError("give the backend to train on, such as 'torch.nn' or 'jax'")
    resolved = resolve_options(options)
    recipe, graph = resolved.run.recipe, resolved.graph
    arrays, notes = _initial(graph, options, recipe.seed), list[str]()
    if options.weights is None and graph.trainable_from is not None:
        notes.append("what is frozen keeps its random initial weights: no weights were given")
    dtype = "float64" if recipe.dtype == "float64" else "float32"
    moments = initial_moments(graph, recipe, arrays, dtype)
    state = TrainingState(0, recipe, moments, resolved.run.trainable_from)
    return _planned(options, resolved, (arrays, state), 0, notes)


def _resumed(said: dict[str, Any]) -> TrainingPlan:
    folder = Path(said["out"])
    stored = read_run(folder)
    _, state = read_last(folder, stored)
    if stored.data is None and "data" not in said:
        raise TrainingError("the run was given its data as arrays: give them again")
    if "backend" not in said:
        _check_published(folder, stored.stretches[-1].backend)
    options = RunOptions(**stored.words() | said)
    resolved = resolve_options(options, trained_on=stored.fingerprint)
    _check_same(options, stored, resolved.run)
    run = resolved.run.replace(network=stored.network, data=stored.data, stretches=stored.stretches)
    notes = [*_new_epochs(stored.recipe, run.recipe), *_new_place(options, stored)]
    plan = _planned(options, replace(resolved, run=run), None, state.step, notes)
    if plan.step > plan.course.steps:
        raise TrainingError(
            f"{plan.step} steps of the run are done, but {run.recipe.epochs} epochs have "
            f"{plan.course.steps}: give more epochs"
        )
    if plan.step == plan.course.steps:
        done = f"all {run.recipe.epochs} epochs are done: more of them take the run further"
        return replace(plan, notes=(*plan.notes, done))
    return plan


def _check_published(folder: Path, backend: str) -> None:
    """Refuse a backend that a file in a folder names as a module, which it would import.

    Raises:
        TrainingError: says how to name it.
    """
    if ":" in backend:
        raise TrainingError(
            f"{folder / RUN} names the backend {shown(backend)}, a module to import, which no file "
            "may choose: give it again, as --backend, if you trust it"
        )


def _planned(
    options: RunOptions,
    resolved: Resolved,
    start: tuple[Arrays, TrainingState] | None,
    step: int,
    notes: Sequence[str],
) -> TrainingPlan:
    assert options.backend is not None, "it has been given, or is that of the run"
    if split_mode(options.backend)[1] == "inference":
        raise Untrainable(options.backend)
    run, dataset, graph = resolved.run, resolved.dataset, resolved.graph
    engine = get_backend(options.backend)
    place = launched(engine)
    rank, devices = place or (0, options.devices)
    images = len(dataset.train) + len(dataset.test)
    caches, note = may_cache(options.cache_features, graph, run.recipe, devices, images)
    kind: dict[str, Any] = {
        "size": run.size,
        "dtype": "float64" if run.recipe.dtype == "float64" else "float32",
    }
    training = Batches.for_training(dataset, run.recipe, **kind)
    training.check_norms(graph, devices)
    run.recipe.check_classes(graph.spec.classes)
    dataset.check_loss(run.recipe.loss)
    check_metrics(run.recipe, run.metrics, run.best)
    _check_devices(options.backend, engine, devices)
    _check_parts(dataset, run.recipe, devices)
    return TrainingPlan(
        folder=Path(options.out),
        run=run,
        dataset=dataset,
        graph=graph,
        training=training,
        validation=Batches.for_test(dataset, batch_size=run.recipe.batch_size, **kind),
        backend=options.backend,
        engine=engine,
        devices=devices,
        rank=rank,
        launched=place is not None,
        caches=caches,
        start=start,
        bequest=bequest_of(dataset, graph, options.weights, options.reading, loss=run.recipe.loss),
        step=step,
        notes=(*resolved.notes, *notes, *([note] if note else [])),
        progress=options.progress,
    )


def _check_devices(backend: str, engine: Backend, devices: int) -> None:
    if devices > 1 and not isinstance(engine, ParallelBackend | LaunchableBackend):
        raise TrainingError(f"{backend} trains on one device only: leave out --devices")


def _check_parts(dataset: Dataset, recipe: TrainingRecipe, devices: int) -> None:
    """Refuse batches that can't be split into parts, and each part among devices."""
    parts, left = recipe.accumulate, len(dataset.train) % recipe.batch_size
    small = next((n for n in (recipe.batch_size, left) if 0 < n < parts * devices), None)
    if small is None:
        return
    what = "the last batch of an epoch" if small == left else "a batch"
    into = [f"accumulate = {parts} parts"] * (parts > 1) + [f"{devices} devices"] * (devices > 1)
    raise TrainingError(
        f"{what} has {small} images, which can't be split among {' on '.join(into)}: choose a "
        f"batch_size of at least {parts * devices} that leaves as many, or none"
    )


def _initial(graph: Graph, options: RunOptions, seed: int) -> Arrays:
    """Return the first weights: the given ones, with a new head if theirs does not fit."""
    reading = options.reading.replace(**{name: getattr(graph.spec, name) for name in FITTED})
    with opened(options.weights, graph.spec, reading) as given:
        if given is None:
            return initial_weights(graph, seed)
        return fitted(graph, given, new_head=seed)


def _check_same(options: RunOptions, stored: TrainingRun, here: TrainingRun) -> None:
    """Refuse to continue a run as a different one.

    Raises:
        TrainingError: lists what differs.
    """
    differing = stored.differences(here)
    if options.weights is not None:
        differing.append("weights are given, but the run has its own")
    if differing:
        raise TrainingError(
            f"{options.out} is another run, which can't go on like this: {'; '.join(differing)}. "
            "Train into a new folder instead; --weights starts from the weights of any run"
        )


def _new_epochs(before: TrainingRecipe, after: TrainingRecipe) -> list[str]:
    """Say what a user should know of another number of epochs."""
    if after.epochs == before.epochs:
        return []
    notes = [f"{after.epochs} epochs, not {before.epochs}"]
    if after.schedule in FALLING:
        notes.append("from here, the learning rate follows the course of a run of so many epochs")
    old, new = ([e for e in r.drop_epochs() if e < r.epochs] for r in (before, after))
    if old != new and not after.drop_every:
        notes.append(
            f"the learning rate drops after {_listed(new)}, not after {_listed(old)}: the "
            "milestones are fractions of the epochs; in a recipe whose milestones are epochs they "
            "stay"
        )
    return notes


def _listed(epochs: Sequence[int]) -> str:
    noun = "epochs" if len(epochs) > 1 else "epoch"
    return f"{noun} {' and '.join(map(str, epochs))}" if epochs else "no epoch"


def _new_place(options: RunOptions, stored: TrainingRun) -> list[str]:
    """Say what a user should know of another backend, or another number of devices."""
    last, notes = stored.stretches[-1], []
    if options.backend != last.backend:
        notes.append(f"goes on in {options.backend}, after {last.backend}")
    if options.devices != last.devices and stored.recipe.batch_norm == "per-replica":
        notes.append(
            f"goes on with {options.devices} devices, after {last.devices}: norms then see other "
            "parts of a batch, since batch_norm is 'per-replica'"
        )
    return notes
