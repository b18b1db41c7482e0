"""The named variants of ``variants.toml`` and where their numbers come from."""

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
    """One named network.

    Attributes:
        source: where its numbers come from.
        parameters: published trainable parameters: exact (int), rounded (such as ``"1.0M"``),
            or none published.
        errors: published top-1 errors in % by data set; ``+`` is with augmentation.
    """

    name: str
    spec: DenseNetSpec
    source: str
    parameters: int | str | None
    errors: Mapping[str, float]


@functools.cache
def catalogue() -> Mapping[str, Variant]:
    """Every named variant, by name."""
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
"""The specs of the variants."""


def variants() -> tuple[str, ...]:
    """Names of the variants, in the order of the catalogue."""
    return tuple(catalogue())


def get(name: str) -> DenseNetSpec:
    """The spec of a named variant.

    Raises:
        UnknownName: no such variant; the message suggests near names.
    """
    return SPECS.get(name)


def resolve(spec: SpecLike) -> DenseNetSpec:
    """A spec from whatever a user may give for one: name, spec, or path of a spec file.

    Raises:
        UnknownName: neither a variant nor a path that ends in ``.toml`` or ``.json``.
        SpecFileError: the file can't be read.
        TypeError: something else altogether.
    """
    return SPECS.resolve(spec)
