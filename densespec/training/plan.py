"""What a run would do, worked out and checked before anything is written."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from densespec.backends import split_mode
from densespec.building import WeightsLike, spec_of_file, weights_for
from densespec.data import Batches, Dataset, fits, load
from densespec.errors import Untrainable, WeightsError
from densespec.network.arrays import Arrays
from densespec.network.catalogue import SpecLike, resolve
from densespec.network.files import SUFFIXES
from densespec.network.graph import Graph, freeze, lower
from densespec.network.initial import initial_weights
from densespec.network.ops import Dropout
from densespec.network.spec import DenseNetSpec
from densespec.recipes.presets import RecipeLike, get_recipe
from densespec.recipes.recipe import TrainingRecipe
from densespec.training.errors import TrainingError
from densespec.training.features import may_cache
from densespec.training.ranks import launched, processes
from densespec.training.run import DROPOUTS, Run, differences, read_last, read_run
from densespec.transfer_learning import trained_part
from densespec.weights.checkpoint import TrainingState

DIGITS = "digits"
"""The data where none are given: scikit-learn's."""

NUMPY = "numpy"

Cache = bool | Literal["auto"]
DataLike = str | os.PathLike[str] | Dataset

SAMPLED = 16
"""Images of each split that the fingerprint of data looks at."""


@dataclass(frozen=True)
class Options:
    """What a user may say; see :func:`densespec.training.train`."""

    out: Path
    spec: SpecLike | None = None
    recipe: RecipeLike | None = None
    data: DataLike | None = None
    backend: str | None = None
    resume: bool = False
    epochs: int | None = None
    weights: WeightsLike | None = None
    trainable_from: str | None = None
    head_units: Sequence[int] | None = None
    classes: int | None = None
    size: Sequence[int] | None = None
    devices: int | None = None
    cache_features: Cache = "auto"
    dropout: str | None = None
    keep: int | None = None
    log_every: int | None = None
    validate: bool | None = None


@dataclass(frozen=True, eq=False)
class Plan:
    """What will be done.

    Attributes:
        folder: of the run.
        run: what is trained.
        dataset: what on.
        graph: of the network, at the size of the images, frozen where the run says.
        backend: that goes on.
        devices: how many it uses.
        caches: whether the features of the frozen part are cached.
        start: weights and state of a new run; None for one that is resumed.
        step: where it begins.
        notes: what a user should know, in sentences.
    """

    folder: Path
    run: Run
    dataset: Dataset
    graph: Graph
    backend: str
    devices: int
    caches: bool
    start: tuple[Arrays, TrainingState] | None
    step: int
    notes: tuple[str, ...]

    @property
    def batches(self) -> Batches:
        """What is trained on."""
        recipe = self.run.recipe
        return Batches(
            self.dataset.train,
            self.dataset.normalisation,
            batch_size=recipe.batch_size,
            seed=recipe.seed,
            augmentation=recipe.augmentation,
            size=self.run.size,
            dtype=self._dtype,
        )

    @property
    def validation(self) -> Batches:
        """What the network is judged by after each epoch."""
        return Batches(
            self.dataset.test,
            self.dataset.normalisation,
            batch_size=self.run.recipe.batch_size,
            shuffle=False,
            size=self.run.size,
            dtype=self._dtype,
        )

    @property
    def steps(self) -> int:
        """Of the whole run."""
        return self.run.recipe.epochs * len(self.batches)

    @property
    def _dtype(self) -> str:
        return "float64" if self.run.recipe.dtype == "float64" else "float32"


def plan_of(options: Options) -> Plan:
    """What a run would do.

    Raises:
        TrainingError: the run can't be made or resumed so.
        DensespecError: a spec, a recipe, data or weights that are not what they should be.
    """
    _check(options)
    if launched():
        options = replace(options, devices=processes())
    return _resumed(options) if options.resume else _new(options)


