"""Inference in float32, bfloat16 and float16 is as exact as the dtype is.

The reference computes in float64, from weights and inputs that are rounded to the dtype first. In
inference every op is continuous, so rounding moves values a little and never flips them.
"""

from __future__ import annotations

from functools import partial

from densespec.network.catalogue import get
from densespec.network.graph import lower
from densespec_conformance.answering.target import Target
from densespec_conformance.asking.questions import images, random_weights
from densespec_conformance.asking.requests import Forward, NetworkToBuild
from densespec_conformance.case import AS_IN_FAST, Case, TierByMode
from densespec_conformance.cases.forward import ROWS, check, compare
from densespec_conformance.judging.compare import Mismatch
from densespec_conformance.judging.expected import Reference, given_in
from densespec_conformance.judging.outcome import Outcome

SIZE = (224, 224)

DTYPES = ("float32", "bfloat16", "float16")
QUICK = (
    "torchvision-stem",
    "same-padding-odd-size",
    "preactivation-stem-odd-size",
    "variances-as-small-as-epsilon",
)
"""These rows of ``forward`` are always run in every dtype; the full tier runs the others."""
POOLS_OF_THREE_DIMENSIONS = "three-dimensions-with-pools"
"""PyTorch has no 16-bit kernels for this row, as TensorFlow has none in float64."""


INFERENCE_ALONE: TierByMode = {"fast": "full", "efficient": "full"}
"""Modes for training fuse nothing in 16 bits, and are seldom asked for answers alone."""


def _full_size(dtype: str, every_op: bool) -> Forward:
    """Ask about densenet169-bc as people run it."""
    spec = get("densenet169-bc")
    graph = lower(spec, SIZE)
    network = NetworkToBuild(spec, input_size=SIZE, weights=random_weights(graph, "precision"))
    names = tuple(node.name for node in graph.nodes[1:])
    asked = Forward(network, images(spec, SIZE, 1, "precision"), names if every_op else names[-1:])
    return given_in(dtype, asked)


def _check_full_size(dtype: str, target: Target, reference: Reference) -> Outcome:
    try:
        return _compare(dtype, target, reference, every_op=False)
    except Mismatch:
        _compare(dtype, target, reference, every_op=True)
        raise


def _compare(dtype: str, target: Target, reference: Reference, *, every_op: bool) -> Outcome:
    """Compare the output alone, which is quick, or every op, which names the first that differs."""
    asked = _full_size(dtype, every_op)
    expected = reference.expect(f"precision {dtype}, every op: {every_op}", lambda: asked)
    return compare(target, asked, expected)


CASES = (
    *(
        Case(
            id=f"{dtype}/{row.name}",
            claim=f"every op of the network is as close to the reference as {dtype} can be",
            check=partial(check, row, dtype),
            tier="quick" if row.name in QUICK else "full",
            tier_in_modes=(AS_IN_FAST if dtype == "float32" else INFERENCE_ALONE)
            if row.name in QUICK
            else "full",
            cost=1.5,
        )
        for dtype in DTYPES
        for row in ROWS
        if row.name != POOLS_OF_THREE_DIMENSIONS
    ),
    Case(
        id="precision/densenet169-bc-float32-at-224",
        claim="densenet169-bc at 224x224 in float32 is within float32's reach of the reference",
        check=partial(_check_full_size, "float32"),
        tier_in_modes=INFERENCE_ALONE,
        cost=8,
    ),
    Case(
        id="precision/densenet169-bc-bfloat16-at-224",
        claim="densenet169-bc at 224x224 in bfloat16 is within bfloat16's reach of the reference",
        check=partial(_check_full_size, "bfloat16"),
        tier="full",
        cost=8,
    ),
)
