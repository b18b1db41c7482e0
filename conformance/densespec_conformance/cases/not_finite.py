"""What is not finite stays not finite: an image of NaN has no class, and leaves others theirs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from densespec.backends import LAYERS, split_mode
from densespec.network.graph import lower
from densespec_conformance.answering.target import Target
from densespec_conformance.asking.questions import images, random_weights
from densespec_conformance.asking.requests import Forward, NetworkToBuild
from densespec_conformance.case import AS_IN_FAST, Case, Tier, TierByMode
from densespec_conformance.cases.forward import CIFAR_STEM, PLAIN, PREACTIVATION, SMALL
from densespec_conformance.judging.compare import Mismatch, assert_close, shown
from densespec_conformance.judging.expected import Reference, given_in
from densespec_conformance.judging.outcome import Outcome

BAD = 1
"""This sample is not finite."""


@dataclass(frozen=True)
class NotFiniteRow:
    """Describes a network, and what replaces every value of an image, or of every weight."""

    name: str
    value: float
    changes: Mapping[str, Any] = field(default_factory=dict)
    of_weights: bool = False
    size: tuple[int, int] = (32, 32)
    tier_in_modes: Tier | TierByMode = field(default_factory=lambda: AS_IN_FAST)


ROWS = (
    NotFiniteRow("nan-images", np.nan),
    NotFiniteRow(
        "nan-images-before-a-pool-of-any-number", np.nan, PREACTIVATION, tier_in_modes="full"
    ),
    NotFiniteRow(
        "nan-images-without-a-pool", np.nan, CIFAR_STEM, size=(16, 16), tier_in_modes="full"
    ),
    NotFiniteRow("nan-images-of-a-plain-network", np.nan, PLAIN | CIFAR_STEM, size=(24, 24)),
    NotFiniteRow("infinite-images", np.inf),
    NotFiniteRow("minus-infinite-images", -np.inf, CIFAR_STEM, size=(16, 16)),
    NotFiniteRow("nan-weights", np.nan, of_weights=True),
)


def request(row: NotFiniteRow) -> Forward:
    """Ask for the value of every op, where the second image or every weight is not finite."""
    spec = SMALL.replace(**row.changes)
    graph = lower(spec, row.size)
    weights, x = random_weights(graph, row.name), images(spec, row.size, 2, row.name)
    if row.of_weights:
        weights = {name: np.full_like(array, row.value) for name, array in weights.items()}
    else:
        x[BAD] = row.value
    taps = tuple(node.name for node in graph.nodes[1:])
    network = NetworkToBuild(spec, input_size=row.size, weights=weights)
    return given_in("float32", Forward(network, x, taps))


def check(row: NotFiniteRow, target: Target, reference: Reference) -> Outcome:
    """Check the value of every op, and the output as it is computed where it alone is wanted.

    In a mode that fuses ops, what is lost within a dense layer may go past it: then one channel
    that keeps it is enough at each position, and at the end there is no class.
    """
    asked = request(row)
    fuses = split_mode(target.name)[1] != LAYERS
    for taps in (asked.taps, asked.taps[-1:]):
        answer = target.ask(replace(asked, taps=taps))
        _check_kept(answer, _outside_layers(shown(answer, taps)) if fuses else taps, row, fuses)
    healthy = _healthy(row, asked)
    expected = reference.expect(f"not finite {row.name}", lambda: healthy)
    output = asked.taps[-1]
    return assert_close(actual=_output(target, healthy, asked), expected=expected, order=[output])


def _outside_layers(names: Iterable[str]) -> list[str]:
    return [name for name in names if ".layer" not in name]


def _check_kept(
    answer: Mapping[str, np.ndarray], taps: Sequence[str], row: NotFiniteRow, fuses: bool
) -> None:
    for name in taps:
        finite = np.isfinite(answer[name] if row.of_weights else answer[name][[BAD]])
        if fuses and name != taps[-1]:
            finite = finite.all(axis=1)
        if finite.any():
            raise Mismatch(
                name,
                f"{finite.sum()} of {finite.size} values are finite, but none should be: all that "
                f"it reads comes of {row.value}",
            )


def _healthy(row: NotFiniteRow, asked: Forward) -> Forward:
    """Ask for the output of the first image alone, of finite weights."""
    weights = random_weights(lower(asked.network.spec, row.size), row.name)
    network = replace(asked.network, weights=weights)
    return given_in("float32", Forward(network, asked.x[:BAD], asked.taps[-1:]))


def _output(target: Target, healthy: Forward, asked: Forward) -> dict[str, np.ndarray]:
    """Return the output for the first image, which came with the other one."""
    answer = target.ask(replace(healthy, x=asked.x))
    return {name: value[:BAD] for name, value in answer.items()}


CASES = tuple(
    Case(
        id=f"not-finite/{row.name}",
        claim="no op makes a number of what is none, and what is none stays with its image",
        check=partial(check, row),
        tier_in_modes=row.tier_in_modes,
        cost=1.5,
    )
    for row in ROWS
)
