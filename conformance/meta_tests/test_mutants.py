"""The suite catches what is wrong, by the case that is about it, and nothing that is right."""

from __future__ import annotations

import dataclasses

import pytest

from densespec.spec import DenseNetSpec
from densespec_conformance.case import Case
from densespec_conformance.cases import all_cases
from densespec_conformance.cases.forward import ROWS
from densespec_conformance.runner import run_case
from densespec_conformance.target import LocalTarget, Reference
from meta_tests.mutants import MUTANTS

CASES = {case.id: case for case in all_cases()}
CHEAP = [case for case in CASES.values() if case.cost <= 3]


@pytest.fixture(scope="module")
def reference() -> Reference:
    return Reference()


@pytest.mark.parametrize("name", MUTANTS)
def test_mutant_is_caught_where_it_is_wrong(name: str, reference: Reference) -> None:
    mutant = MUTANTS[name]
    target = LocalTarget(f"meta_tests.mutants:{name}")
    result = run_case(CASES[mutant.case], target, reference)
    assert result.status == "failed", f"{mutant.about}: {result}"
    assert result.where.startswith(mutant.where), result.message
    assert "should" in result.message


@pytest.mark.parametrize("case", CHEAP, ids=lambda case: case.id)
def test_reference_meets_its_own_suite(case: Case, reference: Reference) -> None:
    result = run_case(case, LocalTarget("numpy"), reference)
    assert result.status == "passed", result.message


def test_forward_cases_vary_every_field_of_the_spec() -> None:
    specs = [row.spec for row in ROWS]
    for field in dataclasses.fields(DenseNetSpec):
        values = {getattr(spec, field.name) for spec in specs}
        assert len(values) > 1, f"no forward case changes {field.name}"
