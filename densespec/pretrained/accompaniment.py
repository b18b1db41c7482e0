"""Describes what goes with weights: their source, what their images need, and their classes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from densespec.errors import WeightsError, shown
from densespec.network.graph import Graph
from densespec.pretrained.preprocessing import Preprocessing

PREPROCESSING, LABELS, PROVENANCE, ACTIVATION = (
    "preprocessing",
    "labels",
    "provenance",
    "output_activation",
)
"""The metadata of weight files have the parts under these keys."""

SOFTMAX, SIGMOID, LINEAR = "softmax", "sigmoid", "linear"


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Says which published file weights are, or started from.

    Attributes:
        name: Its name in the registry.
        address: Where it is published.
        digest: The SHA-256 of the file that was read.
        licence: The licence that its row states.
    """

    name: str
    address: str
    digest: str
    licence: str = ""

    def __str__(self) -> str:
        return f"{self.name} ({self.address}, {self.digest})"


@dataclass(frozen=True, kw_only=True)
class Accompaniment:
    """Holds what goes with a network's weights; a part that nobody states is None.

    Attributes:
        preprocessing: What images need before the network.
        labels: The names of the classes, in the order of the outputs.
        provenance: The published file that the weights are, or started from.
        outputs: The function that turns logits into probabilities: ``"softmax"`` if an image has
            one class, ``"sigmoid"`` if it may have several, ``"linear"`` if outputs are numbers
            that tell no classes.
    """

    preprocessing: Preprocessing | None = None
    labels: tuple[str, ...] | None = None
    provenance: Provenance | None = None
    outputs: str = SOFTMAX

    def texts(self) -> dict[str, str]:
        """Return what is said as metadata of a weight file."""
        texts = {}
        if self.preprocessing is not None:
            texts[PREPROCESSING] = json.dumps(self.preprocessing.to_dict())
        if self.labels is not None:
            texts[LABELS] = json.dumps(self.labels)
        if self.provenance is not None:
            texts[PROVENANCE] = json.dumps(asdict(self.provenance))
        if self.outputs != SOFTMAX:
            texts[ACTIVATION] = self.outputs
        return texts

    @classmethod
    def from_texts(cls, metadata: Mapping[str, str]) -> Accompaniment:
        """Make one of the metadata of a weight file.

        Raises:
            WeightsError: The metadata say something else under these keys.
        """
        said: dict[str, Any] = {}
        if (record := _table(metadata, PREPROCESSING)) is not None:
            said["preprocessing"] = Preprocessing.from_dict(record)
        if (record := _table(metadata, PROVENANCE)) is not None:
            said["provenance"] = _provenance(record)
        if LABELS in metadata:
            said["labels"] = _labels(_parsed(metadata, LABELS))
        if (outputs := metadata.get(ACTIVATION)) in (SOFTMAX, SIGMOID, LINEAR):
            said["outputs"] = outputs
        return cls(**said)

    def fitted_to(self, graph: Graph) -> Accompaniment:
        """Leave out what is of another network: other classes, or other channels or dimensions."""
        classes = graph.spec.classes if graph.has_classifier else None
        labels = self.labels if self.labels and len(self.labels) == classes else None
        outputs = self.outputs if labels is not None or self.labels is None else SOFTMAX
        kept = self.preprocessing
        if kept is not None:
            wanted = (graph.spec.in_channels, graph.spec.spatial_dims)
            kept = kept if (kept.channels, len(kept.size)) == wanted else None
        return replace(self, labels=labels, preprocessing=kept, outputs=outputs)

    def otherwise(self, other: Accompaniment) -> Accompaniment:
        """Take from another what is not said here."""
        return Accompaniment(
            preprocessing=self.preprocessing or other.preprocessing,
            labels=self.labels or other.labels,
            provenance=self.provenance or other.provenance,
            outputs=self.outputs if self.labels or self.outputs != SOFTMAX else other.outputs,
        )


NOTHING = Accompaniment()
"""Weights of which nothing is known have this accompaniment."""


def _parsed(metadata: Mapping[str, str], key: str) -> Any:
    try:
        return json.loads(metadata[key])
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"the {key} in its metadata: not JSON: {error}") from error


def _table(metadata: Mapping[str, str], key: str) -> dict[str, Any] | None:
    if key not in metadata:
        return None
    record = _parsed(metadata, key)
    if not isinstance(record, dict):
        raise WeightsError(
            f"the {key} in its metadata: {shown(record)}, but should be a JSON object"
        )
    return record


def _labels(record: Any) -> tuple[str, ...]:
    if not isinstance(record, list) or not all(isinstance(name, str) for name in record):
        raise WeightsError(f"the {LABELS} in its metadata: {shown(record)}, but should be texts")
    return tuple(record)


def _provenance(record: dict[str, Any]) -> Provenance:
    try:
        return Provenance(**record)
    except TypeError as error:
        raise WeightsError(f"the {PROVENANCE} in its metadata: {shown(record)} {error}") from error
