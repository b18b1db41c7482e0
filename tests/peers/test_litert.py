"""Networks as LiteRT's files, which compute what the reference does."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed")
pytest.importorskip("tensorflow", reason="TensorFlow is not installed")

NETWORKS = {
    "same": "padding = 'same'",
    "imagenet": "stem_kind = 'conv-norm-relu'\nstem_kernel = 7\nstem_stride = 2\nstem_pool = 3",
    "length": "spatial_dims = 1",
    "volume": "spatial_dims = 3",
}


def export(net: Path, path: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Export in a process of its own: Keras runs on one engine in each."""
    command = [sys.executable, "-m", "densespec", "export", net, "-o", path, "--seed", "0"]
    return subprocess.run([*command, *options], capture_output=True, text=True, check=False)


def record(net: Path, path: Path, *options: str) -> Any:
    done = export(net, path, *options, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def written(folder: Path, name: str) -> Path:
    net = folder / "net.toml"
    net.write_text(f"blocks = [2, 1]\ngrowth_rate = 4\nclasses = 5\n{NETWORKS[name]}\n")
    return net


@pytest.mark.parametrize("name", ["same", "imagenet", "length"])
def test_files_take_any_batch_and_size(name: str, tmp_path: Path) -> None:
    found = record(written(tmp_path, name), tmp_path / "net.tflite")
    assert found["difference"] < 2e-6
    assert {shape[0] for shape in found["checked_on"]} == {1, 2}
    assert len(found["checked_on"]) == 4


def test_a_fixed_size_and_batch_and_several_values(tmp_path: Path) -> None:
    options = ("--size", "33x28", "--batch", "3", "--outputs", "block2,block1")
    found = record(written(tmp_path, "same"), tmp_path / "net.tflite", *options)
    assert found["checked_on"] == [[3, 3, 33, 28]]
    assert len(found["outputs"]) == 2
    assert found["difference"] < 2e-6


def test_three_dimensions_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "net.tflite"
    done = export(written(tmp_path, "volume"), path)
    assert done.returncode == 1
    assert "LiteRT pools in 2 at most" in done.stderr
    assert not path.exists()
