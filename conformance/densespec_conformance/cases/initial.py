"""Networks start from the same bits, and give back the bits they are given."""

from __future__ import annotations

from functools import partial

import numpy as np

from densespec.network.graph import lower
from densespec.network.initial import initial_weights
from densespec_conformance.answering.target import Target
from densespec_conformance.asking.questions import random_weights
from densespec_conformance.asking.requests import NetworkToBuild, ReadWeights
from densespec_conformance.case import Case
from densespec_conformance.cases.forward import SMALL
from densespec_conformance.judging.compare import assert_identical
from densespec_conformance.judging.expected import Reference
from densespec_conformance.judging.outcome import Outcome

SPEC = SMALL.replace(conv_bias=True)


def _check_initial(dtype: str, target: Target, reference: Reference) -> Outcome:
    expected = initial_weights(lower(SPEC), seed=7)
    expected = {name: array.astype(dtype) for name, array in expected.items()}
    network = NetworkToBuild(SPEC, dtype=dtype, seed=7)
    return assert_identical(actual=target.ask(ReadWeights(network)), expected=expected)


def _check_round_trip(dtype: str, target: Target, reference: Reference) -> Outcome:
    arrays = random_weights(lower(SPEC), f"round trip {dtype}")
    arrays = {name: array.astype(np.dtype(dtype)) for name, array in arrays.items()}
    network = NetworkToBuild(SPEC, dtype=dtype, weights=arrays)
    return assert_identical(actual=target.ask(ReadWeights(network)), expected=arrays)


CASES = tuple(
    case
    for dtype in ("float32", "float64")
    for case in (
        Case(
            id=f"initial/same-bits-in-{dtype}",
            claim=f"initial weights of a seed are the same in {dtype}, bit for bit",
            check=partial(_check_initial, dtype),
        ),
        Case(
            id=f"initial/weights-come-back-in-{dtype}",
            claim=f"weights given are weights read in {dtype}, bit for bit",
            check=partial(_check_round_trip, dtype),
        ),
    )
)
