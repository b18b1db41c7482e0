"""The suite in somebody else's pytest run, beside their own tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

CONFIG = """\
[pytest]
addopts = -p densespec_conformance.plugin
densespec_target = meta_tests.mutants:OTHER_SEED numpy
densespec_expect = sub/expected.toml
"""
SAME_BITS = "meta_tests.mutants:OTHER_SEED::initial/same-bits-in-float32"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "test_own.py").write_text("def test_initial_own() -> None:\n    pass\n")
    return tmp_path


def _pytest(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "COLUMNS": "200"}
    command = [sys.executable, "-m", "pytest", "-p", "densespec_conformance.plugin", *arguments]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)


def test_cases_are_tests_among_others(project: Path) -> None:
    path = project / "junit.xml"
    done = _pytest(
        project, "--densespec-target", "numpy", "-k", "initial", "-v", "--junitxml", str(path)
    )
    assert done.returncode == 0, done.stdout
    assert "numpy::initial/same-bits-in-float32 PASSED" in done.stdout
    assert "5 passed" in done.stdout
    cases = ElementTree.parse(path).getroot().iter("testcase")
    names = {(case.get("classname"), case.get("name")) for case in cases}
    assert ("numpy", "initial/same-bits-in-float64") in names
    assert ("test_own", "test_initial_own") in names


@pytest.mark.parametrize("processes", ["0", "2"], ids=["one-pytest", "xdist"])
def test_reports_hold_the_cases_alone_and_all_of_them(project: Path, processes: str) -> None:
    targets = ("numpy", "meta_tests.mutants:OTHER_SEED")
    words = [word for name in targets for word in ("--densespec-target", name)]
    words += ["-k", "initial", "-n", processes, "--densespec-no-diagnosis"]
    words += ["--densespec-json", "report.json", "--densespec-html", "report.html"]
    done = _pytest(project, *words)
    assert done.returncode == 1
    assert "4 failed, 5 passed" in done.stdout
    report = json.loads((project / "report.json").read_text())
    statuses = {target["name"]: target["counts"] for target in report["targets"]}
    assert [statuses[name]["passed"] for name in targets] == [4, 0]
    assert [statuses[name]["failed"] for name in targets] == [0, 4]
    assert all(target["runs_on"] for target in report["targets"])
    assert report["command"].startswith("python -m pytest")
    assert "1 of 2 targets conform" in (project / "report.html").read_text()


def test_failure_shows_the_difference_and_no_traceback_and_runs_again_alone(project: Path) -> None:
    target = ("--densespec-target", "meta_tests.mutants:EPSILON_OF_KERAS")
    done = _pytest(project, *target, "-k", "torchvision-stem and forward or initial")
    assert done.returncode == 1
    assert "stem.norm: has mean" in done.stdout
    assert "diagnosis: matches the reference if norms use" in done.stdout
    assert "Traceback" not in done.stdout
    assert "collecting.py" not in done.stdout
    assert "1 failed, 5 passed" in done.stdout
    again = _pytest(project, *target, "--lf", "--densespec-no-diagnosis")
    assert "1 failed" in again.stdout
    assert "passed" not in again.stdout.splitlines()[-1]
    assert "diagnosis" not in again.stdout


def test_cases_can_be_left_out_by_their_mark(project: Path) -> None:
    done = _pytest(project, "--densespec-target", "numpy", "-m", "not densespec")
    assert done.returncode == 0
    assert "1 passed" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param([], "has no target", id="no-target"),
        pytest.param(["--densespec-target", "nump"], "Did you mean numpy", id="misspelt"),
        pytest.param(
            ["--densespec-target", "numpy", "--densespec-tier", "slow"], "quick or full", id="tier"
        ),
        pytest.param(
            ["--densespec-target", "numpy", "--densespec-timeout", "1m"], "be seconds", id="timeout"
        ),
    ],
)
def test_nothing_to_run_is_an_error_not_a_skip(
    arguments: list[str], message: str, project: Path
) -> None:
    done = _pytest(project, *arguments)
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert message in done.stderr


def test_configuration_names_target_and_expected_failures(project: Path) -> None:
    (project / "pytest.ini").write_text(CONFIG)
    (project / "sub").mkdir()
    entry = 'case = "{}"\nreason = "known"\n'
    entries = {
        "meta_tests.*": ("initial/same-bits-in-*", "initial/weights-*", "gone/case"),
        "numpy": ("initial/same-bits-in-float32",),
    }
    text = "".join(
        f'[["{target}"]]\n{entry.format(case)}'
        for target, cases in entries.items()
        for case in cases
    )
    (project / "sub" / "expected.toml").write_text(text)
    done = _pytest(project, "-k", "initial", "-rxX")
    assert done.returncode == 1
    assert f"XFAIL {SAME_BITS} - known" in done.stdout
    assert "[XPASS(strict)] known" in done.stdout
    assert "1 failed, 4 passed" in done.stdout
    assert "4 xfailed" in done.stdout
    assert "'gone/case' of meta_tests.mutants:OTHER_SEED matches no case" in done.stdout
