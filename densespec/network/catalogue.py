"""Reads the named variants from ``variants.toml``, which says where their numbers come from."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from densespec.network.named import NamedRecords, read_tables
from densespec.network.spec import DenseNetSpec

SpecLike = str | os.PathLike[str] | DenseNetSpec
"""A variant's name, a spec, or the path of a ``.toml`` or ``.json`` spec file."""


@dataclass(frozen=True)
class Variant:
    """Describes one named network.

    Attributes:
        source: the paper or the program that its numbers come from.
        parameters: the published number of trainable parameters, exact (an int) or rounded (such as
            ``"1.0M"``); None if none is published.
        errors: the published top-1 errors in percent, by data set; a ``+`` means that training used
            augmentation.
    """

    name: str
    spec: DenseNetSpec
    source: str
    parameters: int | str | None
    errors: Mapping[str, float]


@functools.cache
def catalogue() -> Mapping[str, Variant]:
    """Read every named variant, by name."""
    tables = read_tables(Path(__file__).with_name("variants.toml"))
    families = tables["family"]
    variants = {}
    for name, row in tables["variant"].items():
        fields = families[row.pop("family")] | row
        about = {key: fields.pop(key, None) for key in ("source", "parameters", "errors")}
        variants[name] = Variant(
            name=name,
            spec=DenseNetSpec.from_dict(fields),
            source=about["source"],
            parameters=about["parameters"],
            errors=MappingProxyType(about["errors"] or {}),
        )
    return MappingProxyType(variants)


SPECS = NamedRecords(
    "variant", DenseNetSpec, lambda: {name: variant.spec for name, variant in catalogue().items()}
)
"""Finds the specs of the variants by name."""


def variants() -> tuple[str, ...]:
    """List the names of the variants, in the order of the catalogue."""
    return tuple(catalogue())


def get(name: str) -> DenseNetSpec:
    """Find the spec of a named variant.

    Raises:
        UnknownName: there is no such variant; the message suggests near names.
    """
    return SPECS.get(name)


def resolve(spec: SpecLike) -> DenseNetSpec:
    """Find the spec that a user means by a variant's name, a spec, or the path of a spec file.

    Raises:
        UnknownName: it is neither a variant nor a path that ends in ``.toml`` or ``.json``.
        SpecFileError: the file can't be read.
        TypeError: it is something else.
    """
    return SPECS.resolve(spec)