def _check(options: Options) -> None:
    for name, least in (("devices", 1), ("epochs", 1), ("keep", 0), ("log_every", 1)):
        value = getattr(options, name)
        if value is not None and value < least:
            raise TrainingError(f"{name} = {value}, but should be at least {least}")
    if options.dropout not in (None, *DROPOUTS):
        raise TrainingError(
            f"dropout = {options.dropout!r}, but should be {' or '.join(map(repr, DROPOUTS))}"
        )


def _new(options: Options) -> Plan:
    if options.backend is None:
        raise TrainingError("give the backend to train on, such as 'torch.nn' or 'jax'")
    notes: list[str] = []
    source = _source(options.data)
    recipe, given = _recipe(options, source), _given_spec(options)
    dataset = _dataset(DIGITS if options.data is None else options.data, given)
    spec = recipe.applied_to(_adapted(given, options, dataset, notes))
    graph = fits(dataset, spec, options.size)
    trainable_from = trained_part(options.trainable_from, spec)
    if trainable_from is not None:
        graph = freeze(graph, trainable_from)
    arrays = _initial(graph, options.weights, recipe.seed, notes)
    if options.weights is None and graph.trainable_from is not None:
        notes.append("what is frozen keeps its random initial weights: no weights were given")
    run = Run(
        network=_label(options),
        spec=spec,
        recipe=recipe,
        data=source,
        fingerprint=fingerprint(dataset),
        size=tuple(size for size in graph.input.shape[1:] if size is not None),
        trainable_from=trainable_from,
        dropout=options.dropout or "exact",
        keep=options.keep or 0,
        log_every=options.log_every or 1,
        validate=options.validate is not False,
    )
    state = TrainingState(0, recipe, _rest(graph, recipe), trainable_from)
    return _plan(options, run, dataset, graph, (arrays, state), 0, notes)


def _resumed(options: Options) -> Plan:
    run = read_run(options.out)
    _, state = read_last(options.out, run)
    notes: list[str] = []
    dataset = _dataset(_given_again(options, run), run.spec)
    run = _extended(options, run, notes)
    _check_same(options, run, dataset)
    graph = fits(dataset, run.spec, run.size)
    if run.trainable_from is not None:
        graph = freeze(graph, run.trainable_from)
    last = run.stretches[-1]
    options = replace(
        options, backend=options.backend or last.backend, devices=options.devices or last.devices
    )
    if options.backend != last.backend:
        notes.append(f"goes on in {options.backend}, after {last.backend}")
    if options.devices != last.devices and run.recipe.batch_norm == "per-replica":
        notes.append(
            f"goes on with {options.devices} devices, after {last.devices}: norms then see other "
            "parts of a batch, since batch_norm is 'per-replica'"
        )
    plan = _plan(options, run, dataset, graph, None, state.step, notes)
    if plan.step > plan.steps:
        raise TrainingError(
            f"{plan.step} steps of the run are done, but {run.recipe.epochs} epochs have "
            f"{plan.steps}: give more epochs"
        )
    if plan.step == plan.steps:
        done = f"all {run.recipe.epochs} epochs are done: more of them take the run further"
        return replace(plan, notes=(*plan.notes, done))
    return plan


def _plan(
    options: Options,
    run: Run,
    dataset: Dataset,
    graph: Graph,
    start: tuple[Arrays, TrainingState] | None,
    step: int,
    notes: list[str],
) -> Plan:
    assert options.backend is not None, "it has been filled in"
    if split_mode(options.backend)[1] == "inference":
        raise Untrainable(options.backend)
    images, devices = len(dataset.train) + len(dataset.test), options.devices or 1
    caches, note = may_cache(options.cache_features, graph, run.recipe, devices, images)
    if note:
        notes.append(note)
    if run.recipe.batch_size < devices:
        raise TrainingError(
            f"batch_size = {run.recipe.batch_size} can't be split among {devices} devices"
        )
    if run.dropout == "framework" and options.backend == NUMPY and _drops_values(graph):
        raise TrainingError("numpy draws no dropout of its own: leave out dropout = 'framework'")
    plan = Plan(
        folder=options.out,
        run=run,
        dataset=dataset,
        graph=graph,
        backend=options.backend,
        devices=devices,
        caches=caches,
        start=start,
        step=step,
        notes=tuple(notes),
    )
    plan.batches.check_norms(graph)
    _check_last_batch(plan)
    return plan


