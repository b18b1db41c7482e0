"""Damage of any kind: a file is read, or refused by an error that names it, and nothing else."""

from __future__ import annotations

import random
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from densespec.errors import WeightsError
from tests.containers.samples import FILES, Arrays, network, read_all, sample
from tests.fuzz.mutations import damaged

ROUNDS, QUICK_ROUNDS = 2000, 1000
"""Damaged files of each sample, with --full and without."""

SUMMED = {"net.pth", "zip.pth", "wrapped.pt", "net.npz", "plain.npz", "packed.npz"}
SUMMED |= {"archive.keras", "packed.keras"}
"""Zip archives, which have a checksum of everything in them: what is read of one is right."""

UNCOUNTED = {"legacy.pth", "net.msgpack", "new.weights.h5"}
"""Files that do not tell how many arrays they have, so that one may become something else."""


def resident() -> int:
    """Most bytes of memory that this process has used."""
    resource = pytest.importorskip("resource", reason="the system does not count memory")
    peak: int = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


@pytest.fixture(autouse=True)
def little_memory() -> Iterator[None]:
    before = resident()
    yield
    assert resident() - before < 200 * 2**20


def equal(found: Arrays, arrays: Arrays) -> bool:
    return found.keys() == arrays.keys() and all(
        found[name].tobytes() == array.tobytes() and found[name].shape == array.shape
        for name, array in arrays.items()
    )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", FILES)
def test_damage_is_refused_or_harmless(
    tmp_path: Path, name: str, pytestconfig: pytest.Config
) -> None:
    arrays = network()
    path = sample(tmp_path, name, arrays)
    content = path.read_bytes()
    choose = random.Random(zlib.crc32(name.encode()))
    refused = []
    rounds = ROUNDS if pytestconfig.getoption("--full") else QUICK_ROUNDS
    for _ in range(rounds):
        path.unlink()  # file systems wait for the disk where a file is overwritten
        path.write_bytes(damaged(content, choose))
        try:
            found = read_all(path)
        except WeightsError as error:
            refused.append(str(error))
        else:
            assert name in UNCOUNTED or len(found) >= len(arrays)
            assert name not in SUMMED or equal(found, arrays)
    assert list(tmp_path.iterdir()) == [path]
    assert [said for said in refused if not said.startswith(f"{path}: ")] == []
    assert rounds / 100 < len(refused) < rounds * 99 / 100
