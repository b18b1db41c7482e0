"""Arrays in several files: the index beside them, and what is wrong or missing there."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from densespec.weights.containers import write_file
from tests.containers.samples import network, read_all, refusal, tensors

SUFFIXES = (".safetensors", ".bin")
ARRAYS = network(4)


def names(suffix: str) -> list[str]:
    return [f"model-0000{number}-of-00002{suffix}" for number in (1, 2)]


def write(folder: Path, suffix: str = ".safetensors") -> Path:
    """Write the arrays into two files, and the index of both."""
    listed = {}
    for number, name in enumerate(names(suffix)):
        part = dict(list(ARRAYS.items())[number::2])
        write_file(folder / name, tensors(part))
        listed |= dict.fromkeys(part, name)
    index = folder / f"model{suffix}.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": listed}))
    return index


def change(index: Path, **files: object) -> None:
    """Say other files of some arrays."""
    record = json.loads(index.read_text())
    record["weight_map"] |= files
    index.write_text(json.dumps(record))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_index_the_folder_and_every_file_lead_to_all_arrays(
    tmp_path: Path, suffix: str
) -> None:
    index = write(tmp_path, suffix)
    for path in (index, tmp_path, *(tmp_path / name for name in names(suffix))):
        found = read_all(path)
        assert found.keys() == ARRAYS.keys()
        assert all(np.array_equal(found[name], array) for name, array in ARRAYS.items())


def test_a_file_without_its_index_holds_what_it_holds(tmp_path: Path) -> None:
    write(tmp_path).unlink()
    assert len(read_all(tmp_path / names(".safetensors")[0])) == len(ARRAYS) / 2


def test_a_file_that_is_missing_is_named(tmp_path: Path) -> None:
    index = write(tmp_path)
    (tmp_path / names(".safetensors")[1]).unlink()
    said = refusal(index)
    assert "lists 'model-00002-of-00002.safetensors', which is not beside it: get it too" in said


def test_what_the_index_says_of_a_file_has_to_be_there(tmp_path: Path) -> None:
    index = write(tmp_path)
    change(index, more=names(".safetensors")[0])
    said = refusal(index)
    assert "lists 'more' in 'model-00001-of-00002.safetensors', which lacks it" in said


@pytest.mark.parametrize(
    "file", ["../model-00001-of-00002.safetensors", "/etc/passwd", "..", "", "a\\b.bin", 3]
)
def test_an_index_leads_to_no_other_folder(tmp_path: Path, file: object) -> None:
    index = write(tmp_path)
    change(index, more=file)
    said = refusal(index)
    assert "lists files that can't be beside it" in said or "is not beside it" in said


def test_an_index_lists_files_of_weights_alone(tmp_path: Path) -> None:
    index = write(tmp_path)
    (tmp_path / "notes.txt").write_text("no weights")
    change(index, more="notes.txt")
    assert "its index lists 'notes.txt', but files end in .safetensors or .bin" in refusal(index)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"weight_map": {}}', '{"weight_map": 3}'])
def test_text_that_is_no_index_is_refused(tmp_path: Path, text: str) -> None:
    index = write(tmp_path)
    index.write_text(text)
    assert "model.safetensors.index.json" in refusal(index)