def _drops_values(graph: Graph) -> bool:
    return any(isinstance(node.op, Dropout) and not node.frozen for node in graph.nodes)


def _check_last_batch(plan: Plan) -> None:
    left = len(plan.dataset.train) % plan.run.recipe.batch_size
    if 0 < left < plan.devices:
        raise TrainingError(
            f"the last batch of an epoch has {left} images, which can't be split among "
            f"{plan.devices} devices: choose a batch_size that leaves more, or none"
        )


def _source(data: DataLike | None) -> str | None:
    """What is written down of the data: a path is made one that holds from anywhere."""
    if data is None:
        return DIGITS
    if isinstance(data, Dataset):
        return None
    name, colon, place = str(data).partition(":")
    return f"{name}:{Path(place).resolve()}" if colon and Path(place).exists() else str(data)


def _dataset(data: DataLike, spec: DenseNetSpec) -> Dataset:
    if isinstance(data, Dataset):
        return data
    return load(str(data), channels=1 if spec.in_channels == 1 else 3)


def _given_again(options: Options, run: Run) -> DataLike:
    data = run.data if options.data is None else options.data
    if data is None:
        raise TrainingError("the run was given its data as arrays: give them again")
    return data


def _recipe(options: Options, source: str | None) -> TrainingRecipe:
    if options.recipe is None and source != DIGITS:
        raise TrainingError(
            "give the recipe to train by: a name that `densespec recipes` lists, or a recipe file"
        )
    recipe = get_recipe(DIGITS if options.recipe is None else options.recipe)
    return recipe if options.epochs is None else recipe.replace(epochs=options.epochs)


def _given_spec(options: Options) -> DenseNetSpec:
    if options.spec is not None:
        return resolve(options.spec)
    if options.weights is None:
        raise TrainingError("give a spec, or weights of a file that tells it")
    return spec_of_file(options.weights)


def _adapted(
    spec: DenseNetSpec, options: Options, dataset: Dataset, notes: list[str]
) -> DenseNetSpec:
    """The network, with channels and classes of the data where it was only named."""
    if options.head_units is not None:
        spec = spec.replace(head_units=tuple(options.head_units))
    if options.classes is not None:
        return spec.replace(classes=options.classes)
    if not _is_named(options.spec):
        return spec
    wanted = {"classes": len(dataset.classes)}
    if options.weights is None:
        wanted["in_channels"] = dataset.channels
    for field, value in wanted.items():
        if getattr(spec, field) != value:
            notes.append(f"{field} = {value} as in {dataset.name}, not {getattr(spec, field)}")
    return spec.replace(**wanted)


def _is_named(spec: SpecLike | None) -> bool:
    """Whether a network is given by a name, or by its weights, rather than field by field."""
    return spec is None or (isinstance(spec, str) and Path(spec).suffix not in SUFFIXES)


def _label(options: Options) -> str:
    if isinstance(options.spec, str | os.PathLike):
        path = Path(options.spec)
        return path.stem if path.suffix in SUFFIXES else str(path)
    if isinstance(options.weights, str | os.PathLike) and options.spec is None:
        return Path(options.weights).stem
    return "densenet"


def _initial(graph: Graph, weights: WeightsLike | None, seed: int, notes: list[str]) -> Arrays:
    """Where training starts: given weights, with a new head where theirs does not fit."""
    if weights is None:
        return initial_weights(graph, seed)
    try:
        return weights_for(graph, weights)
    except WeightsError:
        backbone = weights_for(lower(graph.spec, include_top=False), weights)
    arrays = initial_weights(graph, seed) | backbone
    new = ", ".join(name for name in arrays if name not in backbone)
    notes.append(f"the head is new, since the weights have none that fits: {new}")
    return arrays


