"""Opens the weights that users give: a file of any layout, or arrays or a model in memory."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Collection, Iterator, Mapping
from enum import Enum
from typing import Any

import numpy as np

from densespec.errors import WeightsError, WeightsWarning, in_words
from densespec.network.arrays import Arrays, select_weights
from densespec.network.differences import OF_HEAD, TRAINING_ONLY, spec_differences
from densespec.network.graph import Graph, in_head, lower
from densespec.network.initial import initial_weights
from densespec.network.spec import DenseNetSpec
from densespec.pretrained.accompaniment import NOTHING, Accompaniment
from densespec.weights import channels, dimensions
from densespec.weights.comparing import effect_of, exact
from densespec.weights.containers.base import EXTENDED
from densespec.weights.in_memory import identified_in_memory
from densespec.weights.layouts.canonical import is_canonical
from densespec.weights.opening import IdentifiedWeights, open_weights
from densespec.weights.reading import AS_THEY_ARE, FITTED, ReadingOptions

WeightsLike = Any
"""The path of a weight file; the name of trained weights, such as ``imagenet``; arrays by
canonical name, or by the names of any program, such as a ``state_dict``; or a model that has a
``state_dict`` or Keras's ``weights``."""

GivenWeights = IdentifiedWeights | Mapping[str, np.ndarray] | None
"""Holds what a user gave after it was opened; None if nothing was given."""


@contextlib.contextmanager
def opened(
    weights: WeightsLike | None,
    otherwise: DenseNetSpec | None = None,
    reading: ReadingOptions = AS_THEY_ARE,
) -> Iterator[GivenWeights]:
    """Open the weights that a user gave; a file can be read until the block ends.

    What is assumed of them, and what is left out, is said in a
    :class:`densespec.errors.WeightsWarning`.

    Args:
        otherwise: The spec to take if they do not tell it.
        reading: What the user says of them.

    Raises:
        WeightsError: A file can't be read, or the arrays do not fit their network.
    """
    if isinstance(weights, Enum):  # as torchvision names its weights
        weights = str(weights)
    if weights is None or (isinstance(weights, Mapping) and is_canonical(weights)):
        yield _of_canonical_names(weights, reading)
    elif isinstance(weights, str | os.PathLike):
        with open_weights(weights, otherwise=otherwise, **reading.said()) as identified:
            warn_of(identified)
            yield identified
    else:
        identified = identified_in_memory(weights, reading, otherwise)
        warn_of(identified)
        yield identified


def _of_canonical_names(
    arrays: Mapping[str, np.ndarray] | None, reading: ReadingOptions
) -> Mapping[str, np.ndarray] | None:
    if said := [name for name in reading.said() if name not in FITTED]:
        what = "arrays by canonical name need none" if arrays is not None else "none were given"
        raise WeightsError(f"{' and '.join(said)}: say how to read weights, but {what}")
    if arrays is None:
        return None
    fits = {"in_channels": channels.fitted_arrays, "spatial_dims": dimensions.fitted_arrays}
    for name, wanted in reading.of_network().items():
        arrays, notes = fits[name](arrays, wanted)
        for note in notes:
            _warn("the weights", note)
    return arrays


def warn_of(given: IdentifiedWeights, *, with_head: bool = False) -> None:
    """Warn of what was assumed of weights, and of what was left out.

    Args:
        with_head: Whether a head that was left out was wanted, so that it is missed.
    """
    for note in (*given.cautions, *(given.of_head if with_head else ())):
        _warn(_called(given), note)


def _warn(what: str, note: str) -> None:
    warnings.warn(f"{what}: {note}", WeightsWarning, stacklevel=2)


def _called(given: IdentifiedWeights) -> str:
    return str(given.path or "what was given as weights")


def stated_spec(given: GivenWeights) -> DenseNetSpec:
    """Return the spec of the network that weights are of.

    Raises:
        WeightsError: There are none, or they have canonical names, which do not tell it.
    """
    if not isinstance(given, IdentifiedWeights):
        raise WeightsError("give a spec, or a weight file that tells it")
    return given.spec


def accompaniment_of(given: GivenWeights) -> Accompaniment:
    """Return what goes with weights; nothing with arrays by canonical name."""
    return given.accompaniment if isinstance(given, IdentifiedWeights) else NOTHING


