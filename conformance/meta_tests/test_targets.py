"""A target that crashes, hangs or raises is reported as such, and the run goes on."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner

from densespec.cli import main
from densespec_conformance.asking.subject import Subject
from densespec_conformance.cases import all_cases
from densespec_conformance.judging.expected import Reference
from densespec_conformance.running.examiner import Examiner
from densespec_conformance.running.result import Result

CASES = tuple(case for case in all_cases() if case.id.startswith("initial/"))


def _results(attribute: str, timeout: float = 60, count: int = len(CASES)) -> list[Result]:
    subject = Subject(f"meta_tests.mutants:{attribute}")
    with Examiner(subject, Reference(), timeout=timeout) as examiner:
        return [examiner.examine(case) for case in CASES[:count]]


def test_crash_is_reported_with_its_exit_code_for_every_case() -> None:
    results = _results("CRASHES")
    assert [result.status for result in results] == ["crashed"] * len(CASES)
    assert "exit code 41" in results[0].message


def test_hang_is_ended_and_reported() -> None:
    results = _results("HANGS", timeout=3, count=1)
    assert [result.status for result in results] == ["timeout"]
    assert "3 s" in results[0].message


def test_exception_is_reported_with_its_message_and_what_was_asked() -> None:
    results = _results("RAISES")
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
        pytest.param(["no_such_package:BACKEND"], "no package 'no_such_package'", id="no-package"),
        pytest.param(["json:BACKEND"], "json:BACKEND: ", id="no-such-object"),
        pytest.param(["numpy", "-k", "nonsense"], "no case is left", id="no-case"),
        pytest.param(["numpy", "-k", "a and"], "at column 6", id="bad-expression"),
        pytest.param(["numpy", "--jobs", "0"], "from 1 on", id="jobs"),
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


def test_backend_that_cannot_be_loaded_fails_every_case(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("BACKEND = None\nraise RuntimeError('no kernel image')\n")
    done = _suite("broken:BACKEND", "-k", "initial", folder=tmp_path)
    assert done.returncode == 1
    assert "RuntimeError: no kernel image" in done.stdout
    assert "0 passed, 0 failed, 4 error" in done.stdout


def test_run_that_passes_exits_with_0_and_writes_every_report(tmp_path: Path) -> None:
    paths = {kind: tmp_path / f"report.{kind}" for kind in ("json", "junitxml", "html")}
    options = [word for kind, path in paths.items() for word in (f"--{kind}", str(path))]
    done = _suite("numpy", "-k", "initial", "--durations", "1", *options, folder=tmp_path)
    assert done.returncode == 0, done.stdout
    assert "4 passed, 0 failed" in done.stdout
    assert "The slowest cases" in done.stdout
    report = json.loads(paths["json"].read_text())
    assert report["counts"]["passed"] == 4
    assert report["command"].startswith("python -m densespec_conformance numpy -k initial")
    assert {result["status"] for result in report["results"]} == {"passed"}
    assert report["targets"][0]["runs_on"]["versions"]["numpy"]
    named = {
        (case.get("classname"), case.get("name"))
        for case in ElementTree.parse(paths["junitxml"]).iter("testcase")
    }
    assert named == {("numpy", case.id) for case in CASES}
    assert paths["html"].read_text().startswith("<!doctype html>")


def test_what_the_folder_sets_up_for_its_own_tests_has_no_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTEST_ADDOPTS", "--no-such-option")
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = --no-such-option\n")
    (tmp_path / "conftest.py").write_text("raise SystemExit(7)\n")
    (tmp_path / "test_own.py").write_text("def test_initial() -> None:\n    assert False\n")
    done = _suite("numpy", "-k", "initial", folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 passed, 0 failed" in done.stdout
    assert not (tmp_path / ".hypothesis").exists()
    assert not (tmp_path / ".pytest_cache").exists()


def test_cases_that_failed_last_run_alone_until_they_pass(tmp_path: Path) -> None:
    backend = tmp_path / "changing.py"
    backend.write_text("from meta_tests import mutants\nBACKEND = mutants.EPSILON_OF_KERAS\n")
    words = ("changing:BACKEND", "-k", "initial or forward/torchvision-stem", "--no-diagnosis")
    first = _suite(*words, folder=tmp_path)
    assert first.returncode == 1
    assert "4 passed, 1 failed" in first.stdout
    backend.write_text("from densespec.reference.backend import BACKEND\n")
    again = _suite(*words, "--last-failed", folder=tmp_path)
    assert again.returncode == 0, again.stdout
    assert "1 passed, 0 failed" in again.stdout
    third = _suite(*words, "--last-failed", folder=tmp_path)
    assert "no previously failed tests" in third.stdout
    assert "5 passed" in third.stdout


def test_first_failure_can_end_the_run(tmp_path: Path) -> None:
    done = _suite(
        "meta_tests.mutants:RAISES", "-k", "initial", "-x", "--jobs", "1", folder=tmp_path
    )
    assert done.returncode == 1
    assert "0 passed, 0 failed, 1 error" in done.stdout


def test_run_in_which_nothing_passed_fails(tmp_path: Path) -> None:
    done = _suite("numpy", "-k", "bfloat16", folder=tmp_path)
    assert done.returncode == 1
    assert "unsupported" in done.stdout


def test_densespec_runs_the_suite_and_says_what_to_install_where_it_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    arguments = ["conformance", "numpy", "--list", "-k", "initial"]
    listed = CliRunner().invoke(main, arguments)
    assert listed.exit_code == 0
    assert "initial/same-bits-in-float32" in listed.output
    monkeypatch.setitem(sys.modules, "hypothesis", None)
    refused = CliRunner().invoke(main, arguments)
    assert refused.exit_code == 2
    assert "pip install 'densespec[conformance]'" in refused.output


def test_cases_are_exported_by_the_command_of_that_name(tmp_path: Path) -> None:
    folder = tmp_path / "cases"
    arguments = ["conformance", "export", str(folder), "--case", "forward/softmax"]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.output
    assert json.loads((folder / "index.json").read_text())["questions"]


@pytest.mark.skipif(sys.platform == "win32", reason="terminals")
def test_terminal_has_a_bar_for_each_target_with_the_case_under_way(tmp_path: Path) -> None:
    words = ["numpy", "meta_tests.mutants:RAISES", "-k", "initial and float32", "--jobs", "1"]
    ours, theirs = os.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "densespec_conformance", *words],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "COLUMNS": "150"},
        stdout=theirs,
    ):
        os.close(theirs)
        shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", _all_of(ours))
    assert re.search(r"numpy +━+ 0/2 0:00:\d\d initial/same-bits-in-float32", shown)
    assert re.search(r"numpy +━+ 2/2 0:00:\d\d", shown)
    assert re.search(r"RAISES +━+ 2/2", shown)
    assert "RuntimeError: no kernel image is available" in shown
    assert "2 passed, 0 failed, 2 error" in shown


def _all_of(terminal: int) -> str:
    """What is written to a terminal until nobody holds it any more."""
    found = b""
    with contextlib.suppress(OSError), open(terminal, "rb", buffering=0) as file:
        while read := file.read(65536):
            found += read
    return found.decode()


WAITS = """
    import os
    from densespec.reference.backend import NumpyBackend

    class Waits(NumpyBackend):
        def read_weights(self, model, graph):
            if str(next(iter(model.weights.values())).dtype) == "float64":
                with open("asked", "w") as asked:
                    asked.write("x")
                    asked.flush()
                    open("answer").read()
            return super().read_weights(model, graph)

    BACKEND = Waits()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_interrupt_shows_what_has_come_so_far_and_leaves_no_process(tmp_path: Path) -> None:
    """The target holds ``asked`` open while it lives, and waits for an answer that never comes."""
    (tmp_path / "waits.py").write_text(textwrap.dedent(WAITS))
    os.mkfifo(tmp_path / "asked")
    os.mkfifo(tmp_path / "answer")
    words = ["waits:BACKEND", "-k", "initial and not same-bits-in-float64", "--jobs", "1"]
    command = [sys.executable, "-m", "densespec_conformance", *words]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(2)]
        with (tmp_path / "asked").open() as asked:
            assert asked.read(1) == "x"
            process.send_signal(signal.SIGINT)
            rest = process.stdout.read()
            assert asked.read() == ""  # ends with the last process that has it open
    assert all("passed" in line for line in lines)
    assert process.returncode == 130
    assert "interrupted: these are the results that came before" in rest
    assert "2 passed, 0 failed" in rest
