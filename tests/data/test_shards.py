"""Shards: tar files of many images."""

from __future__ import annotations

import gzip
import io
import tarfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from densespec import data
from densespec.data import Batches, DataError
from densespec.data.draws import by_groups, mixed_at_once
from tests.data.samples import philox


def npy(value: int, size: tuple[int, ...] = (4, 5)) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.full(size, value, np.uint8))
    return buffer.getvalue()


def shard(path: Path, members: Mapping[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def shards(root: Path, count: int = 10, each: int = 6) -> Path:
    """Shards whose images have their number as every pixel, which modulo 3 is the label."""
    for number in range(count):
        members: dict[str, bytes] = {}
        for value in range(number * each, (number + 1) * each):
            members |= {f"{value:04}.npy": npy(value), f"{value:04}.cls": b"%d\n" % (value % 3)}
        shard(root / f"part-{number:03}.tar", members)
    return root


def numbers(split: data.Split) -> list[int]:
    return [int(split.image(index).max()) for index in range(len(split))]


def every_number(root: Path) -> list[int]:
    found = data.load(f"shards:{root}", channels=1)
    return numbers(found.train) + numbers(found.test)


def test_images_are_read_where_they_lie(tmp_path: Path) -> None:
    found = data.load(f"shards:{shards(tmp_path)}", channels=1)
    assert found.classes == ("0", "1", "2")
    assert (len(found.train), len(found.test), found.train.shape) == (48, 12, (1, None, None))
    for part in (found.train, found.test):
        np.testing.assert_array_equal(np.array(numbers(part)) % 3, part.y)
    assert sorted(numbers(found.train) + numbers(found.test)) == list(range(60))


def test_shards_to_train_and_to_test_on(tmp_path: Path) -> None:
    shards(tmp_path / "train", 3)
    shards(tmp_path / "val", 1)
    found = data.load(f"shards:{tmp_path}", channels=1)
    assert (len(found.train), len(found.test)) == (18, 6)


@pytest.mark.parametrize(
    ("texts", "classes", "labels"),
    [
        (["cat", "dog", "cat", "ant"], ("ant", "cat", "dog"), [1, 2, 1, 0]),
        (["0 1", "1,0", "nan 1", "0.5 -1"], ("0", "1"), [[0, 1], [1, 0], [np.nan, 1], [0.5, -1]]),
        (["3", " 1\n", "0", "1"], ("0", "1", "2", "3"), [3, 1, 0, 1]),
    ],
)
def test_labels_are_numbers_or_names(
    tmp_path: Path, texts: list[str], classes: tuple[str, ...], labels: object
) -> None:
    members: dict[str, bytes] = {"readme.txt": b"x", "only.json": b"{}"}
    for number, text in enumerate(texts):
        members |= {f"a/{number}.cls": text.encode(), f"a/{number}.npy": npy(number)}
    for part in ("train", "test"):
        shard(tmp_path / part / "0.tar", members)
    found = data.load(f"shards:{tmp_path}", channels=1)
    assert found.classes == classes
    np.testing.assert_array_equal(found.train.y, labels)


def most_open(groups: np.ndarray, order: np.ndarray) -> int:
    """How many groups have been begun and not been done with, at most, in an order."""
    seen, count = groups[order], int(groups.max()) + 1
    first = [int(np.flatnonzero(seen == group)[0]) for group in range(count)]
    last = [int(np.flatnonzero(seen == group)[-1]) for group in range(count)]
    return max(sum(a <= at <= b for a, b in zip(first, last, strict=True)) for at in first)


@pytest.mark.parametrize(("each", "at_once"), [(300, 4), (256, 4), (255, 5), (100, 11)])
def test_an_epoch_goes_through_few_groups_at_a_time(each: int, at_once: int) -> None:
    groups = np.repeat(np.arange(40), each)
    assert mixed_at_once(groups) == at_once
    for epoch in range(3):
        order = by_groups(3, "order", epoch, groups)
        np.testing.assert_array_equal(np.sort(order), np.arange(len(groups)))
        assert most_open(groups, order) == at_once


def test_the_order_of_shards_is_by_groups(tmp_path: Path) -> None:
    found = data.load(f"shards:{shards(tmp_path)}", channels=1)
    batches = Batches(found.train, found.normalisation, batch_size=7, seed=3, size=(4, 5))
    expected = by_groups(3, "order", 1, found.train.x.groups)  # type: ignore[union-attr]
    np.testing.assert_array_equal(batches.order(1), expected)


def test_the_order_is_that_of_the_page() -> None:
    """With a Philox in plain Python."""
    groups = np.arange(2400) % 9

    def stream(text: str, count: int) -> list[int]:
        drawn = philox((5, zlib.crc32(text.encode())), 2)
        return [next(drawn) for _ in range(count)]

    of_groups = stream("order of groups", 9)
    turns = sorted(range(9), key=lambda group: of_groups[group])
    own = stream("order", 2400)
    expected: list[int] = []
    for start in range(0, 9, 4):
        mixed = [i for i in range(2400) if groups[i] in turns[start : start + 4]]
        expected += sorted(mixed, key=lambda i: own[i])
    assert by_groups(5, "order", 2, groups).tolist() == expected


def test_a_run_goes_on_in_the_middle_of_an_epoch(tmp_path: Path) -> None:
    found = data.load(f"shards:{shards(tmp_path)}", channels=1)
    batches = Batches(found.train, found.normalisation, batch_size=7, seed=3, size=(4, 5))
    whole = [x for x, _ in batches.epoch(1, workers=3)]
    again = data.load(f"shards:{tmp_path}", channels=1)
    resumed = Batches(again.train, again.normalisation, batch_size=7, seed=3, size=(4, 5))
    for x, expected in zip(resumed.epoch(1, 4), whole[4:], strict=True):
        np.testing.assert_array_equal(x[0], expected)


IMAGE, LABEL = {"a.npy": npy(1)}, {"a.cls": b"1"}


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({}, "has no samples"),
        (IMAGE, "sample '/a' has no text .cls, or nothing in it"),
        (LABEL, "sample '/a' has no image"),
        (IMAGE | {"a.cls": b" "}, "sample '/a' has no text .cls, or nothing in it"),
        (IMAGE | {"a.png": b"x"} | LABEL, "'a.png' is there twice, or in two formats"),
        (IMAGE | LABEL | {"b.npy": npy(1), "b.cls": b"1 2"}, "not as many numbers as others"),
        (IMAGE | {"a.cls": b"1" * 70_000}, "'a.cls' has 70000 bytes, which is too much"),
        (IMAGE | {"a.cls": b"\xff"}, "not a readable tar file: .*codec can.t decode"),
        ({"a.npy": npy(1)[:-1]} | LABEL, "0.tar, image at byte 512: not a readable array"),
    ],
)
def test_shards_that_say_nothing_clear_are_refused(
    tmp_path: Path, members: dict[str, bytes], message: str
) -> None:
    shard(tmp_path / "0.tar", members)
    with pytest.raises(DataError, match=message):
        data.load(f"shards:{tmp_path}", channels=1)


def test_folders_without_shards_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has no shards, which end in \.tar"):
        data.load(f"shards:{tmp_path}")
    with pytest.raises(DataError, match="no such folder"):
        data.load(f"shards:{tmp_path / 'other'}")


def test_shards_that_are_damaged_or_packed_are_refused_by_name(tmp_path: Path) -> None:
    path = shards(tmp_path, 1, 30) / "part-000.tar"
    whole = path.read_bytes()
    for content in (gzip.compress(whole), whole[:1500], whole[: len(whole) // 2], b"", b"x" * 2000):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"part-000\.tar"):
            every_number(tmp_path)


def test_what_becomes_shorter_while_it_is_read_is_refused(tmp_path: Path) -> None:
    found = data.load(f"shards:{shards(tmp_path, 1, 30)}", channels=1)
    path = tmp_path / "part-000.tar"
    path.write_bytes(path.read_bytes()[:600])
    with pytest.raises(DataError, match=r"part-000\.tar: ends before byte"):
        numbers(found.train)