def fitted(graph: Graph, given: GivenWeights, *, new_head: int | None = None) -> Arrays:
    """Read the arrays that a network needs: if it has no classifier, a head is left out.

    Args:
        new_head: The seed of a new head, which a network gets if the weights have none that fits
            it; None refuses such weights.

    Raises:
        WeightsError: None were given, or they do not fit; the message names the first that are
            missing, unexpected or of another shape, or the fields in which the file's network
            differs.

    Warns:
        WeightsWarning: The head is new.
    """
    if given is None:
        raise WeightsError("no weights were given: give a weight file, or arrays by canonical name")
    if isinstance(given, IdentifiedWeights) and graph.spec.classifier_bias:
        given = given.with_classifier_bias()
    if new_head is not None and not has_head_of(graph, given):
        return _with_new_head(graph, given, new_head)
    if isinstance(given, IdentifiedWeights):
        _check_same_network(graph, given)
        given = given.arrays()
    return select_weights(graph, {name: _widened(array) for name, array in given.items()})


def has_head_of(graph: Graph, given: GivenWeights) -> bool:
    """Say whether weights have a network's head, by its shapes; neither having one counts, too."""
    if isinstance(given, IdentifiedWeights) and graph.spec.classifier_bias:
        given = given.with_classifier_bias()
    arrays = given.tensors if isinstance(given, IdentifiedWeights) else given or {}
    wanted = {weight.name: weight.shape for weight in graph.weights if in_head(weight.name)}
    return not wanted or wanted == {
        name: tuple(np.shape(array) if isinstance(array, np.ndarray) else array.shape)
        for name, array in arrays.items()
        if in_head(name)
    }


def _with_new_head(graph: Graph, given: GivenWeights, seed: int) -> Arrays:
    body = fitted(lower(graph.spec, include_top=False), given)
    new = {name: a for name, a in initial_weights(graph, seed).items() if name not in body}
    what = _called(given) if isinstance(given, IdentifiedWeights) else "the weights"
    _warn(what, f"the head is new, since the weights have none that fits: {', '.join(new)}")
    return body | new


def _widened(array: np.ndarray) -> np.ndarray:
    """Return an array in a type of numpy's own: float32 holds every value of the shorter others."""
    array = np.asarray(array)
    return array.astype(np.float32) if array.dtype.name in EXTENDED else array


def _check_same_network(graph: Graph, given: IdentifiedWeights) -> None:
    if graph.has_classifier and not given.has_classifier:
        why = f" that could be told ({given.headless})" if given.headless else ""
        raise WeightsError(
            f"{_called(given)} has no classifier{why}: build the network without one "
            "(include_top=False, --no-top), or with a new one (densespec.transfer)"
        )
    may_differ = TRAINING_ONLY if graph.has_classifier else TRAINING_ONLY | OF_HEAD
    apart = {
        name: values
        for name, values in spec_differences(given.spec, graph.spec).items()
        if name not in may_differ
    }
    if apart and not _is_rounding(given, apart):
        advice = _advice(graph.spec, apart.keys())
        raise WeightsError(
            f"{_called(given)} holds weights of another network: {'; '.join(in_words(apart))}"
            f"{advice}"
        )


def _advice(spec: DenseNetSpec, fields: Collection[str]) -> str:
    """Say what to do about weights of a network that differs in some fields."""
    if set(FITTED).issuperset(fields):
        words = " and ".join(f"{name}={getattr(spec, name)}" for name in FITTED if name in fields)
        return f"; {words} {'fits' if len(fields) == 1 else 'fit'} them"
    if OF_HEAD.issuperset(fields):
        return (
            f"; densespec.build(..., classes={spec.classes}) and densespec.transfer start a new "
            "head on them"
        )
    return ""


def _is_rounding(given: IdentifiedWeights, apart: Mapping[str, tuple[Any, Any]]) -> bool:
    """Say whether float32 can't tell a network from the wanted one, and warn if so."""
    changes = {name: here for name, (_, here) in apart.items()}
    effect = effect_of(changes, given.spec, exact(given))
    if effect is None or not effect.is_rounding:
        return False
    _warn(
        _called(given),
        f"{'; '.join(in_words(apart))}: the feature map differs by {effect.difference:.1e} of its "
        f"largest value, which is below float32's own rounding of this network, "
        f"{effect.rounding:.1e}",
    )
    return True


def weights_for(
    graph: Graph,
    weights: WeightsLike,
    reading: ReadingOptions = AS_THEY_ARE,
    *,
    new_head: int | None = None,
) -> Arrays:
    """Read the arrays that a network needs of those that a user gave; see :func:`fitted`."""
    with opened(weights, graph.spec, reading) as given:
        return fitted(graph, given, new_head=new_head)


def spec_of_file(
    weights: WeightsLike | None, reading: ReadingOptions = AS_THEY_ARE
) -> DenseNetSpec:
    """Return the spec of the network in a weight file.

    Raises:
        WeightsError: There is no file, or it does not tell.
    """
    with opened(weights, reading=reading) as given:
        return stated_spec(given)
