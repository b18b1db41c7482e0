"""Some files of one kind, made and read by one process, which imports no framework."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tests.fuzz.child import contents, ending_of, prepare
from tests.fuzz.configs import with_another_config
from tests.fuzz.endings import ACTED, Ending
from tests.fuzz.grammars import GRAMMARS
from tests.fuzz.mutations import damaged

ANOTHER_CONFIG = "made config of Keras"
"""The kind of which the config is changed, and not the bytes."""
ORBAX = "Orbax's"
"""Tensorstore, which reads these kinds, may be imported, but not used, before a process forks."""


@dataclass(frozen=True)
class Share:
    """Some files of one kind, which one process makes and reads; see ``corpus.Seed``."""

    kind: str
    name: str
    content: bytes | None
    arrays: Mapping[str, np.ndarray]
    is_network: bool
    seed: int
    count: int
    beside: Mapping[str, bytes] = field(default_factory=dict)
    opened: str = ""


def read_share(share: Share) -> list[tuple[int, Ending]]:
    """Make and read the files of a share: each one's number, with which it can be made again."""
    prepare()
    endings = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        path, opened = root / share.name, root / (share.opened or share.name)
        for name, content in share.beside.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(content)
        if share.content is not None and not share.kind.startswith(ORBAX):
            _warm_up(path, opened, share)
        for number in range(share.seed, share.seed + share.count):
            path.write_bytes(made(share.kind, share.content, number))
            endings.append((number, ending_of(opened, share.arrays, is_network=share.is_network)))
            there = {str(one.relative_to(root)) for one in root.rglob("*") if one.is_file()}
            if left := sorted(there - share.beside.keys() - {share.name}):
                endings[-1] = (number, Ending(ACTED, f"left {left}"))
            path.unlink()
    return endings


def _warm_up(path: Path, opened: Path, share: Share) -> None:
    """Read the right file once, lest what is imported for it is done by every child anew."""
    assert share.content is not None
    path.write_bytes(share.content)
    contents(opened, is_network=share.is_network)
    path.unlink()


def made(kind: str, content: bytes | None, number: int) -> bytes:
    """The file of a kind with a number, the same whenever it is asked for."""
    choose = random.Random(f"{kind} {number}")
    if content is None:
        return GRAMMARS[kind][1](choose)
    return (with_another_config if kind == ANOTHER_CONFIG else damaged)(content, choose)
