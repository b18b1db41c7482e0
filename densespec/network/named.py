"""Reads records that have names: the tables of a module, and what a user may give for a record."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from densespec.errors import UnknownName
from densespec.network.fields import Record
from densespec.network.files import names_a_file, read_record

R = TypeVar("R", bound=Record)


def read_tables(path: Path) -> dict[str, Any]:
    """Read the tables of a TOML file that densespec ships."""
    import tomllib

    return tomllib.loads(path.read_text(encoding="utf-8"))


@dataclass(frozen=True)
class NamedRecords(Generic[R]):
    """Holds records of one class, by name.

    Attributes:
        noun: what an error calls a name, such as ``"variant"``.
        record: the class.
        table: gives the records by name; called when the first is asked for.
    """

    noun: str
    record: type[R]
    table: Callable[[], Mapping[str, R]]

    def get(self, name: str) -> R:
        """Find the record with this name.

        Raises:
            UnknownName: no record has the name; the message suggests near ones.
        """
        known = self.table()
        if name not in known:
            raise UnknownName(self.noun, name, known)
        return known[name]

    def resolve(self, given: str | os.PathLike[str] | R) -> R:
        """Find the record that a user means by its name, by itself, or by the path of a file.

        Raises:
            UnknownName: it is neither a name nor a path that ends in ``.toml`` or ``.json``.
            SpecFileError: the file can't be read, or states no such record.
            TypeError: it is something else.
        """
        if isinstance(given, self.record):
            return given
        if not isinstance(given, str | os.PathLike):
            noun, name = self.record.NOUN, self.record.__name__
            raise TypeError(
                f"a {noun} is a {self.noun}'s name, a {name} or the path of a {noun} file, "
                f"not {given!r}"
            )
        return read_record(given, self.record) if names_a_file(given) else self.get(str(given))
