"""Networks as OpenVINO IR: two files, which compute what the reference does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from densespec.deploy import export
from densespec.deploy.check import WrongExport
from densespec.deploy.formats import format_of
from densespec.deploy.onnx import proto
from densespec.network.graph import lower
from densespec.weights.checkpoint import write_checkpoint
from densespec_conformance.answering.target import LocalTarget
from densespec_conformance.asking.questions import random_weights
from densespec_conformance.asking.subject import subject_of
from densespec_conformance.cases.forward import SMALL
from densespec_conformance.judging.expected import Reference
from densespec_conformance.running.choosing import assigned
from densespec_conformance.running.one_case import run_case

pytest.importorskip("onnx", reason="onnx is not installed")
pytest.importorskip("openvino", reason="OpenVINO is not installed")


@pytest.fixture
def net(tmp_path: Path) -> Path:
    path, graph = tmp_path / "net.safetensors", lower(SMALL)
    arrays = random_weights(graph, "network")
    write_checkpoint(path, graph, {name: a.astype(np.float32) for name, a in arrays.items()})
    return path


def test_both_files_are_written_checked_and_counted(net: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    done = export(net, folder / "small.xml")
    files = sorted(folder.iterdir())
    assert [file.name for file in files] == ["small.bin", "small.xml"]
    assert done.bytes == sum(file.stat().st_size for file in files)
    assert done.measured is not None
    assert len(done.measured.shapes) > 1


def test_the_suite_s_cases_pass(net: Path, tmp_path: Path) -> None:
    file = str(tmp_path / "net.xml")
    export(net, file, check=False)
    subject = subject_of(file, None, str(net))
    target = LocalTarget(file, spec=subject.spec, weights=net)
    cases, reference = assigned(subject).wanted, Reference()
    found = [run_case(case, target, reference, diagnosis=False) for case in cases]
    assert [result.status for result in found] == ["passed"] * len(cases)


def test_what_computes_something_else_leaves_both_files_as_they_were(
    net: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "out" / "net.xml"
    path.parent.mkdir()
    export(net, path, check=False)
    before = {file: file.read_bytes() for file in path.parent.iterdir()}

    def wrong(graph, arrays, **options):  # type: ignore[no-untyped-def]
        return proto(graph, {name: 2 * array for name, array in arrays.items()}, **options)

    monkeypatch.setattr("densespec.deploy.openvino.proto", wrong)
    with pytest.raises(WrongExport):
        export(net, path)
    assert {file: file.read_bytes() for file in path.parent.iterdir()} == before


def test_a_fixed_size_and_batch_stand_in_the_file(net: Path, tmp_path: Path) -> None:
    path = tmp_path / "net.xml"
    export(net, path, size=(16, 20), batch=3, check=False)
    load = format_of(path, None).load
    assert load is not None
    found = load(path)
    assert (found.dtype, found.shape) == ("float32", (3, 3, 16, 20))
