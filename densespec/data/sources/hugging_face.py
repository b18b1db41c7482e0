"""Sets of the Hugging Face Hub, or in its formats in a folder, read shard by shard when needed.

``NAME``, ``NAME@REVISION`` and ``NAME:CONFIG`` are those of ``datasets.load_dataset``, which finds
the files. The split ``train`` is to train on, and the first of ``test``, ``val``, ``valid`` and
``validation`` whose labels are known is to test on; without any, a fixed fifth is kept for that.
See :mod:`densespec.data.streams`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from densespec.data.dataset import DataError, Dataset
from densespec.data.items import IMAGES, LABELS, of_items
from densespec.data.sources.folder import TESTS, TRAIN
from densespec.data.streams import EXTRA, ShardedStream, StreamItems, errors_of, items_of
from densespec.errors import shown
from densespec.installed import imported


def load(place: str, channels: int) -> Dataset:
    """Load a set by its name on the Hub, or by the path of a folder.

    Raises:
        DataError: There is no such set, or it has no images and labels; the message says why.
        PackageMissing: The package ``datasets`` is not installed.
    """
    streams = _streams(place)
    if TRAIN not in streams:
        raise DataError(f"{place}: has the splits {shown([*streams])}, but none called {TRAIN}")
    light = _labels_alone(place, streams[TRAIN])
    parts = {
        name: items_of(streams[name], IMAGES, LABELS, labelled=light.get(name))
        for name in (TRAIN, *_tests(streams))
    }
    tests = [parts[name] for name in parts if name != TRAIN and _known(parts[name])]
    return of_items(parts[TRAIN], *tests[:1], channels=channels, name=place)


def _tests(streams: Mapping[str, ShardedStream]) -> list[str]:
    return [name for name in TESTS if name in streams]


def _known(items: StreamItems) -> bool:
    """Say whether labels are known: sets whose labels are secret have -1 in their place."""
    return not all(np.ndim(label) == 0 and label == -1 for label in items.labels)


def _labels_alone(place: str, stream: ShardedStream) -> Mapping[str, ShardedStream]:
    """Return the splits without their images, where the files of a set can be read so."""
    column = next((name for name in LABELS if name in (stream.features or {})), None)
    if column is None or not hasattr(_builder(place).config, "columns"):
        return {}
    return _streams(place, columns=[column])


def _streams(place: str, **options: Any) -> Mapping[str, ShardedStream]:
    """Return the splits of a set by name."""
    with errors_of(place):
        return dict(_builder(place, **options).as_streaming_dataset())


def _builder(place: str, **options: Any) -> Any:
    """Return what finds the files of a set."""
    datasets = imported("streaming a set of Hugging Face's", "datasets", extra=EXTRA)
    name, config, revision = place, "", ""
    if not Path(place).expanduser().exists():
        name, _, config = place.partition(":")
        name, _, revision = name.partition("@")
    return datasets.load_dataset_builder(
        str(Path(name).expanduser()) if name.startswith("~") else name,
        config or None,
        revision=revision or None,
        **options,
    )
