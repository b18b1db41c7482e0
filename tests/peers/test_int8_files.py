"""Networks in int8 by NNCF and by LiteRT's quantizer, as accurate as in float32."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from densespec.installed import is_installed
from tests.test_int8 import check_kept
from tests.test_int8 import trained as trained

NEEDED = {".xml": ("openvino", "nncf"), ".tflite": ("ai_edge_litert", "ai_edge_quantizer")}


@pytest.mark.parametrize("suffix", NEEDED)
def test_a_trained_network_keeps_its_accuracy(trained: Path, tmp_path: Path, suffix: str) -> None:
    if not all(map(is_installed, NEEDED[suffix])):
        pytest.skip(f"needs {' and '.join(NEEDED[suffix])}")
    path = tmp_path / f"net{suffix}"
    options = ("--int8", "--calibrate", "digits", "--json")
    command = [sys.executable, "-m", "densespec", "export", trained, "-o", path, *options]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    check_kept(json.loads(done.stdout))
    assert path.is_file()
    losses = losses_of(path, trained)
    assert losses[-1]["name"] == "classifier"
    assert losses[-1]["mean"] < 0.1
    if suffix == ".tflite":
        assert len(losses) == 1  # LiteRT shows nothing of what is within
        return
    names = {layer["name"] for layer in losses}
    assert {"stem.conv", "block1.layer2.conv1", "block2.concat2", "transition1.pool"} <= names
    assert all(layer["own"] <= 2 * layer["mean"] < 0.4 for layer in losses)


def losses_of(path: Path, weights: Path) -> list[dict[str, Any]]:
    """Say what the suite tells of each layer of a file; its likeliest classes are kept."""
    report = path.with_suffix(".json")
    options = ("--weights", weights, "--data", "digits", "--json", report)
    command = [sys.executable, "-m", "densespec", "conformance", path, *options]
    subprocess.run(command, capture_output=True, text=True, check=True)
    return next(one["layers"] for one in json.loads(report.read_text())["results"] if one["layers"])
