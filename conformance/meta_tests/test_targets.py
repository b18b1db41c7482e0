"""A backend that crashes, hangs or raises is reported as such, and the run goes on."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from densespec_conformance.cases import all_cases
from densespec_conformance.runner import Result, run

CASES = [case for case in all_cases() if case.id.startswith("initial/")]


def _run(attribute: str, timeout: float) -> list[Result]:
    return run([f"meta_tests.mutants:{attribute}"], CASES, timeout=timeout, jobs=1)


def test_crash_is_reported_with_its_exit_code_for_every_case() -> None:
    results = _run("CRASHES", timeout=60)
    assert [result.status for result in results] == ["crashed"] * len(CASES)
    assert "exit code 41" in results[0].message


def test_hang_is_ended_and_reported() -> None:
    results = run(["meta_tests.mutants:HANGS"], CASES[:1], timeout=3, jobs=1)
    assert [result.status for result in results] == ["timeout"]
    assert "3 s" in results[0].message


def test_exception_is_reported_with_its_message() -> None:
    results = _run("RAISES", timeout=60)
    assert [result.status for result in results] == ["error"] * len(CASES)
    assert "no kernel image is available" in results[0].message


def _suite(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "densespec_conformance", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param([], "no backend given", id="no-backend"),
        pytest.param(["torch.n"], "Did you mean torch.nn", id="misspelt-backend"),
        pytest.param(["numpy", "-k", "nonsense"], "no quick case", id="no-case"),
        pytest.param(["numpy", "--json", "/nowhere/x.json"], "no folder", id="no-folder"),
    ],
)
def test_unusable_arguments_are_an_error_not_a_skip(arguments: list[str], message: str) -> None:
    done = _suite(*arguments)
    assert done.returncode == 2
    assert message in done.stderr


def test_backend_that_cannot_be_imported_fails_every_case() -> None:
    done = _suite("no_such_module:BACKEND", "-k", "initial")
    assert done.returncode == 1
    assert "can't be loaded" in done.stdout
    assert "0 passed, 4 failed" in done.stdout


def test_run_that_passes_exits_with_0_and_writes_a_report(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    done = _suite("numpy", "-k", "initial", "--json", str(path))
    assert done.returncode == 0, done.stdout
    assert "4 passed, 0 failed" in done.stdout
    report = json.loads(path.read_text())
    assert report["passed"] == 4
    assert {result["status"] for result in report["results"]} == {"passed"}
    assert report["environment"]["versions"]["densespec"]
