"""Refusals of damaged files: they show what a file says cut short, and escaped where a terminal
would obey it, and come where arrays hold what no program writes."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

import densespec
from densespec.errors import WeightsError
from tests.dtypes import dtype_of

pytest.importorskip("torch")
pytest.importorskip("resource", reason="the system sets no limits")

from tests.fuzz.child import ending_of, prepare
from tests.fuzz.corpus import seeds
from tests.fuzz.endings import REFUSED
from tests.fuzz.share import made

FOUND = {
    "made config of Keras": (73, 321),
    "torch-legacy": (806,),
    "a checkpoint": (1031,),
}
"""Numbers of files that the fuzzer made, by kind."""


def test_what_a_file_says_is_cut_and_escaped(tmp_path: Path) -> None:
    prepare()
    for seed in seeds(tmp_path):
        for number in FOUND.get(seed.kind, ()):
            path = tmp_path / seed.name
            path.write_bytes(made(seed.kind, seed.content, number))
            ending = ending_of(path, seed.arrays, is_network=seed.is_network)
            assert ending.name == REFUSED, ending.said


FOLDER = Path(__file__).parent / "cases" / "timm_folder" / "folder"
KERNEL = "features.conv0.weight"


def with_nan(folder: Path, dtype: str, bits: int) -> Path:
    """A timm folder whose first kernel has a NaN of some bits, in a type."""
    shutil.copytree(FOLDER, folder)
    arrays = safetensors.numpy.load_file(folder / "model.safetensors")
    kernel = arrays[KERNEL].astype(dtype_of(dtype))
    kernel.view(f"u{kernel.itemsize}").reshape(-1)[5] = bits
    safetensors.numpy.save_file(arrays | {KERNEL: kernel}, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize(
    ("dtype", "signalling", "quiet"),
    [
        ("float16", 0x7D00, 0x7E00),
        ("bfloat16", 0x7F81, 0x7FC0),
        ("float32", 0xFFBCBE05, 0x7FC00000),
        ("float64", 0x7FF0000000000001, 0x7FF8000000000000),
    ],
)
def test_nans_that_no_computation_gives_tell_that_a_file_is_damaged(
    tmp_path: Path, dtype: str, signalling: int, quiet: int
) -> None:
    damaged = with_nan(tmp_path / "damaged", dtype, signalling)
    right, target = with_nan(tmp_path / "right", dtype, quiet), tmp_path / "net.safetensors"
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        with pytest.raises(WeightsError, match=rf"{KERNEL} holds NaNs .* is damaged; get it anew"):
            densespec.from_pretrained(damaged, backend="numpy")
        with pytest.raises(WeightsError, match="is damaged"):
            densespec.convert(damaged / "model.safetensors", target, dtype="float64")
        model = densespec.from_pretrained(right, backend="numpy")
    kernel = densespec.read_weights(model)["stem.conv.kernel"]
    assert np.isnan(kernel).sum() == 1
