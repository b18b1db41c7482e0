"""What the runner does around the cases: choosing, expecting, remembering, limiting, explaining."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from densespec.network.catalogue import get
from densespec_conformance.answering.target import LocalTarget, TargetCrashed, TargetError
from densespec_conformance.asking.requests import NetworkToBuild, ReadWeights, Unsupported
from densespec_conformance.asking.subject import Subject
from densespec_conformance.case import Case
from densespec_conformance.cases import all_cases
from densespec_conformance.judging.compare import Mismatch
from densespec_conformance.judging.expected import Reference
from densespec_conformance.judging.outcome import EXACT, Outcome
from densespec_conformance.running.expectations import (
    ExpectationError,
    ExpectedFailure,
    read_expectations,
    unmatched,
)
from densespec_conformance.running.last_failed import read_last_failed, write_last_failed
from densespec_conformance.running.plans import Choice
from densespec_conformance.running.runner import (
    Observer,
    Plan,
    Recorder,
    Result,
    Status,
    limit_of,
    run,
    run_case,
    settled,
)
from densespec_conformance.running.selection import KeywordError, keyword

CASES = {case.id: case for case in all_cases()}
STEM = CASES["forward/torchvision-stem"]


def _raises(error: Exception) -> Case:
    def check(target: object, reference: object) -> Outcome:
        raise error

    return Case("fake/case", "it holds", check)


PASSES = Case("fake/passes", "it holds", lambda target, reference: EXACT)


def _result_of(case: Case) -> Result:
    return run_case(case, LocalTarget("numpy"), Reference(), diagnosis=False)


@pytest.mark.parametrize(
    ("expression", "ids"),
    [
        ("", ["a/one", "a/two-three", "b/one"]),
        ("ONE", ["a/one", "b/one"]),
        ("a/ and not two", ["a/one"]),
        ("not (two or b/)", ["a/one"]),
        ("b or two and three", ["a/two-three", "b/one"]),
        ("not not b/one", ["b/one"]),
    ],
)
def test_keywords_choose_as_those_of_pytest_do(expression: str, ids: list[str]) -> None:
    keep = keyword(expression)
    assert [id_ for id_ in ("a/one", "a/two-three", "b/one") if keep(id_)] == ids


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("a and", "the end at column 6, but should be a word"),
        ("(a", r"should be '\)'"),
        ("a b", "'b' at column 2"),
        ("a)", r"'\)' at column 2, but should be 'and', 'or' or the end"),
    ],
)
def test_expression_that_cannot_be_read_is_refused_with_its_place(
    expression: str, message: str
) -> None:
    with pytest.raises(KeywordError, match=message):
        keyword(expression)


def test_full_cases_run_on_request_or_by_their_id() -> None:
    full = replace(PASSES, id="fake/full", tier="full")
    assert Choice().of([PASSES, full]) == (PASSES,)
    assert Choice("full").of([PASSES, full]) == (PASSES, full)
    assert Choice(ids=("fake/full",)).of([PASSES, full]) == (full,)


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        pytest.param(
            Mismatch("stem.conv", "differs"), "failed", "stem.conv: differs", id="differs"
        ),
        pytest.param(Unsupported("one device"), "unsupported", "one device", id="unsupported"),
        pytest.param(TargetError("no kernel"), "error", "no kernel", id="error"),
        pytest.param(TargetCrashed("died"), "crashed", "died", id="crash"),
        pytest.param(TypeError("a list"), "error", "could not be checked: TypeError", id="odd"),
    ],
)
def test_whatever_a_case_raises_is_a_result(error: Exception, status: Status, message: str) -> None:
    result = _result_of(_raises(error))
    assert result.status == status
    assert message in result.message


def test_difference_is_explained() -> None:
    target = LocalTarget("meta_tests.mutants:EPSILON_OF_KERAS")
    result = run_case(STEM, target, Reference())
    assert result.where == "stem.norm"
    assert result.diagnosis[0].complete
    assert "1e-3" in result.diagnosis[0].text
    assert next(one.name for one in result.comparisons if not one.ok) == "stem.norm"


def test_nothing_more_is_asked_of_a_target_that_crashed_within_a_case() -> None:
    class Crashing:
        name, asked = "crashing", 0

        def ask(self, request: object) -> object:
            self.asked += 1
            raise TargetCrashed("its process died")

    target = Crashing()
    recorder = Recorder(target)
    for _ in range(3):
        with pytest.raises(TargetCrashed):
            recorder.ask(ReadWeights(NetworkToBuild(get("densenet-40-12"))))
    assert target.asked == 1


def test_time_limit_follows_the_cost_of_a_case_unless_told() -> None:
    assert limit_of(replace(PASSES, cost=1), None) == 300
    assert limit_of(replace(PASSES, cost=150), None) == 1500
    assert limit_of(replace(PASSES, cost=150), 7) == 7


KNOWN = ExpectedFailure("fake/*", "a known bug")


@pytest.mark.parametrize(
    ("case", "known", "status", "ok"),
    [
        pytest.param(PASSES, None, "passed", True, id="pass"),
        pytest.param(PASSES, KNOWN, "xpassed", False, id="unexpected-pass"),
        pytest.param(_raises(Mismatch("a.b", "x")), KNOWN, "xfailed", True, id="expected"),
        pytest.param(_raises(TargetCrashed("x")), KNOWN, "xfailed", True, id="expected-crash"),
        pytest.param(
            _raises(TargetCrashed("x")),
            replace(KNOWN, status="failed"),
            "crashed",
            False,
            id="kind",
        ),
        pytest.param(
            _raises(Mismatch("a.b", "x")), replace(KNOWN, where="a.c"), "failed", False, id="place"
        ),
        pytest.param(_raises(Unsupported("x")), KNOWN, "unsupported", True, id="unsupported"),
    ],
)
def test_expected_failures_are_strict(
    case: Case, known: ExpectedFailure | None, status: Status, ok: bool
) -> None:
    result = settled(_result_of(case), known)
    assert (result.status, result.ok) == (status, ok)


def test_expected_failures_are_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "expected.toml"
    path.write_text(
        '[["torchvision.models:*"]]\ncase = "forward/*"\nreason = "why"\nwhere = "s*"\n'
    )
    (one,) = read_expectations(path)
    assert one.concerns("torchvision.models:densenet121", "forward/float64")
    assert not one.concerns("timm:densenet121", "forward/float64")
    assert one.covers("failed", "stem.conv")
    assert not one.covers("failed", "final.norm")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("[[", "not TOML", id="not-toml"),
        pytest.param('[a]\ncase = "x"', "'a' should be a list", id="no-list"),
        pytest.param('[[a]]\ncase = "x"', "'a', entry 1: has no reason", id="no-reason"),
        pytest.param('[[a]]\ncase = 1\nreason = "y"', "case = 1", id="no-text"),
        pytest.param('[[a]]\nid = "x"', "unknown key 'id'. Known: case, reason", id="unknown-key"),
        pytest.param(
            '[[a]]\ncase = "x"\nreason = "y"\nstatus = "passed"', "status = 'passed'", id="status"
        ),
    ],
)
def test_file_of_expected_failures_is_refused_with_the_entry(
    text: str, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "expected.toml"
    path.write_text(text)
    with pytest.raises(ExpectationError, match=message):
        read_expectations(path)


def test_expected_failure_that_matches_no_case_is_warned_of_where_its_target_runs() -> None:
    entries = [
        ExpectedFailure("gone/case", "why", "mine:*"),
        ExpectedFailure("a/b", "why", "mine:*"),
    ]
    (warning,) = unmatched(entries, {"mine:BACKEND": ["a/b"]})
    assert "'gone/case' of mine:BACKEND matches no case" in warning
    assert unmatched(entries, {"other:BACKEND": ["a/b"]}) == ()


def test_what_failed_is_remembered_until_it_passes(tmp_path: Path) -> None:
    write_last_failed(tmp_path, [("one", "a", False), ("one", "b", False), ("two", "a", True)])
    write_last_failed(tmp_path, [("one", "a", True)])
    assert read_last_failed(tmp_path) == {"one": {"b"}}
    folder = tmp_path / ".densespec_conformance"
    assert (folder / ".gitignore").read_text().endswith("*\n")


@pytest.mark.parametrize(
    "text", ["", "[]", '{"format": 99, "failed": {"a": ["b"]}}', '{"format": 1}']
)
def test_memory_that_is_damaged_or_of_another_version_is_no_memory(
    text: str, tmp_path: Path
) -> None:
    write_last_failed(tmp_path, [("one", "a", False)])
    (tmp_path / ".densespec_conformance" / "last_failed.json").write_text(text)
    assert read_last_failed(tmp_path) == {}
    write_last_failed(tmp_path, [("one", "b", False)])
    kept = json.loads((tmp_path / ".densespec_conformance" / "last_failed.json").read_text())
    assert kept["failed"] == {"one": ["b"]}


class Log(Observer):
    def __init__(self) -> None:
        self.events: list[str] = []

    def begun(self, subject: Subject, case: Case) -> None:
        self.events.append(f"begun {case.id}")

    def done(self, result: Result) -> None:
        self.events.append(f"{result.status} {result.case.id}")


def _case(name: str, cost: float, check: Callable[..., Outcome]) -> Case:
    return Case(f"fake/{name}", "it holds", check, cost=cost)


def test_cheap_cases_run_first_and_the_first_failure_can_end_the_run() -> None:
    def differs(target: object, reference: object) -> Outcome:
        raise Mismatch("stem.conv", "differs")

    cases = (
        _case("dear", 9, PASSES.check),
        _case("wrong", 5, differs),
        _case("cheap", 1, PASSES.check),
    )
    log = Log()
    ended = run([Plan(Subject("numpy"), cases)], exit_first=True, observer=log)
    assert log.events == [
        "begun fake/cheap",
        "passed fake/cheap",
        "begun fake/wrong",
        "failed fake/wrong",
    ]
    assert [result.status for result in ended.results] == ["passed", "failed"]
    assert not ended.interrupted
