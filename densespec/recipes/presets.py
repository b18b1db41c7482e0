"""Reads the named recipes of ``recipes.toml``, and recipe files."""

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
    """Describes one named recipe.

    Attributes:
        about: its purpose, in a line.
        source: the paper or the program that its numbers come from.
    """

    name: str
    recipe: TrainingRecipe
    about: str
    source: str


@functools.cache
def presets() -> Mapping[str, Preset]:
    """Read every named recipe, by name."""
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
"""Finds the named recipes."""


def get_recipe(given: RecipeLike) -> TrainingRecipe:
    """Find the recipe that a user means by a name, a recipe, or the path of a recipe file.

    Raises:
        UnknownName: it is neither a named recipe nor a path that ends in ``.toml`` or ``.json``.
        SpecFileError: the file can't be read, or states no recipe.
        TypeError: it is something else.
    """
    return RECIPES.resolve(given)


def read_recipe(path: str | os.PathLike[str]) -> TrainingRecipe:
    """Read the recipe in a ``.toml`` or ``.json`` file.

    Raises:
        SpecFileError: the file is absent, of another kind, or states no recipe; the message names
            the file.
    """
    return read_record(path, TrainingRecipe)


def write_recipe(recipe: TrainingRecipe, path: str | os.PathLike[str]) -> None:
    """Write a recipe to a ``.toml`` or ``.json`` file, whole or not at all.

    Raises:
        SpecFileError: another suffix.
    """
    write_record(recipe, path)
