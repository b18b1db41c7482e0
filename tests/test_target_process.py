"""A target's process: what it says when it can't answer, and what is left when it ends."""

from __future__ import annotations

import multiprocessing
import os
import re
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from densespec import DenseNetSpec
from densespec.recipes.recipe import TrainingRecipe
from densespec_conformance.answering import environment, worker
from densespec_conformance.answering import target as targets
from densespec_conformance.answering.target import (
    ProcessTarget,
    TargetCrashed,
    TargetError,
    TargetOutOfMemory,
    TargetTimeout,
)
from densespec_conformance.asking.requests import (
    NetworkToBuild,
    ReadWeights,
    Request,
    Train,
    Unsupported,
)

SPEC = DenseNetSpec(blocks=(1,), growth_rate=2)
ASKED = ReadWeights(NetworkToBuild(SPEC))


def backend(name: str, timeout: float = 60) -> ProcessTarget:
    return ProcessTarget(f"tests.hostile_backends:{name}", timeout)


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("SHORT_OF_MEMORY", TargetOutOfMemory, "not enough memory"),
        ("WITHOUT_FLOAT64", Unsupported, "this chip has none"),
        ("WRONG", TargetError, "ValueError: no such kernel"),
        ("Slow", TargetError, "missing"),
    ],
)
def test_reason_for_no_answer_is_told_apart(
    name: str, error: type[Exception], message: str
) -> None:
    with backend(name) as target, pytest.raises(error) as failure:
        target.ask(ASKED)
    assert type(failure.value) is error
    assert message in str(failure.value)


@pytest.mark.parametrize(
    ("name", "error"), [("NOISY", TargetError), ("DYING_LOUDLY", TargetCrashed)]
)
def test_what_a_target_says_is_cut_to_a_page_and_escaped(name: str, error: type[Exception]) -> None:
    with backend(name) as target, pytest.raises(error) as failure:
        target.ask(ASKED)
    text = str(failure.value)
    assert len(text) < 5000
    assert "the end" in text
    assert r"\x1b[31m" in text
    assert all(character.isprintable() or character == "\n" for character in text)


def serve_the_second_time(*given: Any) -> None:
    """Stand for a process that the system does not run, and for the next, which it does."""
    mark = Path(given[2]).with_name("tried")
    if not mark.exists():
        mark.touch()
        os._exit(255)
    worker.serve(*given)


def serve_never(*_given: Any) -> None:
    os._exit(255)


def test_a_process_that_never_ran_is_started_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(targets, "serve", serve_the_second_time)
    with ProcessTarget("numpy", 60) as target:
        assert target.ask(ASKED)
    monkeypatch.setattr(targets, "serve", serve_never)
    with (
        ProcessTarget("numpy", 60) as target,
        pytest.raises(TargetCrashed, match="died with exit code 255"),
    ):
        target.ask(ASKED)


class ResourceExhaustedError(Exception):
    """As TensorFlow calls it."""


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        ResourceExhaustedError("OOM when allocating tensor with shape[8,64]"),
        RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB"),
        RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1099511627776 bytes"),
        OSError(12, "Cannot allocate memory"),
    ],
    ids=repr,
)
def test_frameworks_words_for_short_memory_are_known(error: Exception) -> None:
    assert environment.is_out_of_memory(error)


@pytest.mark.parametrize("error", [RuntimeError("shape mismatch"), ValueError("out of memory")])
def test_other_errors_are_not_taken_for_short_memory(error: Exception) -> None:
    assert not environment.is_out_of_memory(error)


def test_time_limit_is_for_all_questions_of_a_case() -> None:
    with backend("SLOW") as target:
        target.ask(ASKED)  # starts the process
        target.timeout = 2.5
        target.start_case()
        target.ask(ASKED)
        target.ask(ASKED)
        with pytest.raises(TargetTimeout, match=r"2\.5 s"):
            target.ask(ASKED)
        target.start_case()
        target.timeout = 60
        target.start_case()
        target.ask(ASKED)


IN_PARALLEL = Train(NetworkToBuild(SPEC), TrainingRecipe(), (), replicas=2)