def _rest(graph: Graph, recipe: TrainingRecipe) -> Mapping[str, np.ndarray]:
    """Momentum before the first step."""
    dtype = "float64" if recipe.dtype == "float64" else "float32"
    trainable = [weight for weight in graph.weights if weight.trainable and recipe.momentum]
    return {weight.name: np.zeros(weight.shape, dtype) for weight in trainable}


def _extended(options: Options, run: Run, notes: list[str]) -> Run:
    """The run with more epochs, or with fewer, where they are given."""
    before, count = run.recipe, options.epochs
    if count is None and options.recipe is not None:
        count = get_recipe(options.recipe).epochs
    if count is None or count == before.epochs:
        return run
    after = before.replace(epochs=count)
    notes.append(f"{count} epochs, not {before.epochs}")
    drops = {recipe: _drops(recipe) for recipe in (before, after)}
    if drops[before] != drops[after]:
        notes.append(
            f"the learning rate drops after {_listed(drops[after])}, not after "
            f"{_listed(drops[before])}: the milestones are fractions of the epochs; in a recipe "
            "whose milestones are epochs they stay"
        )
    return replace(run, recipe=after)


def _drops(recipe: TrainingRecipe) -> tuple[int, ...]:
    """The epochs after which the learning rate drops."""
    rates = [recipe.learning_rate_at(epoch) for epoch in range(recipe.epochs)]
    return tuple(epoch for epoch in range(1, len(rates)) if rates[epoch] != rates[epoch - 1])


def _listed(epochs: Sequence[int]) -> str:
    return f"epochs {' and '.join(map(str, epochs))}" if epochs else "no epoch"


def _check_same(options: Options, run: Run, dataset: Dataset) -> None:
    """Refuse to resume a run as another one.

    Raises:
        TrainingError: lists what differs.
    """
    differing = []
    if options.spec is not None:
        given = run.recipe.applied_to(_adapted(_given_spec(options), options, dataset, []))
        differing += differences(run.spec, given)
    if options.recipe is not None:
        recipe = get_recipe(options.recipe).replace(epochs=run.recipe.epochs)
        differing += differences(run.recipe, recipe)
    if options.trainable_from is not None:
        part = trained_part(options.trainable_from, run.spec)
        if part != run.trainable_from:
            differing.append(f"trainable_from is {run.trainable_from!r} there, but {part!r} here")
    for name in ("dropout", "classes", "head_units", "size"):
        value = getattr(options, name)
        there = getattr(run, name) if hasattr(run, name) else getattr(run.spec, name)
        value = tuple(value) if isinstance(there, tuple) and value is not None else value
        if value is not None and value != there:
            differing.append(f"{name} is {there!r} there, but {value!r} here")
    if options.weights is not None:
        differing.append("weights are given, but the run has its own")
    if differing:
        raise TrainingError(
            f"{options.out} is another run, which can't go on so: {'; '.join(differing)}. Train "
            "into a new folder instead; --weights takes up the weights of any run"
        )
    found = fingerprint(dataset)
    if found != run.fingerprint:
        raise TrainingError(
            f"{options.out} was trained on other data than {dataset.name}: their fingerprint is "
            f"{run.fingerprint}, but that of these is {found}"
        )


def fingerprint(dataset: Dataset) -> str:
    """A digest of a data set's labels, shapes, normalisation and first images."""
    norm = dataset.normalisation
    digest = hashlib.sha256(repr((dataset.classes, norm.mean, norm.std, norm.scale)).encode())
    for part in (dataset.train, dataset.test):
        digest.update(repr((len(part), part.shape)).encode())
        digest.update(part.y.tobytes())
        for index in range(min(SAMPLED, len(part))):
            image = np.ascontiguousarray(part.image(index))
            digest.update(repr((image.shape, image.dtype.name)).encode())
            digest.update(image.tobytes())
    return f"sha256:{digest.hexdigest()[:32]}"
