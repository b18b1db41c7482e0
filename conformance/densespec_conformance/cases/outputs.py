"""Asks networks for the values of several parts, as detectors and U-Nets read them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from densespec.network.graph import lower
from densespec_conformance.answering.target import Target
from densespec_conformance.asking.questions import images, random_weights
from densespec_conformance.asking.requests import Forward, NetworkToBuild
from densespec_conformance.case import AS_IN_FAST, Case
from densespec_conformance.cases.forward import CIFAR_STEM, PREACTIVATION, SMALL, UNPOOLED
from densespec_conformance.judging.compare import assert_close
from densespec_conformance.judging.expected import Reference
from densespec_conformance.judging.outcome import Outcome

PYRAMID = ("stem", "block1", "block2", "block3", "final")
"""Timm's ``features_only`` gives these values of a network of four blocks."""


@dataclass(frozen=True)
class OutputsRow:
    """Describes a network, and the parts whose values it has to give."""

    name: str
    outputs: tuple[str, ...]
    changes: Mapping[str, Any] = field(default_factory=dict)
    size: tuple[int, ...] = (64, 64)


ROWS = (
    OutputsRow("pyramid", PYRAMID, {"blocks": (1, 2, 1, 1)}),
    OutputsRow("pyramid-of-odd-size", PYRAMID, {"blocks": (1, 2, 1, 1)}, size=(67, 71)),
    OutputsRow("in-the-order-asked-for", ("block2", "stem", "block1")),
    OutputsRow("every-part", ("stem", "stem_pool", "block1", "transition1", "block2", "final")),
    OutputsRow("features-and-logits", ("final", "global_pool", "classifier")),
    OutputsRow("one-part-alone", ("block1",)),
    OutputsRow("preactivation", ("stem", "block1", "block2"), PREACTIVATION),
    OutputsRow("stem-without-pool", ("stem", "transition1"), CIFAR_STEM, size=(16, 17)),
    OutputsRow(
        "three-dimensions", ("stem", "block1"), UNPOOLED | {"spatial_dims": 3}, size=(12, 11, 10)
    ),
)


def request(row: OutputsRow) -> Forward:
    """Ask for what the model gives, by the names of the nodes that compute it."""
    spec = SMALL.replace(**row.changes)
    graph = lower(spec, row.size, outputs=row.outputs)
    weights = random_weights(graph, row.name)
    network = NetworkToBuild(spec, row.size, weights=weights, options={"outputs": row.outputs})
    taps = tuple(node.name for node in graph.given)
    return Forward(network, images(spec, row.size, 2, row.name), taps)


def check(row: OutputsRow, target: Target, reference: Reference) -> Outcome:
    """Check that each value is within its bound."""
    asked = request(row)
    expected = reference.expect(f"outputs {row.name}", lambda: asked)
    return assert_close(actual=target.ask(asked), expected=expected, order=asked.taps)


CASES = tuple(
    Case(
        id=f"outputs/{row.name}",
        claim="the model gives the values of the parts that it was asked for, in that order",
        check=partial(check, row),
        tier_in_modes=AS_IN_FAST,
    )
    for row in ROWS
)
