"""Runs that are stopped, killed or hindered, and what is left of them."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from densespec.backends import StepResult
from densespec.reference.backend import NumpyTrainer
from densespec.training import Diverged, FolderInUse, TrainingError, read_log, read_run
from densespec.training.progress import Silent
from tests.training.killing import killed_until_done
from tests.training.stopping import StopsAt
from tests.training.support import (
    RECIPE,
    STEPS,
    Notes,
    assert_same_end,
    command,
    data,
    environment,
    files,
    last,
    log,
    resumed,
    run,
    timeless,
)

OPERATIONS = ("write", "fsync", "replace", "link", "unlink", "ftruncate", "rename")
"""How files are changed; a run is killed at each call of each."""

posix = pytest.mark.skipif(os.name != "posix", reason="signals and fork are POSIX's")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    run(folder)
    return folder


class StopsInValidation(Silent):
    def validation(self, done: int, total: int) -> None:
        os.kill(os.getpid(), signal.SIGINT)


# Signals


@posix
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("step", [1, STEPS - 1, STEPS, STEPS + 2, 3 * STEPS])
def test_a_stopped_run_goes_on_at_the_very_next_batch(
    tmp_path: Path, whole: Path, step: int, number: int
) -> None:
    done = run(tmp_path, progress=StopsAt(step, number))
    assert (done.step, done.signal) == (step, number)
    resumed(tmp_path)
    assert_same_end(tmp_path, whole)


@posix
def test_a_run_that_is_stopped_while_it_validates_validates_when_it_goes_on(
    tmp_path: Path, whole: Path
) -> None:
    done = run(tmp_path, progress=StopsInValidation())
    assert (done.step, done.finished, log(tmp_path)[-1]["kind"]) == (STEPS, False, "step")
    resumed(tmp_path)
    assert_same_end(tmp_path, whole)


@posix
def test_the_handlers_of_signals_are_put_back(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    run(tmp_path, recipe=RECIPE.replace(epochs=1, milestones=()))
    assert signal.getsignal(signal.SIGINT) is before


def test_a_run_in_another_thread_leaves_signals_alone(tmp_path: Path, whole: Path) -> None:
    thread = threading.Thread(target=run, args=(tmp_path,))
    thread.start()
    thread.join()
    assert_same_end(tmp_path, whole)


# Kills


def _count_operations(at: int | None) -> list[int]:
    """Count changes of files from now on, and end this process by SIGKILL at one of them."""
    counter = [0]

    def wrapped(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def operation(*arguments: Any, **options: Any) -> Any:
            counter[0] += 1
            if counter[0] == at:
                if name == "write":  # torn
                    call(arguments[0], arguments[1][: len(arguments[1]) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments, **options)

        return operation

    for name in OPERATIONS:
        setattr(os, name, wrapped(name, getattr(os, name)))
    return counter


def _run_and_count(folder: Path, at: int | None, told: Any) -> None:
    counter = _count_operations(at)
    _short_run(folder)
    told.put(counter[0])


def _short_run(folder: Path) -> None:
    run(folder, recipe=RECIPE.replace(epochs=2), keep=1, data=data(folder, images=8))


@posix
def test_a_run_that_is_killed_at_any_change_of_a_file_resumes(tmp_path: Path) -> None:
    """At each call of the operating system that writes, names or removes one."""
    fork = multiprocessing.get_context("fork")
    told = fork.SimpleQueue()
    whole = tmp_path / "whole"
    whole.mkdir()
    process = fork.Process(target=_run_and_count, args=(whole, None, told))
    process.start()
    process.join()
    count = told.get()
    assert count > 30
    for at in range(1, count + 1):
        folder = tmp_path / str(at)
        folder.mkdir()
        process = fork.Process(target=_run_and_count, args=(folder, at, told))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        if (folder / "run" / "run.toml").exists():
            resumed(folder)
        else:
            _short_run(folder)
        assert_same_end(folder, whole)
        assert not list((folder / "run").glob(".*"))
        for name in ("best.safetensors", "epoch-0002.safetensors"):
            mine, theirs = (part / "run" / name for part in (folder, whole))
            assert mine.exists() == theirs.exists()
            assert not theirs.exists() or mine.read_bytes() == theirs.read_bytes()


@posix
@pytest.mark.full
def test_a_run_that_is_killed_at_random_moments_ends_with_the_same_weights(tmp_path: Path) -> None:
    killed_until_done(tmp_path, backend="numpy", kills=6, seed=0, epochs=20)


# Hindrances


def test_a_torn_line_of_the_log_is_dropped(tmp_path: Path, whole: Path) -> None:
    run(tmp_path, progress=StopsAt(STEPS + 1))
    with (tmp_path / "run" / "log.jsonl").open("a") as file:
        file.write('{"kind": "step", "step": 7, "lo')
    assert log(tmp_path)[-1]["step"] == STEPS + 1
    resumed(tmp_path)
    assert_same_end(tmp_path, whole)


def test_lines_after_the_checkpoint_are_not_repeated(tmp_path: Path, whole: Path) -> None:
    run(tmp_path, progress=StopsAt(STEPS + 1))
    lines = (whole / "run" / "log.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "run" / "log.jsonl").write_text("".join(lines[: STEPS + 4]))
    resumed(tmp_path)
    assert timeless(tmp_path) == timeless(whole)


def test_a_run_whose_log_is_gone_goes_on(tmp_path: Path, whole: Path) -> None:
    run(tmp_path, progress=StopsAt(STEPS + 1))
    (tmp_path / "run" / "log.jsonl").unlink()
    told = Notes()
    resumed(tmp_path, progress=told)
    assert "tells of 0 of the 5 steps" in " ".join(told.texts)
    for name, array in last(whole).arrays.items():
        np.testing.assert_array_equal(last(tmp_path).arrays[name], array)


@pytest.mark.parametrize(
    "line",
    [
        b"\xff\n",
        b"[" * 100_000 + b"\n",
        b'{"step": 1}\n',
        b'{"kind": "epoch", "step": 1}\n',
        b'{"kind": {}, "step": 1}\n',
    ],
)
def test_a_line_of_the_log_that_is_damaged_is_told_of(tmp_path: Path, line: bytes) -> None:
    run(tmp_path, progress=StopsAt(STEPS + 1))
    path = tmp_path / "run" / "log.jsonl"
    path.write_bytes(line + path.read_bytes())
    told = Notes()
    resumed(tmp_path, progress=told)
    assert "1 lines of it could not be read" in " ".join(told.texts)
    assert [record["step"] for record in log(tmp_path)][:2] == [1, 2]


def test_a_run_that_was_not_disturbed_is_told_nothing_of_its_log(tmp_path: Path) -> None:
    run(tmp_path, progress=StopsAt(STEPS + 1), log_every=3)
    told = Notes()
    resumed(tmp_path, progress=told)
    assert not told.texts


def _fails_from(monkeypatch: pytest.MonkeyPatch, call: str, suffix: str, after: int) -> None:
    """Let the disk be full for files that end so, after some have been written."""
    original = getattr(os, call)
    seen = [0]

    def full(source: Any, target: Any, *arguments: Any, **options: Any) -> Any:
        if str(target).endswith(suffix):
            seen[0] += 1
            if seen[0] > after:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
        return original(source, target, *arguments, **options)

    monkeypatch.setattr(os, call, full)


def test_a_full_disk_leaves_the_last_checkpoint_and_the_run_goes_on(
    tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        _fails_from(patch, "replace", "last.safetensors", after=2)
        with pytest.raises(TrainingError, match=r"No space left on device; .*last.* is whole"):
            run(tmp_path)
    state = last(tmp_path).training
    assert state is not None
    assert state.step == STEPS
    assert not list((tmp_path / "run").glob(".*"))
    resumed(tmp_path)
    assert_same_end(tmp_path, whole)


def test_a_full_disk_at_a_line_of_the_log_leaves_the_last_checkpoint(
    tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = os.write

    def full(handle: int, content: bytes) -> int:
        if b'"step": 6' in content:
            original(handle, content[:20])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return original(handle, content)

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(TrainingError, match=r"No space left on device; .* is whole"):
            run(tmp_path)
    resumed(tmp_path)
    assert_same_end(tmp_path, whole)


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TrainingError, match="can't be made a folder"):
        run(tmp_path, out=tmp_path / "file" / "run")


def test_a_folder_that_cannot_be_written_into_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write anywhere
    with pytest.raises(TrainingError, match="can't be written into"):
        run(tmp_path)


@posix
def test_two_processes_do_not_train_into_one_folder(tmp_path: Path) -> None:
    import subprocess

    spec, recipe = files(tmp_path)
    arguments = (spec, "--recipe", recipe, "--data", data(tmp_path), "--backend", "numpy")
    arguments += ("--set", "epochs=100000", "--set", "milestones=[]", "--out", tmp_path / "run")
    first = subprocess.Popen(command(*arguments), env=environment(), stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 60
        while not log(tmp_path) and time.monotonic() < until:
            time.sleep(0.05)
        with pytest.raises(FolderInUse, match=f"process {first.pid} on "):
            resumed(tmp_path)
    finally:
        first.kill()
        first.wait()
    count = read_run(tmp_path / "run").recipe.epochs
    assert count == 100_000
    done = resumed(tmp_path, progress=StopsAt(log(tmp_path)[-1]["step"] + 1))
    assert done.signal == signal.SIGINT  # the lock went with its process


# Divergence


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = NumpyTrainer.step

    def step(self: NumpyTrainer, x: np.ndarray, *arguments: Any, **options: Any) -> StepResult:
        done = original(self, x, *arguments, **options)
        calls.append(done)
        return StepResult(float("nan"), {}) if len(calls) == STEPS + 2 else done

    calls: list[StepResult] = []
    monkeypatch.setattr(NumpyTrainer, "step", step)
    with pytest.raises(Diverged, match=rf"step {STEPS + 2} .*last\.safetensors is the last good"):
        run(tmp_path)
    state = last(tmp_path).training
    assert state is not None
    assert state.step == STEPS
    assert log(tmp_path)[-1]["step"] == STEPS + 1


def test_weights_that_are_not_finite_never_replace_a_checkpoint(tmp_path: Path) -> None:
    """After the last step of an epoch, whose loss was still finite."""
    recipe = RECIPE.replace(learning_rate=1e3, weight_decay=1.0, epochs=40, batch_size=28)
    with np.errstate(all="ignore"), pytest.raises(Diverged, match="diverged"):
        run(tmp_path, recipe=recipe)
    for array in last(tmp_path).arrays.values():
        assert np.isfinite(array).all()


def test_what_is_read_of_a_log_without_its_end_is_what_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    run(tmp_path, epochs=1)
    content = (tmp_path / "run" / "log.jsonl").read_bytes()
    path.write_bytes(content[:-1])
    assert [record["step"] for record in read_log(path)] == [1, 2, 3, 4]
