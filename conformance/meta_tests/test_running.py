"""One case on one target: choosing, expecting, limiting, explaining."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from densespec.network.catalogue import get
from densespec_conformance.answering.target import LocalTarget, TargetCrashed, TargetError
from densespec_conformance.asking.requests import NetworkToBuild, ReadWeights, Unsupported
from densespec_conformance.asking.subject import Subject, SubjectError, subject_of
from densespec_conformance.case import Case
from densespec_conformance.cases import all_cases
from densespec_conformance.judging.compare import Mismatch
from densespec_conformance.judging.expected import Reference
from densespec_conformance.judging.outcome import EXACT, Outcome
from densespec_conformance.running.choosing import assigned
from densespec_conformance.running.examiner import Examiner, limit_of
from densespec_conformance.running.expectations import (
    ExpectationError,
    ExpectedFailure,
    read_expectations,
    unmatched,
)
from densespec_conformance.running.one_case import Conversation, run_case, settled
from densespec_conformance.running.result import Result, Status
from densespec_conformance.running.sources import surely_lacks

CASES = {case.id: case for case in all_cases()}
STEM = CASES["forward/torchvision-stem"]


def _raises(error: Exception) -> Case:
    def check(target: object, reference: object) -> Outcome:
        raise error

    return Case("fake/case", "it holds", check)


PASSES = Case("fake/passes", "it holds", lambda target, reference: EXACT)


def _result_of(case: Case) -> Result:
    return run_case(case, LocalTarget("numpy"), Reference(), diagnosis=False)


def test_full_cases_run_on_request_or_by_their_id_and_cheap_ones_first() -> None:
    (full, *_) = (case for case in CASES.values() if case.tier == "full")
    quick = assigned(Subject("numpy"))
    assert {case.tier for case in quick.wanted} == {"quick"}
    costs = [case.cost for case in quick.wanted]
    assert costs == sorted(costs)
    assert set(quick.cases) == set(assigned(Subject("numpy"), tier="full").wanted)
    assert assigned(Subject("numpy"), ids=[full.id]).wanted == (full,)


def test_package_that_nobody_has_is_refused_without_importing_what_others_have() -> None:
    with pytest.raises(SubjectError, match="no package 'no_such_package'"):
        assigned(Subject("no_such_package.nets:NET"))
    assert assigned(Subject("meta_tests.mutants:NOT_LOOKED_FOR")).wanted


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
    conversation = Conversation(target)
    for _ in range(3):
        with pytest.raises(TargetCrashed):
            conversation.ask(ReadWeights(NetworkToBuild(get("densenet-40-12"))))
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


def test_target_is_described_with_the_first_case_that_it_answers() -> None:
    cases = [_raises(TargetCrashed("died")), PASSES, PASSES]
    with Examiner(Subject("numpy"), Reference()) as examiner:
        crashed, first, second = (examiner.examine(case) for case in cases)
    assert crashed.runs_on is None
    assert first.runs_on is not None
    assert "numpy" in first.runs_on.versions
    assert second.runs_on is None


@pytest.mark.parametrize("name", ["json:NOPE", "json.nope:BACKEND"])
def test_an_attribute_that_is_surely_not_there_is_refused_at_once(name: str) -> None:
    with pytest.raises(SubjectError, match=r"has no attribute '(NOPE|BACKEND)'"):
        assigned(Subject(name))


def test_a_short_form_names_what_it_stands_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "timm.py").write_text("def create_model(name): ...")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    assert assigned(subject_of("timm:densenet121")).wanted
    (tmp_path / "timm.py").write_text("")
    with pytest.raises(SubjectError, match="module 'timm' has no attribute 'create_model'"):
        assigned(subject_of("timm:densenet121"))


@pytest.mark.parametrize(
    ("lines", "lacks"),
    [
        ("X = 1", True),
        ("from json.decoder import *", True),
        ("from .other import *", False),
        ("def __getattr__(name): return 1", False),
        ("BACKEND = 1", False),
        ("if True:\n    import json as BACKEND", False),
    ],
)
def test_sources_tell_what_a_module_has(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, lines: str, lacks: bool
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "__init__.py").write_text(lines)
    (tmp_path / "mine" / "other.py").write_text("BACKEND = 1")
    monkeypatch.chdir(tmp_path)
    assert surely_lacks("mine", "BACKEND") is lacks


def test_sources_are_found_in_folders_that_are_no_packages(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "outer" / "inner").mkdir(parents=True)
    (tmp_path / "outer" / "inner" / "mine.py").write_text("BACKEND = 1")
    monkeypatch.chdir(tmp_path)
    assert not surely_lacks("outer.inner.mine", "BACKEND")
    assert surely_lacks("outer.inner.mine", "OTHER")
