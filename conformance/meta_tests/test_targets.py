"""A target that crashes, hangs or raises is reported as such, and the run goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from densespec.cli import main
from densespec_conformance.asking.subject import Subject
from densespec_conformance.cases import all_cases
from densespec_conformance.running.runner import Plan, Result, run

CASES = tuple(case for case in all_cases() if case.id.startswith("initial/"))


def _run(attribute: str, timeout: float = 60, count: int = len(CASES)) -> tuple[Result, ...]:
    plan = Plan(Subject(f"meta_tests.mutants:{attribute}"), CASES[:count])
    return run([plan], timeout=timeout).results


def test_crash_is_reported_with_its_exit_code_for_every_case() -> None:
    results = _run("CRASHES")
    assert [result.status for result in results] == ["crashed"] * len(CASES)
    assert "exit code 41" in results[0].message


def test_hang_is_ended_and_reported() -> None:
    results = _run("HANGS", timeout=3, count=1)
    assert [result.status for result in results] == ["timeout"]
    assert "3 s" in results[0].message


def test_exception_is_reported_with_its_message_and_what_was_asked() -> None:
    results = _run("RAISES")
    assert [result.status for result in results] == ["error"] * len(CASES)
    assert results[0].first_line == "RuntimeError: no kernel image is available"
    assert '"growth_rate": 4' in results[0].message


def _suite(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "densespec_conformance", *arguments]
    env = os.environ | {"PYTHONPATH": os.pathsep.join([*sys.path, str(folder)])}
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder, env=env)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param([], "no target given", id="no-target"),
        pytest.param(["torch.n"], "Did you mean torch.nn", id="misspelt-backend"),
        pytest.param(["numpy", "-k", "nonsense"], "no quick case", id="no-case"),
        pytest.param(["numpy", "-k", "a and"], "should be a word", id="bad-expression"),
        pytest.param(
            ["numpy", "--case", "initial/same"], "Did you mean initial/same-bits", id="id"
        ),
        pytest.param(["numpy", "--input", "3x8x8"], "give its --spec", id="size-without-spec"),
        pytest.param(["numpy", "--html", "/nowhere/x.html"], "no folder", id="no-folder"),
        pytest.param(
            ["numpy", "--expect", "no.toml"], "no.toml: No such file", id="no-expectations"
        ),
    ],
)
def test_unusable_arguments_are_an_error_not_a_skip(
    arguments: list[str], message: str, tmp_path: Path
) -> None:
    done = _suite(*arguments, folder=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert not list(tmp_path.glob(".densespec*"))


def test_backend_that_cannot_be_imported_fails_every_case(tmp_path: Path) -> None:
    done = _suite("no_such_module:BACKEND", "-k", "initial", folder=tmp_path)
    assert done.returncode == 1
    assert "can't be loaded" in done.stdout
    assert "0 passed, 0 failed, 4 error" in done.stdout


def test_run_that_passes_exits_with_0_and_writes_every_report(tmp_path: Path) -> None:
    paths = {kind: tmp_path / f"report.{kind}" for kind in ("json", "junit", "html")}
    options = [word for kind, path in paths.items() for word in (f"--{kind}", str(path))]
    done = _suite("numpy", "-k", "initial", *options, folder=tmp_path)
    assert done.returncode == 0, done.stdout
    assert "4 passed, 0 failed" in done.stdout
    report = json.loads(paths["json"].read_text())
    assert report["counts"]["passed"] == 4
    assert {result["status"] for result in report["results"]} == {"passed"}
    assert report["targets"][0]["runs_on"]["versions"]["numpy"]
    assert "<testsuites" in paths["junit"].read_text()
    assert paths["html"].read_text().startswith("<!doctype html>")


def test_cases_that_failed_last_run_alone_until_they_pass(tmp_path: Path) -> None:
    backend = tmp_path / "changing.py"
    backend.write_text(
        "from meta_tests.mutants import MUTANTS\nBACKEND = MUTANTS['OTHER_SEED'].backend\n"
    )
    first = _suite("changing:BACKEND", "-k", "initial", "--no-diagnosis", folder=tmp_path)
    assert first.returncode == 1
    failed = json.loads((tmp_path / ".densespec_conformance/last_failed.json").read_text())
    ids = failed["failed"]["changing:BACKEND"]
    assert 0 < len(ids) <= 4
    backend.write_text("from densespec.reference.backend import BACKEND\n")
    again = _suite("changing:BACKEND", "-k", "initial", "--last-failed", folder=tmp_path)
    assert again.returncode == 0, again.stdout
    assert f"{len(ids)} passed, 0 failed" in again.stdout
    third = _suite("changing:BACKEND", "-k", "initial", "--last-failed", folder=tmp_path)
    assert "knows of no failures" in third.stdout
    assert "4 passed" in third.stdout


def test_densespec_runs_the_suite_and_says_what_to_install_where_it_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    arguments = ["conformance", "numpy", "--list", "-k", "initial"]
    listed = CliRunner().invoke(main, arguments)
    assert listed.exit_code == 0
    assert "initial/same-bits-in-float32" in listed.output
    monkeypatch.setitem(sys.modules, "hypothesis", None)
    monkeypatch.delitem(sys.modules, "densespec.cli.conformance")  # which looks when imported
    refused = CliRunner().invoke(main, arguments)
    assert refused.exit_code == 1
    assert "pip install 'densespec[conformance]'" in refused.output


def test_cases_are_exported_by_the_command_of_that_name(tmp_path: Path) -> None:
    folder = tmp_path / "cases"
    arguments = ["conformance", "export", str(folder), "--case", "forward/softmax"]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.output
    assert json.loads((folder / "index.json").read_text())["questions"]


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_interrupt_shows_what_has_come_so_far_and_leaves_no_process(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(
        "import time\n"
        "from densespec.reference.backend import NumpyBackend\n"
        "class Slow(NumpyBackend):\n"
        "    def read_weights(self, model, graph):\n"
        "        if str(next(iter(model.weights.values())).dtype) == 'float64':\n"
        "            time.sleep(60)\n"
        "        return super().read_weights(model, graph)\n"
        "BACKEND = Slow()\n"
    )
    command = [sys.executable, "-m", "densespec_conformance", "slow:BACKEND", "-k", "initial"]
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(2)]
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=30)
    assert all("passed" in line for line in lines)
    assert process.returncode == 130
    assert "interrupted: these are the results that came before" in rest
    assert "2 passed, 0 failed" in rest
