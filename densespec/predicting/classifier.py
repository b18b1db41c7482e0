"""Builds a network that classifies images, with its preprocessing and its classes' names."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from densespec.backends import REFERENCE, get_backend
from densespec.building import Origin, build, origin_of
from densespec.errors import DensespecError
from densespec.hub import from_pretrained
from densespec.network.catalogue import variants
from densespec.pretrained.accompaniment import LINEAR, SIGMOID
from densespec.pretrained.labels import identifiers_by_names
from densespec.pretrained.preprocessing import Preprocessing
from densespec.weights.reading import AS_THEY_ARE, InterpretingOptions

IMAGENET = "imagenet"
"""A variant's name means these weights if no others are given."""

NetworkLike = Any
"""A model that densespec built; the name of a variant, with ImageNet's weights; the path of a
weight file or of a folder of the Hub; or the name of trained weights."""


@dataclass(frozen=True)
class Classifier:
    """Holds a network that classifies images.

    Attributes:
        model: The built model.
        origin: The record of what it was built from.
        preprocessing: What its images need before it.
    """

    model: Any
    origin: Origin
    preprocessing: Preprocessing

    @property
    def labels(self) -> tuple[str, ...]:
        """Return the names of its classes; their numbers if nobody names them."""
        known = self.origin.accompaniment.labels
        return known or tuple(map(str, range(self.origin.graph.spec.classes)))

    @property
    def identifiers(self) -> tuple[str, ...]:
        """Return other identifiers of its classes, such as WordNet ids; empty if there are none."""
        return identifiers_by_names().get(self.labels, ("",) * len(self.labels))

    @property
    def tells_one(self) -> bool:
        """Say whether an image has one class, rather than several at once."""
        graph, outputs = self.origin.graph, self.origin.accompaniment.outputs
        return (graph.classifier_activation or outputs) != SIGMOID

    def probabilities(self, x: np.ndarray) -> np.ndarray:
        """Compute the probabilities (count, classes) of prepared images, channels first."""
        graph, backend = self.origin.graph, get_backend(self.origin.backend)
        name = graph.output.name
        outputs = np.asarray(backend.forward(self.model, graph, x, [name])[name], np.float64)
        if graph.classifier_activation is not None:
            return outputs
        return softmax(outputs) if self.tells_one else 1 / (1 + np.exp(-outputs))


def softmax(logits: np.ndarray) -> np.ndarray:
    """Turn logits (count, classes) into probabilities."""
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def classifier(
    network: NetworkLike,
    *,
    backend: str = REFERENCE,
    weights: Any = None,
    preprocessing: Preprocessing | None = None,
    reading: InterpretingOptions = AS_THEY_ARE,
) -> Classifier:
    """Build a network that classifies images, unless it is built.

    Args:
        network: A model that densespec built; the name of a variant; the path of a weight file or
            of a folder of the Hub; or the name of trained weights.
        backend: Where it is built.
        weights: The weights of a variant, as :func:`densespec.build` takes them; None for those
            that ``imagenet`` means.
        preprocessing: What images need; None for what the weights say.
        reading: The options of how to read the weights.

    Raises:
        DensespecError: It has no classifier, or gives numbers and no classes, or nothing says what
            its images need; or it is built, but it is said how to read weights.
        WeightsError: There are no such weights, or they do not fit.
    """
    model = _built(network, backend, weights, reading.said())
    origin = origin_of(model)
    if not origin.graph.has_classifier:
        raise DensespecError("the network has no classifier, so it tells no classes")
    if origin.accompaniment.outputs == LINEAR and origin.graph.classifier_activation is None:
        raise DensespecError(
            "the network was trained to give numbers (loss = 'squared'), so it tells no classes: "
            "call the built model on images prepared by densespec.preprocessing(model)"
        )
    needed = preprocessing or origin.accompaniment.preprocessing
    if needed is None:
        raise DensespecError(
            "nothing says what images need before this network: give the preprocessing, such as "
            "that of other weights (--prepare-as NAME)"
        )
    return Classifier(model, origin, needed)


def _built(network: NetworkLike, backend: str, weights: Any, reading: dict[str, Any]) -> Any:
    if not isinstance(network, str | os.PathLike):
        if reading:
            words = " and ".join(reading)
            raise DensespecError(f"{words}: say how to read weights, but the model is built")
        return network
    if weights is not None or str(network) in variants():
        return build(network, backend=backend, weights=weights or IMAGENET, **reading)
    if Path(network).is_dir():
        return from_pretrained(network, backend=backend, **reading)
    return build(None, backend=backend, weights=network, **reading)