@pytest.mark.parametrize("request_", [ASKED, IN_PARALLEL], ids=["one", "several-devices"])
def test_target_that_was_interrupted_starts_no_process(request_: Request) -> None:
    with backend("SLOW") as target:
        target.interrupt()
        with pytest.raises(TargetCrashed, match="interrupted"):
            target.ask(request_)
        assert not multiprocessing.active_children()


def test_interrupt_ends_what_another_thread_is_waiting_for() -> None:
    with backend("PARENT") as target, ThreadPoolExecutor() as other:
        asked = other.submit(target.ask, ASKED)
        child = _child_in(target.log)
        target.interrupt()
        with pytest.raises(TargetCrashed):
            asked.result()
        assert _ends(child)


def _is_running(process: int) -> bool:
    state = Path(f"/proc/{process}/stat")
    return state.exists() and state.read_text().rpartition(")")[2].split()[0] != "Z"


def _child_in(log: Path, patience: float = 30) -> int:
    end = time.monotonic() + patience
    while time.monotonic() < end:
        if log.exists() and (found := re.search(r"child (\d+)", log.read_text())):
            return int(found[1])
        time.sleep(0.05)
    raise AssertionError("no child was started")


def _ends(process: int, patience: float = 10) -> bool:
    end = time.monotonic() + patience
    while _is_running(process) and time.monotonic() < end:
        time.sleep(0.05)
    return not _is_running(process)


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks processes up in /proc")
def test_processes_that_a_target_starts_end_with_it() -> None:
    with backend("PARENT", timeout=8) as target:
        with pytest.raises(TargetTimeout):
            target.ask(ASKED)
        assert _ends(_child_in(target.log))


SUITE_THAT_DIES = """
    import os, sys, threading, time
    from pathlib import Path
    from tests.test_target_process import ASKED, backend, _child_in

    if __name__ == "__main__":
        target = backend("PARENT")
        threading.Thread(target=target.ask, args=(ASKED,), daemon=True).start()
        print(_child_in(target.log), flush=True)
        ENDING
"""


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks processes up in /proc")
@pytest.mark.parametrize("ending", ["os._exit(3)", "raise SystemExit(3)"])
def test_target_ends_when_the_suite_does_however_it_ends(tmp_path: Path, ending: str) -> None:
    script = tmp_path / "suite.py"
    script.write_text(textwrap.dedent(SUITE_THAT_DIES).replace("ENDING", ending))
    root = Path(__file__).parents[1]
    paths = os.pathsep.join(map(str, (root, *sys.path)))
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=root,
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 3, done.stderr
    assert _ends(int(done.stdout))


def test_environment_is_stated_as_the_process_sees_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    with ProcessTarget("numpy", 60, threads=1) as target:
        about = target.describe()
    assert {"Python", "numpy"} <= about.versions.keys()
    assert (about.device.partition(" ")[0], about.threads) == ("CPU", 1)
    assert about.tensor_float_32 is False


@pytest.mark.parametrize(("told", "allowed"), [("1", True), ("0", False)])
def test_tf32_is_off_unless_the_user_wants_it(
    monkeypatch: pytest.MonkeyPatch, told: str, allowed: bool
) -> None:
    monkeypatch.setattr(os, "environ", {environment.ALLOW_TF32: told})
    environment.set_defaults(1)
    found = {name: os.environ.get(name) for name in environment.FULL_FLOAT32}
    expected: dict[str, Any] = dict.fromkeys(found) if allowed else environment.FULL_FLOAT32
    assert found == expected
    assert environment.allows_tf32() is allowed


@pytest.mark.skipif(not environment.LIMIT.exists(), reason="the system counts no mappings")
@pytest.mark.parametrize(("share", "freed"), [(1.0, False), (0.0, True)])
def test_compiled_programs_are_freed_before_they_take_too_many_mappings(
    share: float, freed: bool
) -> None:
    jax = pytest.importorskip("jax")
    compiled = jax.jit(lambda x: x + 1)
    compiled(1.0)
    environment.forget_programs(share)
    assert (compiled._cache_size() == 0) is freed
