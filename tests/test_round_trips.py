"""Every layout in every container that it is written into: what comes back is what was there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from densespec.network.spec import DenseNetSpec
from densespec.weights.containers import SUFFIXES, WRITERS, open_file
from densespec.weights.convert import convert
from densespec.weights.layouts import get_layout, layouts
from tests.test_convert import SPEC, arrays_of, assert_same, checkpoint

pytest.importorskip("h5py", reason="h5py is not installed")

TARGETS = [
    pytest.param(layout.name, suffix, id=f"{layout.name}{suffix}")
    for layout in layouts().values()
    for suffix, container in SUFFIXES.items()
    if container in WRITERS and container in layout.containers
]
LEFT_OUT = (".pt", ".bin", ".hdf5")
"""Other suffixes of containers that are tried under one."""


def _spec(name: str) -> DenseNetSpec:
    """A network that the implementation of a layout has."""
    return SPEC.replace(**get_layout(name).implements)


def _said(name: str) -> dict[str, Any]:
    """What has to be said of a file whose layout tells nothing of the spec."""
    layout = get_layout(name)
    return {"layout": name} | ({} if layout.implements else {"spec": _spec(name)})


@pytest.mark.parametrize("top", [True, False], ids=["whole", "without a classifier"])
@pytest.mark.parametrize(("name", "suffix"), [t for t in TARGETS if t.values[1] not in LEFT_OUT])
def test_what_is_written_and_read_is_the_same_bit_for_bit(
    name: str, suffix: str, top: bool, tmp_path: Path
) -> None:
    if suffix == ".orbax":
        pytest.importorskip("tensorstore", reason="Orbax's arrays are read by tensorstore")
    source = checkpoint(tmp_path / "source.safetensors", _spec(name), include_top=top)
    written, back = tmp_path / f"written{suffix}", tmp_path / "back.safetensors"
    again = tmp_path / f"again{suffix}"
    convert(source, written, to_layout=name)
    convert(written, back, to_layout="densespec", **_said(name))
    assert_same(arrays_of(back), arrays_of(source))
    convert(back, again, to_layout=name)
    with open_file(written) as first, open_file(again) as second:
        assert list(first.tensors) == list(second.tensors)
        for key, tensor in first.tensors.items():
            np.testing.assert_array_equal(second.tensors[key].read(), tensor.read(), err_msg=key)


def test_every_layout_that_can_be_written_is_tried() -> None:
    unwritten = {name for name, layout in layouts().items() if not _writable(layout.containers)}
    assert {target.values[0] for target in TARGETS} == layouts().keys() - unwritten


def _writable(containers: tuple[str, ...]) -> bool:
    return any(container in WRITERS for container in containers)
