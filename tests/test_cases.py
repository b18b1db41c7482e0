"""Small files in the real formats of other programs, each with that program's own output.

A case is a folder in ``tests/cases``: the weight file or folder, ``io.npz`` with an input ``x`` and
the right output ``y``, and ``case.toml``, which says of it:

- ``file``: the weight file or folder.
- ``output``: whether ``y`` is ``logits``, ``probabilities``, or ``features`` before the pool.
- ``tolerance``: the largest difference, over the largest value.
- ``accepts``: other arrays in ``io.npz`` that are right too.
- ``expect``: that it ``reads``; that it reads and ``notes`` say one of the words ``says``; or that
  the program ``refuses`` it with one of these words, where it does not compute ``y``.
- ``options``: those of ``densespec convert`` without which it can't be read.
- ``needs``: a package without which it can't be read.
"""

from __future__ import annotations

import re
import tomllib
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import densespec
from densespec import DensespecError
from densespec.cli import main
from densespec.network.differences import TRAINING_ONLY
from densespec.weights.containers import SUFFIXES, open_file
from densespec.weights.convert import convert
from densespec.weights.opening import open_weights
from tests.test_convert import assert_same

CASES = sorted(file.parent for file in Path(__file__).with_name("cases").glob("*/case.toml"))


@dataclass
class Case:
    folder: Path

    def __post_init__(self) -> None:
        self.record = tomllib.loads((self.folder / "case.toml").read_text())
        with np.load(self.folder / "io.npz") as stored:
            self.arrays = dict(stored)
        if "needs" in self.record:
            pytest.importorskip(self.record["needs"])

    @property
    def right(self) -> list[np.ndarray]:
        return [self.arrays[name] for name in ("y", *self.record.get("accepts", ()))]

    def is_right(self, output: np.ndarray) -> bool:
        return any(_apart(output, right) <= self.record["tolerance"] for right in self.right)

    def says(self, text: str) -> bool:
        """Whether a text has a word that starts with one that is expected."""
        words = "|".join(map(re.escape, self.record["says"]))
        return re.search(rf"(?<![\w-])(?:{words})", text, re.IGNORECASE) is not None


def _apart(output: np.ndarray, right: np.ndarray) -> float:
    if output.shape != right.shape:
        return float("inf")
    return float(np.abs(output - right).max() / np.abs(right).max())


def _converted(source: Path, target: Path, options: list[str]) -> Path:
    result = CliRunner().invoke(main, ["convert", str(source), str(target), *options])
    if isinstance(result.exception, SystemExit):
        raise DensespecError(result.output)
    if result.exception:
        raise result.exception
    return target


def _compute(path: Path, case: Case) -> tuple[np.ndarray, str]:
    """What the network of a file computes, and everything that is noted on the way."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = _built(path, include_top=case.record["output"] != "features")
        output = model(case.arrays["x"].astype(np.float64))
    return output, "\n".join([_notes(path), *(str(warning.message) for warning in caught)])


def _built(path: Path, *, include_top: bool) -> Any:
    if path.is_dir():
        return densespec.from_pretrained(path, backend="numpy")
    return densespec.build(None, weights=path, backend="numpy", include_top=include_top)


def _notes(path: Path) -> str:
    if path.is_dir():
        return ""
    with open_weights(path) as found:
        return "\n".join(found.notes)


@pytest.mark.parametrize("folder", CASES, ids=lambda folder: folder.name)
def test_a_file_of_another_program_computes_what_the_program_computed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = Case(folder)
    expected = case.record["expect"]
    monkeypatch.chdir(folder)
    path, options = folder / case.record["file"], case.record.get("options", [])
    refused: tuple[type[Exception], ...] = (DensespecError,) if expected == "refuses" else ()
    try:
        if options:
            path = _converted(path, tmp_path / "converted.safetensors", options)
        output, notes = _compute(path, case)
    except refused as error:
        right, text = case.says(str(error)), str(error)
    else:
        right, text = case.is_right(output), "another output"
        if right and expected == "notes":
            right, text = case.says(notes), notes
    assert right, text


@pytest.mark.parametrize("folder", CASES, ids=lambda folder: folder.name)
def test_it_comes_back_from_the_layout_that_it_was_read_in(folder: Path, tmp_path: Path) -> None:
    """Under the names that it had, where the program still has them."""
    case = Case(folder)
    path = folder / case.record["file"]
    if path.is_dir() or case.record["expect"] == "refuses" or case.record.get("options"):
        pytest.skip("it is not written back as it was read")
    with open_weights(path) as found:
        container, layout, graph, arrays = (
            found.container,
            found.layout,
            found.graph,
            found.arrays(),
        )
    if container not in layout.containers or container == "keras":
        pytest.skip(f"layout {layout.name} does not write such files")
    if layout.differences(graph.spec).keys() - TRAINING_ONLY:
        pytest.skip(f"the program of layout {layout.name} has no such head")
    suffix = next(suffix for suffix, name in SUFFIXES.items() if name == container)
    written = tmp_path / f"again{suffix}"
    convert(path, written, to_layout=layout.name)
    with open_weights(written) as again:
        assert again.layout.name == layout.name
        assert_same(again.arrays(), arrays)
    usual = set(layout.keys(graph, container).values()) | layout.constants(graph).keys()
    with open_file(path) as before, open_file(written) as after:
        if before.tensors.keys() <= usual:
            assert before.tensors.keys() <= after.tensors.keys() == usual
