"""Reports say all there is to know of a run, and stay whole whatever a target says."""

from __future__ import annotations

import io
import json
from html.parser import HTMLParser
from importlib import resources
from typing import Any
from xml.etree import ElementTree

import jsonschema
import numpy as np
import pytest
from rich.console import Console

from densespec_conformance.asking.subject import Subject
from densespec_conformance.case import Case
from densespec_conformance.explaining.diagnosis import Suspect
from densespec_conformance.judging.compare import Comparison, stats
from densespec_conformance.judging.outcome import Outcome
from densespec_conformance.report.html import page
from densespec_conformance.report.junit import junit
from densespec_conformance.report.record import SHOWN, Record, Run, as_record
from densespec_conformance.report.terminal import print_report
from densespec_conformance.running.runner import STATUSES, Result

NASTY = '</script><img src="http://evil.example/x" onerror=alert(1)> & \x1b[31m ü'
SUBJECTS = (Subject("numpy"), Subject(f'mine:make("{NASTY}")', kind="constructor"))
VOID = {"meta", "input", "br", "wbr", "img", "link"}


def _comparison(index: int, error: float) -> Comparison:
    array = np.arange(6.0).reshape(2, 3) + index
    return Comparison(f"op{index}", error, 1e-10, stats(array), stats(array))


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
        diagnosis=(Suspect(("eps",), f"matches if {NASTY}", 0.0, True),),
    )


RUN = Run(
    subjects=SUBJECTS,
    results=tuple(_result(one.name, status) for one in SUBJECTS for status in STATUSES),
    tier="quick",
    command=f"python -m densespec_conformance numpy '{NASTY}'",
    options=("--spec", "densenet121"),
    seconds=12.5,
    warnings=(NASTY,),
)


@pytest.fixture(scope="module")
def record() -> Record:
    return as_record(RUN)


def test_record_meets_its_published_schema(record: Record) -> None:
    text = resources.files("densespec_conformance.report").joinpath("schema.json").read_text()
    written = json.loads(json.dumps(record, allow_nan=False))
    jsonschema.Draft202012Validator(json.loads(text)).validate(written)
    assert record["counts"] == dict.fromkeys(STATUSES, 2)
    assert not record["ok"]


def test_record_keeps_the_comparisons_about_the_first_difference(record: Record) -> None:
    failed = next(one for one in record["results"] if one["status"] == "failed")
    names = [one["name"] for one in failed["comparisons"]]
    assert len(names) == SHOWN
    assert "op149" in names
    assert "op150" in names
    assert failed["comparisons_left_out"] == 200 - SHOWN
    assert failed["comparisons"][-1]["error"] == "inf"


def test_every_result_has_the_command_that_repeats_it(record: Record) -> None:
    command = "python -m densespec_conformance numpy --spec densenet121 --case group-6/passed"
    assert record["results"][0]["reproduce"] == command


def test_run_in_which_nothing_passed_is_not_ok() -> None:
    unsupported = _result("numpy", "unsupported")
    assert not Run(SUBJECTS[:1], (unsupported,), "quick").ok
    assert Run(SUBJECTS[:1], (unsupported, _result("numpy", "passed")), "quick").ok


def test_junit_holds_each_case_once_with_what_came_of_it(record: Record) -> None:
    root = ElementTree.fromstring(junit(record).encode())
    assert root.tag == "testsuites"
    suites = root.findall("testsuite")
    assert [suite.get("name", "")[:4] for suite in suites] == ["nump", "mine"]
    for suite in suites:
        cases = suite.findall("testcase")
        found = {case.get("name"): [child.tag for child in case] for case in cases}
        assert len(found) == len(STATUSES)
        assert found["group-6/passed"] == []
        assert found["group-6/failed"] == found["group-7/xpassed"] == ["failure"]
        assert found["group-11/unsupported"] == found["group-7/xfailed"] == ["skipped"]
        assert found["group-13/out-of-memory"] == found["group-7/crashed"] == ["error"]
        for attribute, tag in (
            ("failures", "failure"),
            ("errors", "error"),
            ("skipped", "skipped"),
        ):
            assert int(suite.get(attribute, "")) == len(suite.findall(f"testcase/{tag}"))
        properties = {one.get("name"): one.get("value") for one in suite.iter("property")}
        assert properties["version.numpy"] == np.__version__
    failure = suites[0].find("testcase/failure")
    assert failure is not None
    assert "diagnosis: matches if </script>" in (failure.text or "")


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
def parsed(record: Record) -> Page:
    return Page(page(record))


def test_page_is_well_formed_and_loads_nothing(record: Record, parsed: Page) -> None:
    assert parsed.open == []
    assert all(link.startswith("#") for link in parsed.links)
    assert parsed.handlers == []
    assert len(parsed.ids) == len(set(parsed.ids))
    style = page(record).partition("<style>")[2].partition("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style


def test_page_shows_every_result_and_says_what_came_of_it(record: Record, parsed: Page) -> None:
    for index, result in enumerate(record["results"]):
        assert f"result-{index}" in parsed.ids
        start = f"{result['case']} on {result['target']}: {result['status']}"
        assert any(label.startswith(start) for label in parsed.labels)
    for case in record["cases"]:
        assert case["id"].partition("/")[2] in parsed.text
    assert "0 of 2 targets conform" in parsed.text


def test_page_holds_the_whole_record_and_escapes_what_targets_say(
    record: Record, parsed: Page
) -> None:
    data, script = parsed.scripts
    assert json.loads(data) == record
    assert "<" not in data
    assert "innerHTML" not in script
    assert NASTY in parsed.text


def test_page_of_one_target_that_conforms_says_so() -> None:
    run = Run(SUBJECTS[:1], (_result("numpy", "passed"),), "quick")
    text = Page(page(as_record(run))).text
    assert "numpy conforms" in text
    assert "What is wrong" not in text
    assert "20%" in text


def test_terminal_shows_difference_diagnosis_and_command() -> None:
    console = Console(width=200, record=True, file=io.StringIO())
    print_report(RUN, console, durations=3)
    text = console.export_text()
    assert "diagnosis: matches if </script>" in text
    assert "again: python -m densespec_conformance numpy --spec densenet121" in text
    assert "2 passed, 2 failed, 2 error" in text
    assert "warning: </script>" in text
    assert "The slowest cases" in text
