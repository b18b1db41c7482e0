"""The named recipes of ``recipes.toml``, and recipe files."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from densespec.network.files import read_record, write_record
from densespec.network.named import NamedRecords, read_tables
from densespec.recipes.recipe import TrainingRecipe

RecipeLike = str | os.PathLike[str] | TrainingRecipe
"""A named recipe, a recipe, or the path of a ``.toml`` or ``.json`` recipe file."""


@dataclass(frozen=True)
class Preset:
    """One named recipe.

    Attributes:
        about: what it is for, in a line.
        source: where its numbers come from.
    """

    name: str
    recipe: TrainingRecipe
    about: str
    source: str


@functools.cache
def presets() -> Mapping[str, Preset]:
    """Every named recipe, by name."""
    tables = read_tables(Path(__file__).with_name("recipes.toml"))
    return MappingProxyType(
        {
            name: Preset(
                name=name,
                about=row.pop("about"),
                source=row.pop("source"),
                recipe=TrainingRecipe.from_dict(row),
            )
            for name, row in tables.items()
        }
    )


RECIPES = NamedRecords(
    "recipe", TrainingRecipe, lambda: {n: p.recipe for n, p in presets().items()}
)
"""The named recipes."""


def get_recipe(given: RecipeLike) -> TrainingRecipe:
    """A recipe from whatever a user may give for one: name, recipe, or path of a recipe file.

    Raises:
        UnknownName: neither a named recipe nor a path that ends in ``.toml`` or ``.json``.
        SpecFileError: the file can't be read, or states no recipe.
        TypeError: something else altogether.
    """
    return RECIPES.resolve(given)


def read_recipe(path: str | os.PathLike[str]) -> TrainingRecipe:
    """The recipe in a ``.toml`` or ``.json`` file.

    Raises:
        SpecFileError: the file is absent, of another kind, or states no recipe; names the file.
    """
    return read_record(path, TrainingRecipe)


def write_recipe(recipe: TrainingRecipe, path: str | os.PathLike[str]) -> None:
    """Write a recipe to a ``.toml`` or ``.json`` file, whole or not at all.

    Raises:
        SpecFileError: another suffix.
    """
    write_record(recipe, path)
