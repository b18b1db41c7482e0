"""Random networks have the right structure, compute the right thing and train the right way.

A failure is shrunk to the smallest network that shows it, with the command that shows it again. A
crash or a hang is not shrunk, as each costs a new process: it ends the search.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shlex
import time
from collections.abc import Callable
from functools import partial

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from densespec.network import ops
from densespec.network.graph import lower
from densespec.network.spec import DenseNetSpec
from densespec_conformance.answering.target import Target, TargetError
from densespec_conformance.asking.questions import forward_request, training_request
from densespec_conformance.asking.requests import Inspect
from densespec_conformance.asking.strategies import Sample, samples
from densespec_conformance.case import Case, Tier
from densespec_conformance.cases.forward import compare as compare_taps
from densespec_conformance.cases.structure import assert_structure
from densespec_conformance.judging.compare import Mismatch, assert_same_steps
from densespec_conformance.judging.expected import Reference
from densespec_conformance.judging.outcome import EXACT, Outcome

SHRINKING = 20.0
"""This many seconds are spent on finding a smaller network that fails."""

Compare = Callable[[Sample, Target, Reference], Outcome]


def _compare_forward(sample: Sample, target: Target, reference: Reference) -> Outcome:
    """Compare shapes, counts and the value of every op."""
    request = forward_request(sample.spec, sample.size)
    found = target.ask(Inspect(request.network, sample.size))
    assert_structure(found, lower(sample.spec, sample.size))
    expected = reference.expect(f"random forward {sample}", lambda: request)
    return compare_taps(target, request, expected)


def _compare_training(sample: Sample, target: Target, reference: Reference) -> Outcome:
    """Compare two training steps, with dropout masks where the network has dropout."""
    request = training_request(sample.spec, sample.size)
    actual = target.ask(request)
    expected = reference.expect(f"random training {sample}", lambda: request)
    return assert_same_steps(actual=actual, expected=expected)


def _has_wide_convolutions(sample: Sample) -> bool:
    """Say whether every convolution gives several feature maps.

    PyTorch 2.13 refuses the float64 gradient of a convolution to one map whose kernel was permuted,
    as Keras permutes it: a plain ``keras.layers.Conv2D`` with one filter of 3x3 can't train there.
    """
    found = (node.op for node in lower(sample.spec).nodes)
    return all(op.filters > 1 for op in found if isinstance(op, ops.Conv))


def _check(
    compare: Compare,
    networks: st.SearchStrategy[Sample],
    examples: int,
    target: Target,
    reference: Reference,
) -> Outcome:
    search = _Search(compare, target, reference)
    run = settings(
        max_examples=examples,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )(given(networks)(search.try_out))
    try:
        run()
    except _Found as smallest:
        search.ask_again(smallest.sample)
        raise smallest.reported(target.name, "smallest network that shows it") from smallest
    if search.broken:
        raise search.broken.reported(target.name, "the network was")
    return search.closest


class _Search:
    """A search tries networks out until hypothesis has had enough of them."""

    def __init__(self, compare: Compare, target: Target, reference: Reference) -> None:
        self.compare, self.target, self.reference = compare, target, reference
        self.closest = EXACT
        self.broken: _Found | None = None
        self.failures: dict[Sample, _Found] = {}
        self.end = float("inf")

    def try_out(self, sample: Sample) -> None:
        if sample in self.failures:
            raise self.failures[sample]
        if self.broken or time.monotonic() > self.end:
            return
        try:
            outcome = self.compare(sample, self.target, self.reference)
        except (Mismatch, TargetError) as failure:
            self._failed(_Found(sample, failure))
        else:
            self.closest = max(self.closest, outcome, key=lambda one: one.strain)

    def ask_again(self, sample: Sample) -> None:
        """Ask about the network that is reported last of all, so that its answer is explained."""
        with contextlib.suppress(Mismatch, TargetError):
            self.compare(sample, self.target, self.reference)

    def _failed(self, found: _Found) -> None:
        if isinstance(found.failure, TargetError) and found.failure.status != "error":
            self.broken = found
            return
        if not self.failures:
            self.end = time.monotonic() + SHRINKING
        self.failures[found.sample] = found
        raise found


class _Found(Exception):
    """Carries a failure with the network that shows it, which hypothesis makes smaller."""

    def __init__(self, sample: Sample, failure: Mismatch | TargetError) -> None:
        super().__init__(str(failure))
        self.sample, self.failure = sample, failure

    def reported(self, target: str, about: str) -> Mismatch | TargetError:
        """Return the failure with the network, and the command that shows it again."""
        failure = self.failure
        text = f"{about}:\n{command(target, self.sample)}"
        if isinstance(failure, Mismatch):
            message = str(failure).removeprefix(f"{failure.where}: ")
            return Mismatch(failure.where, f"{message}; {text}", failure.comparisons)
        return type(failure)(f"{failure}\n{text}")


def command(target: str, sample: Sample) -> str:
    """Write the command that runs the suite on one network."""
    size = "x".join(map(str, (sample.spec.in_channels, *sample.size)))
    arguments = [target, "--spec", _stated(sample.spec), "--input", size]
    return shlex.join(["python", "-m", "densespec_conformance", *arguments])


def _stated(spec: DenseNetSpec) -> str:
    """Write a spec as JSON, without the fields that have their defaults."""
    plain = spec.to_dict()
    stated = {
        field.name: plain[field.name]
        for field in dataclasses.fields(spec)
        if getattr(spec, field.name) != field.default
    }
    return json.dumps(stated, separators=(",", ":"))


def _cases(examples: int, tier: Tier, cost: float) -> tuple[Case, Case]:
    return (
        Case(
            id=f"random/{examples}-random-networks",
            claim="random networks have the graph's structure and compute what the reference does",
            check=partial(_check, _compare_forward, samples(), examples),
            tier=tier,
            tier_in_modes="full",
            cost=cost,
        ),
        Case(
            id=f"random/{examples // 2}-random-networks-train",
            claim="random networks take the training steps that the reference takes",
            check=partial(
                _check,
                _compare_training,
                samples().filter(_has_wide_convolutions),
                examples // 2,
            ),
            tier=tier,
            tier_in_modes="full",
            cost=cost,
        ),
    )


CASES = (*_cases(8, "quick", 12), *_cases(100, "full", 150))
