"""Gives the items of a stream by index: Hugging Face's ``IterableDataset``, larger than a disk.

Such a stream has no index, but it has shards that can be opened one by one: files, and of parquet
files their groups of rows. At first the label of every item is read, which counts them as well.
After that a shard is read when one of its items is asked for. It is kept, as packed as it came,
until others have been asked for. In the order of :func:`densespec.data.draws.by_groups`, each shard
is read once an epoch.

A stream is taken only if its shards make up the whole of it, item after item. So a stream that is
shuffled, repeated, cut or interleaved is refused, and so is a shard that has other labels than at
first.
"""

from __future__ import annotations

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from densespec.data.dataset import DataError
from densespec.data.draws import mixed_at_once
from densespec.errors import DensespecError, bare, shown
from densespec.installed import imported

EXTRA = "datasets"

ITEM_AFTER_ITEM = {
    f"{kind}ExamplesIterable"
    for kind in (
        "",
        "Arrow",
        "RebatchedArrow",
        "Mapped",
        "Filtered",
        "Formatted",
        "VerticallyConcatenatedMultiSources",
        "HorizontallyConcatenatedMultiSources",
    )
} | {"SelectColumnsIterable"}
"""A stream may do only this, by the names in its state: other streams' shards are not their parts.
"""

READERS = 8
"""At most this many files are read for their labels at the same time."""


@runtime_checkable
class ShardedStream(Protocol):
    """Says what is asked of a stream; methods and properties are those of Hugging Face's."""

    @property
    def num_shards(self) -> int:
        """Return how many shards it has."""
        ...

    @property
    def features(self) -> Mapping[str, Any] | None:
        """Return the kind of each column by its name; None where nothing tells them."""
        ...

    def shard(self, num_shards: int, index: int) -> ShardedStream:
        """Return the part of it that is one of so many."""
        ...

    def reshard(self) -> ShardedStream:
        """Return it with smaller shards, where its files have such."""
        ...

    def select_columns(self, column_names: list[str]) -> ShardedStream:
        """Return it without its other columns."""
        ...

    def decode(self, enable: bool) -> ShardedStream:
        """Return it with images as they are packed."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Tell where it stands, and what it does."""
        ...

    def __iter__(self) -> Iterator[Any]: ...


@dataclass(frozen=True)
class _Shard:
    """Opens a shard of a file: a stream without its other shards."""

    file: ShardedStream
    index: int

    def items(self, columns: Sequence[str]) -> list[dict[str, Any]]:
        """Read its items, with images as they are packed where the stream tells which those are."""
        part = self.file.shard(num_shards=self.file.num_shards, index=self.index)
        part = part.select_columns([*columns])
        return list(part if part.features is None else part.decode(False))

    def labels(self, column: str) -> list[Any]:
        """Read its labels."""
        return [item[column] for item in self.items([column])]


class StreamItems:
    """Gives the items of a stream by index; they are tables of an image and a label.

    Attributes:
        column_names: The names of both.
        features: What the stream tells of its columns.
        labels: The label of each item, as the stream has it.
        groups: The shard of each item, (count,).
    """

    def __init__(
        self,
        shards: Sequence[_Shard],
        column_names: tuple[str, str],
        features: Mapping[str, Any],
        labels: Sequence[Sequence[Any]],
    ) -> None:
        self._shards, self.column_names, self.features = shards, column_names, features
        counts = [len(part) for part in labels]
        self.labels = [label for part in labels for label in part]
        self.groups = np.repeat(np.arange(len(counts)), counts)
        self._starts = np.cumsum([0, *counts])
        self._kept = self._nothing_kept()

    def _nothing_kept(self) -> _Kept:
        """Make room for what is being mixed and for what comes after it."""
        return _Kept(2 * mixed_at_once(self.groups))

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> dict[str, Any]:
        group = int(self.groups[row])
        items = self._kept.get(group, self._read)
        return _whole(items[row - self._starts[group]], self.column_names[0], row)

    def _read(self, group: int) -> list[dict[str, Any]]:
        with errors_of(f"shard {group}"):
            items = self._shards[group].items(self.column_names)
        start, stop = self._starts[group : group + 2]
        label = self.column_names[1]
        if not _same([item[label] for item in items], self.labels[start:stop]):
            raise DataError(
                f"shard {group} of the stream has other labels than at first: leave what is drawn "
                "at random to the recipe, and name the revision of a set that changes"
            )
        return items

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_kept"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._kept = self._nothing_kept()


