"""Reads and writes canonical checkpoints: safetensors files of canonical names and a spec.

A checkpoint's metadata holds ``densespec`` (the version of this layout), ``spec`` (the spec as
JSON), ``classifier`` (whether the classifier's arrays are there), and ``digests`` of its arrays and
texts. A checkpoint of a training run also has the optimizer's moments and the averages of its
arrays, named by the moment, a slash and the canonical name, such as ``velocity/stem.conv.kernel``
or ``average/stem.conv.kernel``, and ``training`` in its metadata. Reading one executes nothing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from densespec.errors import DensespecError, WeightsError
from densespec.network.arrays import Arrays, check_weights
from densespec.network.graph import Graph, freeze
from densespec.network.spec import DenseNetSpec
from densespec.pretrained.accompaniment import NOTHING, Accompaniment
from densespec.recipes.moments import (
    OptimizerMoments,
    check_moments,
    flat_moments,
    nested_moments,
)
from densespec.recipes.recipe import TrainingRecipe
from densespec.texts import parsed_json
from densespec.weights import digests
from densespec.weights.containers import write_file
from densespec.weights.layouts import canonical
from densespec.weights.opening import open_weights
from densespec.weights.tensors import Tensor

TRAINING_KEY = "training"


@dataclass(frozen=True)
class TrainingState:
    """Says how far a training run has come.

    Attributes:
        step: The number of steps that are done.
        recipe: The recipe that the run follows.
        moments: The arrays that are kept beside the weights, by the name of the moment, such as
            ``velocity`` or ``average``, and then by the canonical name of the weight.
        trainable_from: The first part that trains, with everything before it frozen; None if
            everything trains.

    Order, augmentation and dropout are drawn from the recipe's seed and the step, so the step also
    tells the position of every random stream.
    """

    step: int
    recipe: TrainingRecipe
    moments: OptimizerMoments
    trainable_from: str | None = None


@dataclass(frozen=True)
class Checkpoint:
    """Holds the content of a canonical checkpoint.

    Attributes:
        spec: The spec of the network that the arrays belong to.
        include_top: Whether the classifier's arrays are among them.
        arrays: The network's arrays by canonical name.
        training: The state of the training run that wrote it; None for weights alone.
        accompaniment: What goes with the arrays.
    """

    spec: DenseNetSpec
    include_top: bool
    arrays: Arrays
    training: TrainingState | None = None
    accompaniment: Accompaniment = NOTHING


def write_checkpoint(
    path: str | os.PathLike[str],
    graph: Graph,
    arrays: Mapping[str, np.ndarray],
    training: TrainingState | None = None,
    *,
    accompaniment: Accompaniment = NOTHING,
) -> None:
    """Write a network's arrays to a ``.safetensors`` file, whole or not at all.

    Args:
        training: Where its training run stands, to be kept beside the arrays.
        accompaniment: What goes with them, to be kept in the file.

    Raises:
        WeightsError: The arrays do not fit the network, or the path has another suffix.
    """
    path = _checked(path)
    check_weights(graph, arrays)
    contents = dict(arrays)
    texts = {**accompaniment.texts(), **canonical.metadata(graph)}
    if training is not None:
        frozen = _frozen(graph, training.trainable_from)
        check_moments(frozen, training.recipe, training.moments)
        state = {
            "step": training.step,
            "recipe": training.recipe.to_dict(),
            "trainable_from": training.trainable_from,
        }
        texts[TRAINING_KEY] = json.dumps(state)
        contents |= flat_moments(training.moments)
    contents = {name: np.asarray(array) for name, array in contents.items()}
    texts[digests.KEY] = digests.stated_digests(contents, texts)
    tensors = {name: Tensor.of(array) for name, array in contents.items()}
    write_file(path, tensors, texts, container="safetensors")


def read_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Read a canonical checkpoint, and check it by its digests where it has any.

    Raises:
        WeightsError: The file is absent, damaged, or not a densespec checkpoint; the message names
            the file.
    """
    path = _checked(path)
    with open_weights(path, layout="densespec") as found:
        arrays = found.arrays()
        extra = {name: tensor.read() for name, tensor in found.extra.items()}
        training = _training(path, found.graph, found.metadata, extra)
        return Checkpoint(found.spec, found.has_classifier, arrays, training, found.accompaniment)


def _training(
    path: Path, graph: Graph, metadata: Mapping[str, str], extra: Arrays
) -> TrainingState | None:
    if TRAINING_KEY not in metadata:
        return None
    try:
        state = parsed_json(metadata[TRAINING_KEY], "the text")
        recipe = TrainingRecipe.from_dict(state["recipe"])
        step = int(state["step"])
        trainable_from = state.get("trainable_from")
        frozen = _frozen(graph, trainable_from)
    except (DensespecError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise WeightsError(f"{path}: the training state in its metadata: {error}") from error
    moments = nested_moments(extra)
    check_moments(frozen, recipe, moments)
    return TrainingState(step, recipe, moments, trainable_from)


def _frozen(graph: Graph, trainable_from: str | None) -> Graph:
    return graph if trainable_from is None else freeze(graph, trainable_from)


def _checked(path: str | os.PathLike[str]) -> Path:
    path = Path(path)
    if path.suffix != ".safetensors":
        raise WeightsError(f"{path}: a densespec checkpoint ends in .safetensors")
    return path
