"""Resolves the options to the network, the recipe and the data of a run."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from densespec.data import Dataset, fits, load
from densespec.network.catalogue import SpecLike, resolve
from densespec.network.files import names_a_file
from densespec.network.graph import Graph, freeze
from densespec.network.spec import DenseNetSpec
from densespec.recipes.presets import get_recipe
from densespec.recipes.recipe import TrainingRecipe
from densespec.training.errors import TrainingError
from densespec.training.options import DIGITS, DataLike, RunOptions
from densespec.training.run import TrainingRun
from densespec.transfer_learning import trained_part
from densespec.weights.given import spec_of_file

SAMPLED = 16
"""The fingerprint of data looks at this many images of each split."""


@dataclass(frozen=True, eq=False)
class Resolved:
    """Holds what is trained, and on what.

    Attributes:
        run: the run as it is written down, before its first step.
        dataset: its data set.
        graph: the network at the size of the images, frozen as the run says.
        notes: sentences that say what the user should know.
    """

    run: TrainingRun
    dataset: Dataset
    graph: Graph
    notes: tuple[str, ...]


def resolve_options(options: RunOptions, *, trained_on: str | None = None) -> Resolved:
    """Look up everything that the options name.

    Args:
        trained_on: the digest of the data, of a run that goes on.

    Raises:
        TrainingError: something is not said, or the data are others.
        DensespecError: a spec, a recipe or data that are not what they should be.
    """
    recipe, given = _recipe(options), _given_spec(options)
    dataset = _dataset(
        options.data, options.in_channels or given.in_channels, window=options.window
    )
    found = fingerprint(dataset)
    if trained_on not in (None, found):
        raise TrainingError(
            f"{options.out} was trained on other data than {dataset.name}: their fingerprint is "
            f"{trained_on}, but that of these is {found}"
        )
    adapted, notes = _adapted(given, options, dataset)
    spec = recipe.applied_to(adapted)
    graph = fits(dataset, spec, options.size)
    part = trained_part(options.trainable_from, spec)
    run = TrainingRun(
        **options.settings() | {"trainable_from": part},
        network=_label(options),
        spec=spec,
        recipe=recipe,
        data=_source(options.data),
        fingerprint=found,
        size=tuple(size for size in graph.input_size if size is not None),
    )
    return Resolved(run, dataset, graph if part is None else freeze(graph, part), tuple(notes))


def _recipe(options: RunOptions) -> TrainingRecipe:
    if options.recipe is None and options.data != DIGITS:
        raise TrainingError(
            "give the recipe to train by: a name that `densespec recipes` lists, or a recipe file"
        )
    changes = {str(name): value for name, value in (options.changes or {}).items()}
    if options.epochs is not None:
        changes["epochs"] = options.epochs
    return get_recipe(DIGITS if options.recipe is None else options.recipe).replace(**changes)


def _given_spec(options: RunOptions) -> DenseNetSpec:
    if options.spec is not None:
        return resolve(options.spec)
    if options.weights is None:
        raise TrainingError("give a spec, or weights of a file that tells it")
    return spec_of_file(options.weights, options.reading)


def _dataset(data: DataLike, channels: int, *, window: bool) -> Dataset:
    if isinstance(data, Dataset):
        return data
    return load(str(data), channels=channels, window=window)


def _source(data: DataLike) -> str | None:
    """Return what is written down of the data. A path becomes an absolute one."""
    if isinstance(data, Dataset):
        return None
    name, colon, place = str(data).partition(":")
    return f"{name}:{Path(place).resolve()}" if colon and Path(place).exists() else str(data)


def _adapted(
    spec: DenseNetSpec, options: RunOptions, dataset: Dataset
) -> tuple[DenseNetSpec, list[str]]:
    """Adapt a network that was only named to the data, and return notes of it."""
    said = _said_of_network(options)
    spec = spec.replace(**said)
    if not _is_named(options.spec):
        return spec, []
    of_data = {
        "classes": len(dataset.classes),
        "in_channels": dataset.channels,
        "spatial_dims": len(dataset.train.shape) - 1,
    }
    wanted = {
        field: value
        for field, value in of_data.items()
        if field not in said and getattr(spec, field) != value
    }
    notes = [
        f"{field} = {value} as in {dataset.name}, not {getattr(spec, field)}"
        for field, value in wanted.items()
    ]
    return spec.replace(**wanted), notes


def _said_of_network(options: RunOptions) -> dict[str, Any]:
    """Return what was said of the network beside its spec."""
    names = ("head_units", "classes", "in_channels")
    return {name: said for name in names if (said := getattr(options, name)) is not None}


def _is_named(spec: SpecLike | None) -> bool:
    """Say whether a network is given by a name, or by its weights, rather than field by field."""
    return spec is None or (isinstance(spec, str) and not names_a_file(spec))


def _label(options: RunOptions) -> str:
    if isinstance(options.spec, str | os.PathLike):
        return Path(options.spec).stem if names_a_file(options.spec) else str(options.spec)
    if isinstance(options.weights, str | os.PathLike) and options.spec is None:
        return Path(options.weights).stem
    return "densenet"


def fingerprint(dataset: Dataset) -> str:
    """Compute a digest of a data set's labels, shapes, normalisation and first images."""
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