class _Kept:
    """Keeps the items of a few groups; the group that was not asked for the longest goes first."""

    def __init__(self, most: int) -> None:
        self._most, self._lock = most, threading.Lock()
        self._groups: OrderedDict[int, Future[list[dict[str, Any]]]] = OrderedDict()

    def get(self, group: int, read: Callable[[int], list[dict[str, Any]]]) -> list[dict[str, Any]]:
        """Return the items of a group; whoever asks first reads them, and others wait for that."""
        with self._lock:
            known = self._groups.pop(group, None)
            found = self._groups[group] = known or Future()
            while len(self._groups) > self._most:
                self._groups.popitem(last=False)
        if known is None:
            try:
                found.set_result(read(group))
            except BaseException as error:
                found.set_exception(error)
                with self._lock:
                    self._groups.pop(group, None)
        return found.result()


def items_of(
    stream: ShardedStream,
    images: Collection[str],
    labels: Collection[str],
    *,
    labelled: ShardedStream | None = None,
) -> StreamItems:
    """Make items with an index of a stream, whose labels are all read.

    Args:
        images: What the column of images may be called, the likeliest first.
        labels: What that of labels may be called.
        labelled: The same stream without its images, which is quicker to go through.

    Raises:
        DataError: The shards are not parts of the stream, or can't be read; the message says why.
    """
    _check(stream)
    with errors_of("the stream"):
        features = stream.features or {}
        columns = list(features or next(iter(stream), {}))
        names = _named(columns, images), _named(columns, labels)
        shards = _shards(stream)
        light = shards if labelled is None else _shards(labelled)
        with ThreadPoolExecutor(READERS) as pool:
            found = list(pool.map(lambda shard: shard.labels(names[1]), light))
    if not any(found):
        raise DataError("the stream has no items")
    return StreamItems(shards, names, features, found)


def _shards(stream: ShardedStream) -> list[_Shard]:
    """List the shards of a stream, file by file: those of one do not make others slower to find."""
    count = stream.num_shards
    with ThreadPoolExecutor(READERS) as pool:  # the end of each file is read
        parts = (stream.shard(num_shards=count, index=index) for index in range(count))
        files = list(pool.map(lambda part: part.reshard(), parts))
    return [_Shard(file, index) for file in files for index in range(file.num_shards)]


def _check(stream: ShardedStream) -> None:
    """Check that the shards of a stream are parts of it."""
    others = sorted(set(_kinds(stream.state_dict())) - ITEM_AFTER_ITEM)
    if others:
        raise DataError(
            f"the stream does what {', '.join(others)} of Hugging Face's datasets does, so its "
            "shards are not parts of it: give it whole and in its own order, not shuffled, "
            "repeated, cut, interleaved or split by node; the recipe's seed shuffles it, and each "
            "process takes its share"
        )


def _kinds(state: Any) -> Iterator[str]:
    """Yield the names of everything that a stream does, as its state has them."""
    match state:
        case Mapping():
            if isinstance(state.get("type"), str):
                yield state["type"]
            for part in state.values():
                yield from _kinds(part)
        case list():
            for part in state:
                yield from _kinds(part)


def _named(columns: Collection[str], names: Collection[str]) -> str:
    found = next((name for name in names if name in columns), None)
    if found is None:
        raise DataError(
            f"the stream has the columns {shown(list(columns))}, but none of {', '.join(names)}: "
            "use its rename_column"
        )
    return found


def _same(labels: Sequence[Any], known: Sequence[Any]) -> bool:
    """Say whether labels are the same; two labels that are not known are."""
    ours, theirs = np.asarray(labels), np.asarray(known)
    if ours.shape != theirs.shape:
        return False
    return bool(((ours == theirs) | ((ours != ours) & (theirs != theirs))).all())


def _whole(item: dict[str, Any], image: str, row: int) -> dict[str, Any]:
    """Return an item with the bytes of its image, where the stream has but their address."""
    packed = item[image]
    if not isinstance(packed, Mapping) or packed.get("bytes") is not None:
        return item
    with errors_of(f"the image of item {row}"):
        files = imported("reading what streams point to", "fsspec", extra=EXTRA)
        with files.open(packed["path"], "rb") as file:
            return item | {image: {"bytes": file.read()}}


@contextlib.contextmanager
def errors_of(what: str) -> Iterator[None]:
    """Raise errors of other packages as our own, which says what was read."""
    try:
        yield
    except DensespecError:
        raise
    except Exception as error:
        reason = bare(str(error)) or type(error).__name__
        raise DataError(f"{what} can't be read: {reason}") from error
