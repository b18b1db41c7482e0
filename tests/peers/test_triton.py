"""Norms with their ReLUs in Triton: the suite by Triton's interpreter, and compiling for GPUs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.peers.apart import folder_of


def ran(*command: str, **environment: str) -> str:
    """What a process prints that finds Triton."""
    path = os.pathsep.join([folder_of("triton"), *filter(None, sys.path)])
    run = subprocess.run(
        [sys.executable, "-m", *command],
        env={**os.environ, "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


def test_the_suite_passes_by_the_interpreter(tmp_path: Path) -> None:
    """Training steps in float64, float32 and mixed bfloat16."""
    out = tmp_path / "out.json"
    target = ("densespec_conformance", "tests.peers.triton_backend:BACKEND")
    ran(*target, "-k", "training", "--json", str(out), TRITON_INTERPRET="1")
    statuses = [result["status"] for result in json.loads(out.read_text())["results"]]
    assert statuses.count("passed") > 20


def test_kernels_compile_for_a_gpu(tmp_path: Path) -> None:
    printed = ran("tests.peers.triton_kernels", TRITON_CACHE_DIR=str(tmp_path))
    made = [line.split() for line in printed.splitlines()]
    assert len(made) == 24
    assert all(int(size) > 1000 for *_, size in made)
