"""Writers that are killed, have no room left, or lose their source: nothing is half done."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("resource", reason="the system sets no limits")
pytest.importorskip("h5py", reason="h5py is not installed")
pytest.importorskip("msgpack", reason="msgpack is not installed")

from densespec.weights.containers import SUFFIXES, base, safetensors
from tests.fuzz import faults


def test_a_file_is_written_whole_or_not_at_all_whatever_happens(tmp_path: Path) -> None:
    assert list(faults.wrong_endings(tmp_path)) == []


def test_a_writer_that_is_not_atomic_is_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def write(path: Path, tensors: Any) -> None:
        assert SUFFIXES[path.suffix] == "safetensors" or path.name == "beside.npz"
        safetensors.write(base.Output(path, path, tensors, {}, lambda size: None))

    monkeypatch.setattr(faults, "TARGETS", ("net.safetensors",))
    monkeypatch.setattr(faults, "write_file", write)
    wrong = [fault for fault, _ in faults.wrong_endings(tmp_path)]
    assert any("a disk of 1000 bytes" in fault for fault in wrong)
