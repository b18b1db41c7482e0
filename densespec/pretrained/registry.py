"""Reads the rows of every registry file, and finds what a user means by a name.

A file states its ``publisher``, where its fields are from (``[sources]``), what its rows have in
common (``[common]``), and a table for each row (``[weights.KEY]``). densespec's own are in
``rows``. Another package adds files by an entry point of the group ``densespec.pretrained``, whose
object is a path or several, and a user by the environment variable ``DENSESPEC_PRETRAINED``, which
holds paths as ``PATH`` does.
"""

from __future__ import annotations

import functools
import os
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from densespec import published
from densespec.errors import DensespecError, UnknownName, WeightsError, listed
from densespec.network.differences import OF_HEAD, TRAINING_ONLY, spec_differences
from densespec.network.spec import DenseNetSpec
from densespec.pretrained.row import PretrainedWeights
from densespec.texts import read_text

GROUP = "densespec.pretrained"
FILES = "DENSESPEC_PRETRAINED"
FOLDER = Path(__file__).with_name("rows")

ADAPTABLE = TRAINING_ONLY | OF_HEAD | {"in_channels", "spatial_dims"}
"""A network may differ in these fields from the one that its trained weights are for."""


def registry() -> Mapping[str, PretrainedWeights]:
    """Return every row by its exact name, in the order of the files.

    Raises:
        WeightsError: A file can't be read or is no registry; the message names it.
    """
    return _rows(tuple(_files()))


def _files() -> Iterator[Path]:
    yield from sorted(FOLDER.glob("*.toml"))
    for given in published.load_all(GROUP, "registry of weights").values():
        paths = [given] if isinstance(given, str | os.PathLike) else given
        yield from map(Path, paths)
    yield from (Path(path) for path in os.environ.get(FILES, "").split(os.pathsep) if path)


@functools.lru_cache(maxsize=8)
def _rows(files: tuple[Path, ...]) -> Mapping[str, PretrainedWeights]:
    rows: dict[str, PretrainedWeights] = {}
    for file in files:
        for row in _read(file):
            if row.name in rows:
                raise WeightsError(f"{file}: {row.name} is a second one of this name")
            rows[row.name] = row
    return rows


def _read(file: Path) -> list[PretrainedWeights]:
    try:
        table = tomllib.loads(read_text(file))
        publisher, rows = str(table["publisher"]), table["weights"]
        common, sources = table.get("common", {}), table.get("sources", {})
        return [_row(file, publisher, key, _merged(common, rows[key]), sources) for key in rows]
    except OSError as error:
        raise WeightsError(f"{file}: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, DensespecError):
            raise
        raise WeightsError(f"{file}: no registry of weights: {error!r}") from error


def _row(
    file: Path, publisher: str, key: str, table: dict[str, Any], sources: Mapping[str, str]
) -> PretrainedWeights:
    try:
        return PretrainedWeights.from_table(publisher, key, table, sources)
    except WeightsError as error:
        raise WeightsError(f"{file}, {key}: {error}") from error


def _merged(common: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Join a row with what all rows have in common, field by field also within its tables."""
    both = {
        name: common[name] | own[name]
        for name in common.keys() & own.keys()
        if _tables(common[name], own[name])
    }
    return {**common, **own, **both}


def _tables(*values: object) -> bool:
    return all(isinstance(value, dict) for value in values)


def find(name: str, network: DenseNetSpec | None = None) -> PretrainedWeights | None:
    """Return the row that a name means; None if it is the name of none.

    Args:
        name: An exact name, the publisher's own, an id of the Hub with or without ``@REVISION``,
            or a tag such as ``imagenet``, which means a row together with a network.
        network: The network that the weights are for.

    Raises:
        WeightsError: The name means several rows, or none for this network; the message says which
            there are.
    """
    rows = registry()
    if name in rows:
        return rows[name]
    called, _, revision = name.partition("@")
    found = [row for row in rows.values() if called in row.names]
    if not found:
        return _tagged(name, network, rows.values())
    if len(found) > 1:
        raise WeightsError(f"{name!r} means {_or(found)}: give one of these names")
    if revision and not found[0].repository:
        return None
    return replace(found[0], revision=revision) if revision else found[0]


def _tagged(
    tag: str, network: DenseNetSpec | None, rows: Iterable[PretrainedWeights]
) -> PretrainedWeights | None:
    tagged = [row for row in rows if tag in row.tags]
    if not tagged:
        return None
    if network is None:
        raise WeightsError(
            f"{tag!r} means weights of several networks: give the network too, or the exact name, "
            f"{_or(tagged)}"
        )
    fitting = [row for row in tagged if _fits(row, network)]
    if len(fitting) != 1:
        raise WeightsError(
            f"there are {'several' if fitting else 'no'} weights called {tag!r} of this network: "
            f"`densespec weights` lists what is known, such as {_or(fitting or tagged)}"
        )
    return fitting[0]


def _fits(row: PretrainedWeights, network: DenseNetSpec) -> bool:
    return spec_differences(row.spec, network).keys() <= ADAPTABLE


def _or(rows: Iterable[PretrainedWeights]) -> str:
    return listed([row.name for row in rows]).replace("; ", ", ")


def get_row(name: str, network: DenseNetSpec | None = None) -> PretrainedWeights:
    """Return the row that a name means; see :func:`find`.

    Raises:
        UnknownName: There is no such row; the message suggests near names.
        WeightsError: The name means several, or none of this network.
    """
    if (row := find(name, network)) is None:
        raise _unknown(name)
    return row


def nearest_names(name: str) -> str:
    """Say which names of trained weights are near a text."""
    return str(_unknown(name)).partition(". ")[2]


def _unknown(name: str) -> UnknownName:
    rows = registry().values()
    own = {known for row in rows for known in (row.name, row.key, row.repository) if known}
    return UnknownName("trained weights", name, own | {tag for row in rows for tag in row.tags})
