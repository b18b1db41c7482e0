"""densenet169-bc at full size in float32, as people run it."""

from __future__ import annotations

import numpy as np

from densespec.catalogue import get
from densespec.graph import lower
from densespec_conformance.case import Case
from densespec_conformance.compare import Tolerance, assert_close
from densespec_conformance.data import images, random_weights
from densespec_conformance.requests import Forward, Network
from densespec_conformance.target import Reference, Target

TOLERANCE = Tolerance(
    5e-6, "float32 rounds at 6e-8 in each of 169 layers; two backends then differ by at most 1e-5"
)
SIZE = (224, 224)


def _request(every_op: bool) -> Forward:
    spec = get("densenet169-bc")
    graph = lower(spec, SIZE)
    weights = random_weights(graph, "precision")
    network = Network(
        spec,
        input_size=SIZE,
        dtype="float32",
        weights={name: array.astype(np.float32) for name, array in weights.items()},
    )
    x = images(spec, SIZE, 1, "precision").astype(np.float32)
    names = tuple(node.name for node in graph.nodes[1:])
    return Forward(network, x, names if every_op else names[-1:])


def _in_float64(request: Forward) -> Forward:
    network = request.network
    exact = Network(network.spec, input_size=SIZE, weights=network.weights)
    return Forward(exact, request.x, request.taps)


def _check(target: Target, reference: Reference) -> float:
    asked = _request(every_op=False)
    expected = reference.answer("precision", lambda: _in_float64(asked))
    actual = target.ask(asked)
    try:
        return assert_close(actual=actual, expected=expected, tolerance=TOLERANCE, order=asked.taps)
    except AssertionError:
        _name_first_op(target, reference)
        raise


def _name_first_op(target: Target, reference: Reference) -> None:
    asked = _request(every_op=True)
    expected = reference.answer("precision, every op", lambda: _in_float64(asked))
    assert_close(actual=target.ask(asked), expected=expected, tolerance=TOLERANCE, order=asked.taps)


CASES = (
    Case(
        id="precision/densenet169-bc-float32-at-224",
        claim="densenet169-bc at 224x224 in float32 is within float32's reach of the reference",
        check=_check,
        tolerance=TOLERANCE,
        cost=8,
    ),
)
