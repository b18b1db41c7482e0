"""Describes a network as a file states it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from densespec.errors import WeightsError, in_words
from densespec.network.differences import TRAINING_ONLY, spec_differences
from densespec.network.graph import Graph, lower, without
from densespec.network.spec import DenseNetSpec


class StatedOtherwise(WeightsError):
    """A file or a model states what no spec can say.

    Attributes:
        layer: The path of the layer that states it; None if it is no single layer.
    """

    def __init__(self, problem: str, layer: str | None = None) -> None:
        super().__init__(problem)
        self.layer = layer


@dataclass(frozen=True)
class StatedNetwork:
    """Describes a network that a file states.

    Attributes:
        spec: The network's spec.
        ends: The arguments of :func:`densespec.network.graph.lower` that say how the network ends;
            without ``include_top``, the arrays tell whether there is a classifier.
        notes: Sentences that say what else the file states, which does not change the outputs.
        aside: The names of further layers in the file that are no part of the network.
    """

    spec: DenseNetSpec
    ends: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    aside: frozenset[str] = frozenset()

    @property
    def include_top(self) -> bool | None:
        """Say whether it has a classifier; None if the file does not say."""
        return self.ends.get("include_top")

    @property
    def other_ends(self) -> dict[str, Any]:
        """Return the ends other than ``include_top``."""
        return {name: value for name, value in self.ends.items() if name != "include_top"}


def check_agreement(stated: StatedNetwork, given: DenseNetSpec) -> None:
    """Check that a given spec computes what a file states; training may differ.

    Raises:
        WeightsError: It does not; the message names the fields in which the two differ.
    """
    trains = {name: getattr(stated.spec, name) for name in TRAINING_ONLY}
    alike = given.replace(**trains)
    apart = spec_differences(stated.spec, alike)
    if apart and lower(alike).nodes != lower(stated.spec).nodes:
        raise WeightsError(
            "it states another network than the spec given: "
            f"{'; '.join(in_words(apart, 'in the file', 'in the spec'))}"
        )


def in_inference(graph: Graph) -> Graph:
    """Return what of a network acts in inference: all but the dropouts."""
    return without(graph, {node.name for node in graph.dropouts})
