"""Some files of one kind, made and read by one process, which imports no framework."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests.fuzz.child import contents, ending_of
from tests.fuzz.configs import with_another_config
from tests.fuzz.endings import ACTED, Ending
from tests.fuzz.grammars import GRAMMARS
from tests.fuzz.mutations import damaged

ANOTHER_CONFIG = "made config of Keras"
"""The kind of which the config is changed, and not the bytes."""


@dataclass(frozen=True)
class Share:
    """Some files of one kind, which one process makes and reads."""

    kind: str
    name: str
    content: bytes | None
    arrays: Mapping[str, np.ndarray]
    is_network: bool
    seed: int
    count: int


def read_share(share: Share) -> list[tuple[int, Ending]]:
    """Make and read the files of a share: each one's number, with which it can be made again."""
    endings = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / share.name
        if share.content is not None:
            _warm_up(path, share)
        for number in range(share.seed, share.seed + share.count):
            path.write_bytes(made(share.kind, share.content, number))
            endings.append((number, ending_of(path, share.arrays, is_network=share.is_network)))
            left = sorted(one.name for one in path.parent.iterdir() if one != path)
            if left:
                endings[-1] = (number, Ending(ACTED, f"left {left}"))
            path.unlink()
    return endings


def _warm_up(path: Path, share: Share) -> None:
    """Read the right file once, lest what is imported for it is done by every child anew."""
    assert share.content is not None
    path.write_bytes(share.content)
    contents(path, is_network=share.is_network)
    path.unlink()


def made(kind: str, content: bytes | None, number: int) -> bytes:
    """The file of a kind with a number, the same whenever it is asked for."""
    choose = random.Random(f"{kind} {number}")
    if content is None:
        return GRAMMARS[kind][1](choose)
    return (with_another_config if kind == ANOTHER_CONFIG else damaged)(content, choose)
