"""Taking figures: sides in turn, in this process or each in a fresh one; and what they need of
memory."""

from __future__ import annotations

import ctypes
import gc
import importlib
import multiprocessing
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Figures = dict[str, list[float]]
"""Milliseconds or megabytes of every round, by side."""


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def take_turns(
    sides: Mapping[str, Callable[[], object]], rounds: int, warm_up: int = 2, settle: int = 0
) -> Figures:
    """Milliseconds of each call, all sides in turn, so that a machine whose speed drifts slows
    all of them.

    Args:
        warm_up: rounds that are not kept.
        settle: calls before each that is timed: a side that needs much memory gives it back to the
            system, and the next would pay for that.
    """
    figures: Figures = {name: [] for name in sides}
    for index in range(warm_up + rounds):
        for name, call in sides.items():
            for _ in range(settle):
                call()
            taken = 1e3 * seconds(call)
            if index >= warm_up:
                figures[name].append(taken)
    return figures


GIVES_BACK = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
"""Environment in which glibc gives large arrays back to the system as soon as they are freed."""


def in_turn(
    sides: Mapping[str, tuple[str, Mapping[str, Any]]],
    rounds: int,
    environment: Mapping[str, str] | None = None,
) -> Figures:
    """What functions give that run in a fresh process each, all sides in turn.

    Args:
        sides: by name, ``module:function`` of this folder and its arguments.
    """
    figures: Figures = {name: [] for name in sides}
    for _ in range(rounds):
        for name, (function, arguments) in sides.items():
            figures[name].append(float(in_own_process(function, arguments, environment)))
    return figures


def in_own_process(
    function: str, arguments: Mapping[str, Any], environment: Mapping[str, str] | None = None
) -> Any:
    """What a function gives in a process of its own.

    Raises:
        RuntimeError: it failed; what it printed says more.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(sender, function, dict(arguments)))
    before = dict(os.environ)
    os.environ.update(environment or {})
    process.start()
    os.environ.clear()
    os.environ.update(before)
    sender.close()
    try:
        kind, answer = receiver.recv()
    except EOFError:
        process.join()
        kind, answer = "error", f"its process ended with exit code {process.exitcode}"
    process.join()
    if kind == "error":
        raise RuntimeError(f"{function}({dict(arguments)}): {answer}")
    return answer


def _answer(sender: Any, function: str, arguments: dict[str, Any]) -> None:
    module, _, name = function.partition(":")
    try:
        sender.send(("answer", getattr(importlib.import_module(module), name)(**arguments)))
    except BaseException as error:
        sender.send(("error", f"{type(error).__name__}: {error}"))
        raise


def peak_megabytes(work: Callable[[], object], first: Callable[[], object] | None = None) -> float:
    """How far the memory of this process rises above what it has now, at most, in MB.

    Args:
        first: is done before the peak is watched: what it needs for a moment is not counted, what
            it leaves behind is.

    That is the peak of its resident set, which Linux keeps and lets be set back.
    """
    _give_back()
    before = _status("VmRSS")
    if first is not None:
        first()
        _give_back()
    Path("/proc/self/clear_refs").write_text("5")
    work()
    return _status("VmHWM") - before


def _give_back() -> None:
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)


def _status(field: str) -> float:
    """MB, of /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return float(next(line for line in lines if line.startswith(field)).split()[1]) / 1024
