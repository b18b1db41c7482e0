"""No case flags a backend that is right in another way."""

from __future__ import annotations

import pytest

from densespec_conformance.answering.target import LocalTarget
from densespec_conformance.cases import all_cases
from densespec_conformance.judging.expected import Reference
from densespec_conformance.running.one_case import run_case
from meta_tests.equivalents import EQUIVALENTS

CHEAP = [case for case in all_cases() if case.tier == "quick" and case.cost <= 3]


@pytest.fixture(scope="module")
def reference() -> Reference:
    return Reference()


@pytest.mark.parametrize("name", EQUIVALENTS)
def test_equivalent_is_not_flagged(name: str, reference: Reference) -> None:
    if name.startswith("TORCH"):
        pytest.importorskip("torch")
    target = LocalTarget(f"meta_tests.equivalents:{name}")
    about = EQUIVALENTS[name]
    mine = (case for case in CHEAP if case.id.startswith(about.groups))
    cases = [case for case in mine if not case.id.startswith(about.but)]
    assert cases
    results = [run_case(case, target, reference, diagnosis=False) for case in cases]
    assert not [f"{r.case.id}: {r.message}" for r in results if r.status != "passed"]


def test_equivalents_are_many() -> None:
    assert len(EQUIVALENTS) >= 30
