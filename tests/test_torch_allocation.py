"""Mode ``fast`` has the C library keep the memory that a step frees."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

import densespec

pytest.importorskip("torch", reason="PyTorch is not installed")
from densespec_torch import allocation

FAULTS = """
import resource
import torch
import densespec

spec = densespec.DenseNetSpec(blocks=(4,), growth_rate=12, bottleneck_width=None, stem_width=24)
model = densespec.build(spec, backend="torch.nn", mode="fast").train()
x = torch.zeros(16, 3, 64, 64)
for step in range(4):
    if step == 3:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    model(x).sum().backward()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
"""Prints how many pages the fourth step had the system clear."""


def pages(**environment: str) -> int:
    inherited = {n: v for n, v in os.environ.items() if n not in allocation.SET_BY_USERS}
    command = [sys.executable, "-c", FAULTS]
    run = subprocess.run(command, env=inherited | environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return int(run.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="its C library is not glibc")
def test_a_step_uses_the_memory_of_the_step_before() -> None:
    assert pages() * 4 < pages(MALLOC_TRIM_THRESHOLD_="131072")


@pytest.mark.parametrize(("mode", "calls"), [("layers", 0), ("fast", 1), ("efficient", 0)])
def test_only_mode_fast_asks_for_it(mode: str, calls: int, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []
    monkeypatch.setattr("densespec_torch.modes.keep_freed_memory", lambda: asked.append(True))
    densespec.build("densenet-40-12", backend="torch.nn", mode=mode)
    assert len(asked) == calls


def test_nothing_is_done_where_there_is_no_glibc(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in allocation.SET_BY_USERS:
        monkeypatch.delenv(name, raising=False)
    allocation.keep_freed_memory.cache_clear()
    monkeypatch.setattr(allocation.ctypes, "CDLL", lambda _name: object())
    allocation.keep_freed_memory()
    monkeypatch.setattr(allocation.sys, "platform", "darwin")
    monkeypatch.setattr(allocation.ctypes, "CDLL", None)
    allocation.keep_freed_memory.cache_clear()
    allocation.keep_freed_memory()
