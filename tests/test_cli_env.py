"""``densespec env``: what it states, and what it says of backends that do not answer."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import densespec
from densespec.cli import devices, machine, main
from densespec.installed import is_installed

FRAMEWORKS = ("torch", "tensorflow", "keras", "jax")


def output(*arguments: str) -> str:
    result = CliRunner().invoke(main, ["env", *arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


def require(monkeypatch: pytest.MonkeyPatch, *requirements: str) -> None:
    """Have densespec require packages, whatever it is installed with."""
    monkeypatch.setattr(metadata, "requires", lambda name: list(requirements))


@pytest.fixture
def backend_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Write a module ``some_backend`` with a ``BACKEND`` that processes of Python find."""

    def write(body: str) -> str:
        code = textwrap.dedent(body)
        (tmp_path / "some_backend.py").write_text(code, encoding="utf-8")
        monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
        return "some_backend:BACKEND"

    return write


def test_the_record_says_what_an_issue_needs() -> None:
    record = json.loads(output("--json"))
    assert record["densespec"] == densespec.__version__
    assert record["Python"].startswith(f"{sys.version_info.major}.{sys.version_info.minor}.")
    assert {"system", "processors", "packages", "settings"} < set(record)
    assert "devices" not in record


def test_the_text_has_every_value_of_the_record(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    require(monkeypatch, "numpy>=2")
    record, text = json.loads(output("--json")), output()
    lines = [line.split() for line in text.splitlines()]
    assert ["numpy", record["packages"]["numpy"]] in lines
    assert ["OMP_NUM_THREADS", "3"] in lines
    assert ["densespec", record["densespec"]] in lines


def test_packages_are_those_that_users_need_and_have(monkeypatch: pytest.MonkeyPatch) -> None:
    require(
        monkeypatch,
        "numpy>=2.0",
        'no-such-package>=1; extra == "torch"',
        'pytest>=8.4; extra == "dev"',
        "hypothesis>=6; extra == 'conformance'",
    )
    packages = json.loads(output("--json"))["packages"]
    assert {"numpy", "hypothesis"} <= set(packages)
    assert {"no-such-package", "pytest"}.isdisjoint(packages)


def test_no_framework_is_imported() -> None:
    code = (
        "import sys; from densespec.cli import main; main(['env'], standalone_mode=False); "
        f"print('imported', {{*{FRAMEWORKS}}} & {{*sys.modules}})"
    )
    asked = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert asked.stdout.decode().splitlines()[-1] == "imported set()"


def test_devices_are_asked_of_each_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "backends", lambda: ("numpy",))
    assert json.loads(output("--devices", "--json"))["devices"] == {"numpy": ["cpu"]}
    assert ["numpy", "cpu"] in [line.split() for line in output("--devices").splitlines()]


def test_what_a_framework_prints_is_not_taken_for_an_answer(backend_file: Any) -> None:
    name = backend_file("""
        from densespec.reference.backend import NumpyBackend

        class Loud(NumpyBackend):
            def devices(self):
                print("hello from the driver", end="")
                return ["quantum:0", "cpu"]

        BACKEND = Loud()
    """)
    assert devices.devices_of(name) == ["quantum:0", "cpu"]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("BACKEND = object()", "the backend does not say"),
        ("import densespec_lacks_this", "No module named 'densespec_lacks_this'"),
        ("import os; os._exit(7)", "the process ended with status 7: "),
        ("raise RuntimeError('no driver')", "status 1: RuntimeError: no driver"),
    ],
)
def test_a_backend_that_has_no_answer_is_told_of(backend_file: Any, body: str, said: str) -> None:
    answer = devices.devices_of(backend_file(body))
    assert isinstance(answer, str)
    assert said in answer


def test_a_framework_that_hangs_is_given_up(backend_file: Any) -> None:
    name = backend_file("import threading; threading.Event().wait()")
    assert devices.devices_of(name, seconds=0.5) == "no answer within 0.5 s"


@pytest.mark.parametrize("backend", ["torch.nn", "tensorflow", "torch", "jax"])
def test_every_framework_names_its_devices(backend: str) -> None:
    package = backend.partition(".")[0]
    if not is_installed(package):
        pytest.skip(f"needs {package}")
    found = devices.devices_of(backend)
    assert any("cpu" in name.lower() for name in found)
    assert isinstance(found, list)
