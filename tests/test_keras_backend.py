"""The Keras backends. What needs an engine is checked in a process of its own for each engine."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Protocol

import pytest

CHECKS = Path(__file__).with_name("keras_checks")
ENGINES = ("tensorflow", "torch", "jax")
every_engine = pytest.mark.parametrize("engine", ENGINES)
torch_first = pytest.mark.parametrize(
    "engine",
    ["torch", *(pytest.param(name, marks=pytest.mark.full) for name in ("tensorflow", "jax"))],
)
"""What is the same code on every engine, or what the suite asks of each engine too, runs on the
quickest one, and with --full on all. Files share a process, which takes seconds to start."""
FINITE = dict.fromkeys(("tensorflow", "torch"), ("finite",))
"""What is not finite stays so on these engines, layer by layer; not on JAX."""


class RunChecks(Protocol):
    """Runs files of checks on an engine: they all pass, or it fails with what they say."""

    def __call__(self, engine: str, *files: str, **environment: str) -> None: ...


@pytest.fixture
def run_checks(pytestconfig: pytest.Config) -> RunChecks:
    full = ["--full"] if pytestconfig.getoption("--full") else []

    def run(engine: str, *files: str, **environment: str) -> None:
        for package in ("keras", engine):
            if importlib.util.find_spec(package) is None:
                pytest.skip(f"{package} is not installed")
        inherited = {name: value for name, value in os.environ.items() if name != "KERAS_BACKEND"}
        quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "ignore", *full]
            + [str(CHECKS / f"check_{file}.py") for file in files],
            cwd=CHECKS.parents[1],
            env=inherited | quiet | {"DENSESPEC_ENGINE": engine} | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=1200,
        )
        if done.returncode != 0 or "skipped" in done.stdout.splitlines()[-1]:
            pytest.fail(f"on {engine}:\n{done.stdout}", pytrace=False)

    return run


@torch_first
def test_models_are_what_was_asked_for(engine: str, run_checks: RunChecks) -> None:
    run_checks(engine, "models", "outputs", "modes", "dtypes", "changed", "advice")


@torch_first
def test_models_train_and_are_saved(engine: str, run_checks: RunChecks) -> None:
    run_checks(engine, "training", "saving", "originals", "transfer", "parts")


@every_engine
def test_what_an_engine_has_of_its_own(engine: str, run_checks: RunChecks) -> None:
    run_checks(engine, engine, "deploy", *FINITE.get(engine, ()))


@torch_first
def test_float64_is_float64(engine: str, run_checks: RunChecks) -> None:
    run_checks(engine, "float64", "adapters", "fit", JAX_ENABLE_X64="1")


@torch_first
def test_several_devices_take_the_reference_step(engine: str, run_checks: RunChecks) -> None:
    """Keras is on the engine, but nothing has run there: its devices are not made yet."""
    run_checks(engine, "parallel", JAX_ENABLE_X64="1", KERAS_BACKEND=engine)


# Without an engine


def run_code(code: str) -> str:
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_importing_the_package_imports_no_framework() -> None:
    loaded = run_code("import sys, densespec_keras; print(*sys.modules)").split()
    assert "densespec_keras" in loaded
    assert {"keras", *ENGINES} & set(loaded) == set()


def test_an_unknown_name_is_no_attribute_and_imports_no_framework() -> None:
    code = """
import sys, densespec_keras
print(hasattr(densespec_keras, "Nadam"), "keras" in sys.modules)
"""
    assert run_code(code) == "False False\n"


@every_engine
@pytest.mark.parametrize("missing", ["keras", "the engine"])
def test_without_a_package_the_error_names_it_and_the_extra(engine: str, missing: str) -> None:
    package = "keras" if missing == "keras" else engine
    code = f"""
import importlib.machinery, importlib.util, sys
import densespec

found = importlib.util.find_spec

def find_spec(name, package=None):
    if name in ("keras", {engine!r}):
        return None if name == {package!r} else importlib.machinery.ModuleSpec(name, None)
    return found(name, package)

importlib.util.find_spec = find_spec
try:
    densespec.build("densenet121", backend={engine!r})
except densespec.errors.PackageMissing as error:
    print(error)
"""
    message = run_code(code)
    assert f"backend {engine!r} needs the package {package!r}" in message
    assert f"pip install 'densespec[{engine}]'" in message
