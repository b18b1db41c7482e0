"""How far is a file in int8 from its network? It is asked about a user's images.

Rounding to 256 levels is no error, so no bound of a dtype holds. Two things are told: how often the
likeliest class stays the same, which is judged, and how much each layer loses, which is not.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from densespec.data import load
from densespec.network.arrays import Arrays
from densespec.network.graph import Graph, lower
from densespec.network.spec import DenseNetSpec
from densespec.quantizing.calibration import Images, images_of
from densespec.quantizing.comparing import Agreement, agreement_of
from densespec.quantizing.exporting import COMPARED, LEAST
from densespec.weights.opening import open_weights
from densespec_conformance.answering.target import Target
from densespec_conformance.asking.requests import (
    About,
    Description,
    Forward,
    NetworkToBuild,
    ReadWeights,
    Unsupported,
)
from densespec_conformance.case import Case, Tier
from densespec_conformance.explaining.local.spans import Network, spans
from densespec_conformance.judging.compare import Mismatch
from densespec_conformance.judging.expected import Reference, exact_values
from densespec_conformance.judging.loss import LossMeter
from densespec_conformance.judging.outcome import Outcome

FEW = 128
"""The quick tier looks at this many images."""

LOOKED_INTO = 8
"""The values of every layer are compared for this many images."""


@dataclass(frozen=True)
class _Question:
    """Holds a network, and the images that are asked about."""

    spec: DenseNetSpec
    images: Images

    def network(self, target: Target) -> NetworkToBuild:
        """Return the network as the file has it, which may end in probabilities."""
        size = self.images.preprocessing.size
        network = NetworkToBuild(self.spec, size, "float32")
        about: Description = target.ask(About(network))
        return replace(network, options=about.options)

    def graph(self, network: NetworkToBuild) -> Graph:
        return lower(self.spec, network.input_size, **dict(network.options))  # type: ignore[arg-type]


def _likeliest_classes(
    count: int, question: _Question, target: Target, reference: Reference
) -> Outcome:
    network = question.network(target)
    graph = question.graph(network)
    if not graph.has_classifier:
        raise Unsupported("it gives features, of which none is the likeliest class")
    weights, name = target.ask(ReadWeights(network)), graph.output.name
    exact, rounded, labels = [], [], []
    for x, right in question.images.labelled("test", count):
        asked = Forward(network, x, (name,))
        rounded.append(target.ask(asked)[name])
        exact.append(_exact(asked, weights)[name])
        labels.append(right)
    known = None if question.images.classes is None else labels
    return _judged(agreement_of(exact, rounded, known), name)


def _judged(found: Agreement, where: str) -> Outcome:
    said = (
        f"the likeliest class is that of the reference for {found.agreement:.2%} of {found.count} "
        f"held-out images"
    )
    if not found.agreement >= LEAST:
        raise Mismatch(where, f"{said}, where {LEAST:.0%} are wanted. {found.in_words()}")
    allowed = "the part of the images whose likeliest class may be another"
    said = f"{said}. {found.in_words()}"
    return Outcome(1 - found.agreement, 1 - LEAST, where, allowed, said=said)


def _layers(question: _Question, target: Target, reference: Reference) -> Outcome:
    network = question.network(target)
    graph, weights = question.graph(network), target.ask(ReadWeights(network))
    taps = tuple(node.name for node in graph.nodes[1:])
    meters: dict[str, LossMeter] = defaultdict(LossMeter)
    for x in _one_by_one(question.images):
        asked = Forward(network, x, taps)
        actual = target.ask(asked)
        exact = _exact(asked, weights)
        for name, follows in _from_own_inputs(graph, weights, x, actual):
            meters[name].add(actual[name], exact[name], follows)
    return Outcome(0, 0, "", "told, not judged", tuple(m.loss(name) for name, m in meters.items()))


def _one_by_one(images: Images) -> Iterator[np.ndarray]:
    """Yield images alone: all values of a network take much memory."""
    together = (x[None] for batch in images.inputs("test", LOOKED_INTO) for x in batch)
    yield from (x for x, _ in zip(together, range(LOOKED_INTO), strict=False))


def _from_own_inputs(
    graph: Graph, weights: Arrays, x: np.ndarray, actual: Arrays
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield what each op that is shown gives in full precision for what it has in int8."""
    values = {name: value.astype(np.float64) for name, value in actual.items()}
    known = Network(graph, weights, {**values, graph.input.name: x.astype(np.float64)})
    for span in spans(graph, values):
        yield span.end, known.computed(span)


def _exact(asked: Forward, weights: Arrays) -> Arrays:
    return exact_values(replace(asked, network=replace(asked.network, weights=weights)))


@dataclass(frozen=True)
class _Int8Row:
    """Describes one case."""

    name: str
    claim: str
    check: Callable[[_Question, Target, Reference], Outcome]
    tier: Tier = "quick"
    cost: float = 30


SAME = f"its likeliest class is that of the reference for at least {LEAST:.0%} of the images"

ROWS = (
    _Int8Row("likeliest-classes", SAME, partial(_likeliest_classes, FEW)),
    _Int8Row(
        "likeliest-classes-of-many",
        f"{SAME}, of up to {COMPARED:,}",
        partial(_likeliest_classes, COMPARED),
        "full",
        cost=300,
    ),
    _Int8Row("layers", "it is told how much each layer loses", _layers),
)


def int8_cases(spec: DenseNetSpec, weights: str, data: str) -> tuple[Case, ...]:
    """Return the cases that say how far a file in int8 is from the network of a spec.

    Args:
        weights: The path of the weights that it was exported from, which say what images need.
        data: The images, as :func:`densespec.data.load` takes them.

    Raises:
        DensespecError: There are no such images, they do not fit the network, or nothing says what
            they need.
    """
    with open_weights(weights, otherwise=spec) as found:
        known = found.accompaniment
    question = _Question(spec, images_of(load(data, channels=spec.in_channels), known))
    return tuple(
        Case(f"int8/{row.name}", row.claim, partial(row.check, question), row.tier, cost=row.cost)
        for row in ROWS
    )
