"""Is an exported file this network? It is asked in its own dtype, with its own weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from densespec.network.graph import lower
from densespec.network.spec import DenseNetSpec
from densespec_conformance.answering.target import Target
from densespec_conformance.asking.questions import natural_size
from densespec_conformance.asking.requests import About, Description, NetworkToBuild
from densespec_conformance.case import Case, Tier
from densespec_conformance.cases.network import (
    IMAGENET,
    Question,
    Size,
    compare_as_it_is,
    odd,
)
from densespec_conformance.judging.expected import Reference
from densespec_conformance.judging.outcome import Outcome

CLAIM = "its output is within reach of its dtype of the reference with its weights"


def _output(question: Question, target: Target, reference: Reference) -> Outcome:
    return _compare(question, _about(question, target), target, reference)


def _output_at_its_size(question: Question, target: Target, reference: Reference) -> Outcome:
    """Ask at the one size that it takes, where it takes one only."""
    about = _about(question, target)
    sizes = zip(about.input_size or question.size, question.size, strict=True)
    size = tuple(known or usual for known, usual in sizes)
    return _compare(replace(question, size=size), about, target, reference)


def _about(question: Question, target: Target) -> Description:
    about: Description = target.ask(About(NetworkToBuild(question.spec)))
    return about


def _compare(
    question: Question, about: Description, target: Target, reference: Reference
) -> Outcome:
    assert about.dtype is not None, "an exported file computes in one dtype"
    network = NetworkToBuild(
        question.spec, input_size=question.size, dtype=about.dtype, options=about.options
    )
    return compare_as_it_is(question, network, target, reference)


@dataclass(frozen=True)
class _OutputRow:
    """Describes one case: what is special about it, and what it asks."""

    name: str
    where: str
    question: Question
    check: Callable[[Question, Target, Reference], Outcome] = _output
    cost: float = 5
    tier: Tier = "quick"

    @property
    def case(self) -> Case:
        check = partial(self.check, self.question)
        return Case(
            f"output/{self.name}", f"{CLAIM}, {self.where}", check, self.tier, cost=self.cost
        )


def exported_cases(spec: DenseNetSpec, input_size: Size | None = None) -> tuple[Case, ...]:
    """Return the cases that say whether an exported file is the network of a spec.

    Args:
        input_size: The only size to use; None stands for several, or for the file's own.

    Raises:
        SpecError: The network does not accept that size.
    """
    size = input_size or natural_size(spec)
    lower(spec, size)
    check = _output if input_size else _output_at_its_size
    rows = [
        _OutputRow("one-sample", "for one sample", Question(spec, size, samples=1), check),
        _OutputRow("three-samples", "for three samples", Question(spec, size, samples=3), check),
        *([] if input_size else _rows_of_sizes(spec, size)),
    ]
    return tuple(row.case for row in rows)


def _rows_of_sizes(spec: DenseNetSpec, size: Size) -> list[_OutputRow]:
    rows = [_OutputRow("odd-size", "at an odd size", Question(spec, odd(size), samples=1))]
    if spec.spatial_dims == 2 and spec.shrinks_early:
        question = Question(spec, (IMAGENET, IMAGENET), samples=1)
        where = f"at {IMAGENET}x{IMAGENET}"
        rows.append(_OutputRow("imagenet-size", where, question, cost=30, tier="full"))
    return rows
