"""Refusals show what a file says cut short, and escaped where a terminal would obey it."""

from __future__ import annotations

from pathlib import Path

import pytest

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
