"""The suite catches what is wrong, by the case that is about it, says what it is, and leaves alone
what is right."""

from __future__ import annotations

import dataclasses

import pytest

from densespec.network.spec import DenseNetSpec
from densespec_conformance.answering.target import LocalTarget
from densespec_conformance.asking.strategies import FIELDS
from densespec_conformance.case import Case
from densespec_conformance.cases import all_cases, sixteen_bits
from densespec_conformance.cases.forward import ROWS
from densespec_conformance.deviations import catalogue
from densespec_conformance.judging.expected import Reference
from densespec_conformance.running.one_case import run_case
from meta_tests.mutants import MUTANTS

CASES = {case.id: case for case in all_cases()}
CHEAP = [case for case in CASES.values() if case.cost <= 3 and case.tier == "quick"]


@pytest.fixture(scope="module")
def reference() -> Reference:
    return Reference()


@pytest.mark.parametrize("name", MUTANTS)
def test_mutant_is_caught_where_it_is_wrong_and_named(name: str, reference: Reference) -> None:
    mutant = MUTANTS[name]
    if name.startswith("TORCH_"):
        pytest.importorskip("torch")
    result = run_case(CASES[mutant.case], LocalTarget(f"meta_tests.mutants:{name}"), reference)
    assert result.status == "failed", f"{mutant.about}: {result}"
    assert result.where.startswith(mutant.where), result.message
    assert "should" in result.message
    said = [suspect.text for suspect in result.diagnosis]
    if mutant.diagnosis:
        assert set(result.diagnosis[0].deviations) == set(mutant.diagnosis), said
    elif mutant.says:
        assert all(words in said[0] for words in mutant.says), said
    else:
        assert not any(suspect.complete for suspect in result.diagnosis), said


def test_mutants_are_many_and_nearly_all_explained() -> None:
    beyond = [name for name, mutant in MUTANTS.items() if not (mutant.diagnosis or mutant.says)]
    assert len(MUTANTS) >= 100
    assert len(beyond) <= len(MUTANTS) // 10
    assert sum(name.startswith("TORCH_") for name in MUTANTS) >= 60


def test_mutants_name_cases_and_deviations_that_exist() -> None:
    assert {mutant.case for mutant in MUTANTS.values()} <= CASES.keys()
    named = {id_ for mutant in MUTANTS.values() for id_ in mutant.diagnosis}
    assert named <= catalogue().keys()


IN_FLOAT32 = {
    "NO_NESTEROV": "momentum does not look ahead",
    "BIASED_VARIANCE": "its running variance is divided by n",
    "NORM_WITHOUT_BATCH_GRADIENT": "no gradient flows through its mean and variance",
    "DECAYED_GRADIENTS": "as it is shown, contains weight decay of 0.0001",
}


@pytest.mark.parametrize("name", IN_FLOAT32)
def test_mutant_that_trains_is_named_in_float32_too(name: str, reference: Reference) -> None:
    case = CASES["float32/training-step-with-decided-relus"]
    result = run_case(case, LocalTarget(f"meta_tests.mutants:{name}"), reference)
    assert result.status == "failed"
    assert result.diagnosis[0].complete, result.message
    assert IN_FLOAT32[name] in result.diagnosis[0].text


@pytest.mark.parametrize("row", sixteen_bits.ROWS, ids=lambda row: row.name)
def test_mutant_that_trains_is_named_in_16_bits_too(
    row: sixteen_bits.NarrowRow, reference: Reference
) -> None:
    pytest.importorskip("torch")
    target = LocalTarget("meta_tests.mutants:TORCH_NO_NESTEROV")
    result = run_case(CASES[row.name], target, reference)
    assert result.status == "failed"
    assert "momentum does not look ahead" in result.diagnosis[0].text


@pytest.mark.parametrize(
    "case",
    [
        "random/8-random-networks",
        pytest.param("random/4-random-networks-train", marks=pytest.mark.full),
    ],
)
def test_random_network_that_fails_is_explained_op_by_op(case: str, reference: Reference) -> None:
    target = LocalTarget("meta_tests.mutants:EPSILON_OF_KERAS")
    result = run_case(CASES[case], target, reference)
    assert result.status == "failed"
    assert result.diagnosis, result.message
    said = result.diagnosis[0].text
    assert "eps 1e-3" in said or "epsilon is 0.001" in said, said


@pytest.mark.parametrize("case", CHEAP, ids=lambda case: case.id)
def test_reference_meets_its_own_suite(case: Case, reference: Reference) -> None:
    result = run_case(case, LocalTarget("numpy"), reference)
    refused = case.id.startswith("bfloat16/")  # numpy has none
    assert result.status == ("unsupported" if refused else "passed"), result.message


def test_forward_cases_vary_every_field_of_the_spec() -> None:
    specs = [row.spec for row in ROWS]
    for field in dataclasses.fields(DenseNetSpec):
        values = {getattr(spec, field.name) for spec in specs}
        assert len(values) > 1, f"no forward case changes {field.name}"


def test_random_specs_vary_every_field_of_the_spec() -> None:
    assert set(FIELDS) == {field.name for field in dataclasses.fields(DenseNetSpec)}


BLOCKS = {
    "training/learning-rate-drop",
    "training/plain-cifar-network",
    "training/given-dropout-masks-after-every-conv",
}
"""What trains through blocks of each kind is asked of every mode that trains."""


@pytest.mark.parametrize("mode", ["fast", "efficient"])
def test_modes_leave_to_the_full_tier_what_they_do_not_change(mode: str) -> None:
    in_layers, in_mode = all_cases(), all_cases(mode)
    assert [case.id for case in in_mode] == [case.id for case in in_layers]
    quick = {case.id for case in in_mode if case.tier == "quick"}
    assert quick < {case.id for case in in_layers if case.tier == "quick"}
    assert not quick & {"training/label-smoothing", "structure/densenet121"}
    assert quick >= BLOCKS


def test_mode_fast_is_asked_for_what_all_fused_networks_compute() -> None:
    quick = {case.id for case in all_cases("fast") if case.tier == "quick"}
    assert quick >= {"training/given-dropout-masks", "parallel/synchronised-norms"}
    assert sum(name.startswith("forward/") for name in quick) > 30
