"""Reports say all there is to know of a run, and stay whole whatever a target says."""

from __future__ import annotations

import io
import json
from html.parser import HTMLParser
from importlib import resources
from typing import Any

import jsonschema
import numpy as np
import pytest
from rich.console import Console

from densespec_conformance.asking.requests import Description
from densespec_conformance.asking.subject import Subject
from densespec_conformance.case import Case
from densespec_conformance.explaining.diagnosis import Suspect
from densespec_conformance.explaining.local.findings import WrongOp
from densespec_conformance.judging.compare import Comparison, stats
from densespec_conformance.judging.outcome import Outcome
from densespec_conformance.report.html import page
from densespec_conformance.report.record import (
    SHOWN,
    Findings,
    Json,
    as_record,
    result_record,
    runs_on_record,
)
from densespec_conformance.report.terminal import print_report
from densespec_conformance.running.choosing import Assignment
from densespec_conformance.running.result import STATUSES, Result

NASTY = '</script><img src="http://evil.example/x" onerror=alert(1)> & \x1b[31m ü'
SUBJECTS = (Subject("numpy"), Subject(f'mine:make("{NASTY}")', kind="constructor"))
VOID = {"meta", "input", "br", "wbr", "img", "link"}


def _comparison(index: int, error: float) -> Comparison:
    array = np.arange(6.0).reshape(2, 3) + index
    return Comparison(f"op{index}", error, 1e-10, stats(array), stats(array))


WRONG = WrongOp(
    where="a",
    among=("a",),
    kind=object,
    error=0.1,
    allowed=1e-6,
    actual=stats(np.ones(3)),
    expected=stats(np.zeros(3)),
    does=NASTY,
)


def _result(target: str, status: Any) -> Result:
    case = Case(f"group-{len(status)}/{status.replace(' ', '-')}", f"claims {NASTY}", print)
    if status == "passed":
        return Result(target, case, status, outcome=Outcome(2e-11, 1e-10, "op1", "float64"))
    if status != "failed":
        return Result(target, case, status, f"{NASTY}\nsecond line", seconds=1.5)
    return Result(
        target,
        case,
        status,
        f"op150: {NASTY}",
        where="op150",
        comparisons=tuple(_comparison(i, np.inf if i >= 150 else 1e-12) for i in range(200)),
        diagnosis=(
            Suspect(("eps",), f"matches if {NASTY}", 0.0, True, ops=(WRONG,), nodes=("a", "b")),
        ),
    )


RUNS_ON = Description({"numpy": np.__version__}, NASTY, 2, False, notes=(NASTY,))


def _findings(*results: Result, **about: Any) -> Findings:
    assignments = []
    for subject in SUBJECTS:
        cases = tuple(result.case for result in results if result.target == subject.name)
        assignments.append(Assignment(subject, cases, cases))
    options = ("--spec", "densenet121")
    records = {(one.target, one.case.id): result_record(one, options) for one in results}
    return Findings(tuple(assignments), "quick", results=records, **about)


@pytest.fixture(scope="module")
def record() -> Json:
    results = [_result(one.name, status) for one in SUBJECTS for status in STATUSES]
    findings = _findings(
        *results,
        command=f"python -m densespec_conformance numpy '{NASTY}'",
        runs_on={SUBJECTS[1].name: runs_on_record(RUNS_ON)},
        seconds=12.5,
        warnings=[NASTY],
    )
    return as_record(findings)


def test_record_meets_its_published_schema(record: Json) -> None:
    text = resources.files("densespec_conformance.report").joinpath("schema.json").read_text()
    written = json.loads(json.dumps(record, allow_nan=False))
    jsonschema.Draft202012Validator(json.loads(text)).validate(written)
    assert record["counts"] == dict.fromkeys(STATUSES, 2)
    assert not record["ok"]


def test_record_keeps_the_comparisons_about_the_first_difference(record: Json) -> None:
    failed = next(one for one in record["results"] if one["status"] == "failed")
    names = [one["name"] for one in failed["comparisons"]]
    assert len(names) == SHOWN
    assert "op149" in names
    assert "op150" in names
    assert failed["comparisons_left_out"] == 200 - SHOWN
    assert failed["comparisons"][-1]["error"] == "inf"


def test_every_result_has_the_command_that_repeats_it(record: Json) -> None:
    command = "python -m densespec_conformance numpy --spec densenet121 --case group-6/passed"
    assert record["results"][0]["reproduce"] == command


def test_run_is_ok_if_it_was_not_ended_early_and_something_passed() -> None:
    unsupported, passed = (_result("numpy", status) for status in ("unsupported", "passed"))
    assert not as_record(_findings(unsupported))["ok"]
    assert as_record(_findings(unsupported, passed))["ok"]
    assert not as_record(_findings(passed, interrupted=True))["ok"]


def test_results_stand_in_the_order_of_targets_and_cases_however_they_came() -> None:
    found = _findings(*(_result("numpy", status) for status in STATUSES))
    found.results = dict(reversed(found.results.items()))
    assert [one["status"] for one in as_record(found)["results"]] == list(STATUSES)


class Page(HTMLParser):
    """What a page is made of."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.scripts: list[str] = []
        self.labels: list[str] = []
        self.ids: list[str] = []
        self.handlers: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "action", "poster", "srcset", "data"):
                self.links.append(value or "")
            if name.startswith("on"):
                self.handlers.append(name)
            if name == "id":
                self.ids.append(value or "")
            if name == "aria-label":
                self.labels.append(value or "")
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"{tag} ends out of turn"

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.scripts[-1] += data
        elif self.open and self.open[-1] != "style":
            self.text += data


@pytest.fixture(scope="module")
def parsed(record: Json) -> Page:
    return Page(page(record))


def test_page_is_well_formed_and_loads_nothing(record: Json, parsed: Page) -> None:
    assert parsed.open == []
    assert all(link.startswith("#") for link in parsed.links)
    assert parsed.handlers == []
    assert len(parsed.ids) == len(set(parsed.ids))
    style = page(record).partition("<style>")[2].partition("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style


def test_page_shows_every_result_and_says_what_came_of_it(record: Json, parsed: Page) -> None:
    for index, result in enumerate(record["results"]):
        assert f"result-{index}" in parsed.ids
        start = f"{result['case']} on {result['target']}: {result['status']}"
        assert any(label.startswith(start) for label in parsed.labels)
    for case in record["cases"]:
        assert case["id"].partition("/")[2] in parsed.text
    assert "0 of 2 targets conform" in parsed.text


def test_page_holds_the_whole_record_and_escapes_what_targets_say(
    record: Json, parsed: Page
) -> None:
    data, script = parsed.scripts
    assert json.loads(data) == record
    assert "<" not in data
    assert "innerHTML" not in script
    assert NASTY in parsed.text
    assert SUBJECTS[1].name in parsed.text
    assert "wbr" not in parsed.text


def test_page_of_one_target_that_conforms_says_so() -> None:
    text = Page(page(as_record(_findings(_result("numpy", "passed"))))).text
    assert "numpy conforms" in text
    assert "What is wrong" not in text
    assert "20%" in text


def test_terminal_shows_difference_diagnosis_and_command(record: Json) -> None:
    console = Console(width=200, record=True, file=io.StringIO())
    print_report(record, console, durations=3)
    text = console.export_text()
    assert "diagnosis: matches if </script>" in text
    assert "again: python -m densespec_conformance numpy --spec densenet121" in text
    assert "2 passed, 2 failed, 2 error" in text
    assert "warning: </script>" in text
    assert "The slowest cases" in text
