"""Networks in int8 by NNCF and by LiteRT's quantizer, as accurate as in float32."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

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
