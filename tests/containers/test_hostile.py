"""Files that are made to bring their reader down: each is answered soon, and in little memory."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

pytest.importorskip("resource", reason="the system sets no limits")

from tests.fuzz.child import ending_of, prepare
from tests.fuzz.endings import BAD, Ending
from tests.fuzz.hostile import FILES, NETWORKS


def tried(name: str, folder: Path) -> Ending:
    """How the reading of a file ended; it is made for that."""
    path = folder / name
    (FILES | NETWORKS)[name](path)
    try:
        return ending_of(path, {}, is_network=name in NETWORKS)
    finally:
        path.unlink()


@pytest.fixture(scope="module")
def pool() -> Iterator[ProcessPoolExecutor]:
    """A process that holds no framework, whose memory would be taken for the reader's."""
    with ProcessPoolExecutor(1, get_context("spawn"), prepare) as pool:
        yield pool


@pytest.mark.parametrize("name", [*FILES, *NETWORKS])
def test_an_answer_comes_soon_and_in_little_memory(
    pool: ProcessPoolExecutor, tmp_path: Path, name: str
) -> None:
    ending = pool.submit(tried, name, tmp_path).result()
    assert ending.name not in BAD, ending.said
