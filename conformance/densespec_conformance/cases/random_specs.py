"""Random networks have the right structure and compute the right thing.

A failure is shrunk to the smallest network that shows it, which is then shown as TOML.
"""

from __future__ import annotations

from functools import partial

from hypothesis import HealthCheck, given, settings

from densespec.files import spec_to_toml
from densespec.graph import lower
from densespec_conformance.case import Case, Tier
from densespec_conformance.cases.forward import TOLERANCE
from densespec_conformance.cases.structure import assert_structure
from densespec_conformance.compare import Mismatch, assert_close
from densespec_conformance.data import images, random_weights
from densespec_conformance.requests import Forward, Inspect, Network, Request
from densespec_conformance.strategies import Sample, samples
from densespec_conformance.target import Reference, Target
from densespec_conformance.worker import handle


def _network(sample: Sample) -> Network:
    weights = random_weights(lower(sample.spec, sample.size), "random")
    return Network(sample.spec, input_size=sample.size, weights=weights)


def _compare(sample: Sample, target: Target) -> float:
    network = _network(sample)
    graph = lower(sample.spec, sample.size)
    assert_structure(target.ask(Inspect(network, sample.size)), graph)
    taps = tuple(node.name for node in graph.nodes[1:])
    request: Request = Forward(network, images(sample.spec, sample.size, sample.batch, ""), taps)
    expected = handle("numpy", request)
    assert isinstance(expected, dict)
    return assert_close(
        actual=target.ask(request), expected=expected, tolerance=TOLERANCE, order=taps
    )


def _check(examples: int, target: Target, reference: Reference) -> float:
    worst = [0.0]

    @settings(
        max_examples=examples,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(samples())
    def run(sample: Sample) -> None:
        try:
            worst[0] = max(worst[0], _compare(sample, target))
        except Mismatch as mismatch:
            raise _Shrinkable(sample, mismatch) from mismatch

    try:
        run()
    except _Shrinkable as smallest:
        raise Mismatch(smallest.mismatch.where, smallest.describe()) from smallest
    return worst[0]


class _Shrinkable(Exception):
    """A mismatch with the network that shows it, which hypothesis makes smaller."""

    def __init__(self, sample: Sample, mismatch: Mismatch) -> None:
        super().__init__(str(mismatch))
        self.sample, self.mismatch = sample, mismatch

    def describe(self) -> str:
        size = "x".join(map(str, self.sample.size))
        return (
            f"{self.mismatch}; smallest network that shows it, at input size {size} and batch "
            f"{self.sample.batch}:\n{spec_to_toml(self.sample.spec)}"
        )


def _case(examples: int, tier: Tier, cost: float) -> Case:
    return Case(
        id=f"random/{examples}-random-networks",
        claim="random networks have the graph's structure and compute what the reference does",
        check=partial(_check, examples),
        tolerance=TOLERANCE,
        tier=tier,
        cost=cost,
    )


CASES = (_case(8, "quick", 12), _case(100, "full", 150))
