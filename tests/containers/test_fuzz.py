"""Damage of any kind: a file is read, or refused by an error that names it, and nothing else."""

from __future__ import annotations

import random
import struct
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from densespec.errors import WeightsError
from tests.containers.samples import SAMPLES, Arrays, network, read_all, sample

ROUNDS = 2000
"""Damaged files of each sample."""

SUMMED = {"net.pth", "zip.pth", "wrapped.pt", "net.npz", "plain.npz", "packed.npz"}
SUMMED |= {"archive.keras", "packed.keras"}
"""Zip archives, which have a checksum of everything in them: what is read of one is right."""

UNCOUNTED = {"legacy.pth", "net.msgpack", "new.weights.h5"}
"""Files that do not tell how many arrays they have, so that one may become something else."""

EXTREMES = (0, 1, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63, 2**64 - 1)


def damaged(content: bytes, choose: random.Random) -> bytes:
    """A copy with one kind of damage."""
    copy = bytearray(content)
    at = choose.randrange(len(copy))
    match choose.randrange(8):
        case 0:
            del copy[at:]
        case 1:
            del copy[at : at + choose.randrange(1, 40)]
        case 2:
            copy[at:at] = choose.randbytes(choose.randrange(1, 40))
        case 3:
            end = at + choose.randrange(1, 40)
            copy[at:at] = copy[at:end]
        case 4:
            form = choose.choice("BHIQ")
            number = choose.choice(EXTREMES) % 256 ** struct.calcsize(form)
            field = struct.pack(choose.choice("<>") + form, number)
            copy[at : at + len(field)] = field
        case 5:
            other = choose.randrange(len(copy))
            copy[at : at + 8], copy[other : other + 8] = copy[other : other + 8], copy[at : at + 8]
        case _:
            for _ in range(choose.choice([1, 1, 1, 2, 5])):
                copy[choose.randrange(len(copy))] ^= 1 << choose.randrange(8)
    return bytes(copy)


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
@pytest.mark.parametrize("name", SAMPLES)
def test_damage_is_refused_or_harmless(tmp_path: Path, name: str) -> None:
    arrays = network()
    path = sample(tmp_path, name, arrays)
    content = path.read_bytes()
    choose = random.Random(zlib.crc32(name.encode()))
    refused = []
    for _ in range(ROUNDS):
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
    assert ROUNDS / 100 < len(refused) < ROUNDS * 99 / 100
