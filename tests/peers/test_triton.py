"""Norms with their ReLUs in Triton: the suite by Triton's interpreter, and compiling for GPUs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="Triton is not installed")

VALUES = ("x", "y", "slope", "dx")
"""Arguments of the type of the features; those of other arrays have the type of sums."""

NUMBERS = ("rows", "channels", "parts")
CONSTANTS = {"tile_rows": 64, "width": 32, "most_parts": 64, "epsilon": 1e-5}
KERNELS = ("_part_moments", "_joined_moments", "_values", "_part_sums", "_joined_sums", "_slopes")


def test_the_suite_passes_by_the_interpreter(tmp_path: Path) -> None:
    """Training steps in float64, float32 and mixed bfloat16."""
    out = tmp_path / "out.json"
    command = ("tests.peers.triton_backend:BACKEND", "-k", "training", "--json", str(out))
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    run = subprocess.run(
        [sys.executable, "-m", "densespec_conformance", *command],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    statuses = [result["status"] for result in json.loads(out.read_text())["results"]]
    assert statuses.count("passed") > 20


@pytest.mark.parametrize("kind", ["fp32", "fp64", "bf16", "fp16"])
@pytest.mark.parametrize("name", KERNELS)
def test_kernels_compile_for_a_gpu(
    name: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NVIDIA's assembler is part of Triton, so that machine code is made without a GPU."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from densespec_torch import triton_norms

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    kernel = getattr(triton_norms, name)
    places = {argument: place for place, argument in enumerate(kernel.arg_names)}
    wide = "fp64" if kind == "fp64" else "fp32"
    types = dict.fromkeys(places, f"*{wide}")
    types |= {argument: f"*{kind}" for argument in VALUES if argument in places}
    types |= {argument: "i32" for argument in NUMBERS if argument in places}
    fixed = {argument: value for argument, value in CONSTANTS.items() if argument in places}
    types |= dict.fromkeys(fixed, "constexpr")
    constants = {(places[argument],): value for argument, value in fixed.items()}
    source = ASTSource(fn=kernel, signature=types, constexprs=constants)
    assert triton.compile(source, target=GPUTarget("cuda", 80, 32)).asm["cubin"]
