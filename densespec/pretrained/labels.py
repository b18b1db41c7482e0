"""Holds the names of classes, in the order of a network's outputs, as data."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

from densespec.errors import UnknownName

FOLDER = Path(__file__).with_name("label_sets")


@dataclass(frozen=True)
class LabelSet:
    """Describes the classes of a data set.

    Attributes:
        names: The names of the classes.
        identifiers: Other identifiers of the classes, such as WordNet ids; an empty text if a class
            has none.
    """

    names: tuple[str, ...]
    identifiers: tuple[str, ...]


def label_sets() -> tuple[str, ...]:
    """List the data sets whose classes are known by name."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.tsv")))


@functools.cache
def label_set(name: str) -> LabelSet:
    """Return the classes of a data set, such as ``"imagenet"``.

    Raises:
        UnknownName: There is no such set; the message suggests near names.
    """
    if name not in label_sets():
        raise UnknownName("set of labels", name, label_sets())
    lines = (FOLDER / f"{name}.tsv").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("\t") for line in lines if not line.startswith("#")]
    identifiers, names = zip(*pairs, strict=True)
    return LabelSet(names, identifiers)


@functools.cache
def identifiers_by_names() -> dict[tuple[str, ...], tuple[str, ...]]:
    """Return the identifiers of every set of labels by its names."""
    found = map(label_set, label_sets())
    return {labels.names: labels.identifiers for labels in found if any(labels.identifiers)}
