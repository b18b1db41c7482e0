"""Reads and writes records, such as specs and recipes, as TOML or JSON with a JSON Schema."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any, TypeVar

from densespec.atomic import atomic_path
from densespec.errors import DensespecError, SpecError, UnknownName, shown
from densespec.network.fields import Record, plain
from densespec.network.spec import DenseNetSpec
from densespec.texts import JsonError, parsed_json, read_text

FORMAT = 1
"""States the version of the file format, which every file has under the key ``format``."""

SUFFIXES = (".toml", ".json")

R = TypeVar("R", bound=Record)


class SpecFileError(DensespecError, ValueError):
    """A spec file can't be read; the message says where and why."""


def to_json(record: Record) -> str:
    """Write a record as a JSON text that states every field."""
    return json.dumps({"format": FORMAT} | record.to_dict(), indent=2) + "\n"


def to_toml(record: Record) -> str:
    """Write a record as a TOML text. It leaves out fields that are None, as TOML has no null."""
    import tomli_w

    return tomli_w.dumps({"format": FORMAT} | _stated(record.to_dict()))


def _stated(table: dict[str, Any]) -> dict[str, Any]:
    """Leave out whatever is None, in the table and in the tables within it."""
    return {
        name: _stated(value) if isinstance(value, dict) else value
        for name, value in table.items()
        if value is not None
    }


def from_json(text: str, kind: type[R]) -> R:
    """Read a record from the JSON text that :func:`to_json` writes.

    Raises:
        SpecError, UnknownName, SpecFileError: the text is no record of that kind; the message says
            why.
    """
    try:
        table = parsed_json(text, "the text")
    except JsonError as error:
        raise SpecFileError(str(error)) from error
    return from_table(table, kind)


def from_toml(text: str, kind: type[R]) -> R:
    """Read a record from the TOML text that :func:`to_toml` writes.

    Raises:
        SpecError, UnknownName, SpecFileError: the text is no record of that kind; the message says
            why.
    """
    import tomllib

    try:
        table = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise SpecFileError(f"not TOML: {error}") from error
    return from_table(table, kind)


def names_a_file(given: str | os.PathLike[str]) -> bool:
    """Say whether what a user gives for a record is a file's path rather than a name."""
    return isinstance(given, os.PathLike) or Path(given).suffix in SUFFIXES


def spec_from_json(text: str) -> DenseNetSpec:
    """Read the spec that a JSON text states. It raises the errors of :func:`from_json`."""
    return from_json(text, DenseNetSpec)


def spec_from_toml(text: str) -> DenseNetSpec:
    """Read the spec that a TOML text states. It raises the errors of :func:`from_toml`."""
    return from_toml(text, DenseNetSpec)


def from_table(table: Any, kind: type[R]) -> R:
    """Read the record that a parsed file states.

    Raises:
        SpecError, UnknownName, SpecFileError: it states none of that kind; the message says why.
    """
    if not isinstance(table, dict):
        raise SpecFileError(f"a {kind.NOUN} is a table of fields, not {type(table).__name__}")
    fields = dict(table)
    reference = fields.pop("$schema", "")
    if not isinstance(reference, str):
        raise SpecFileError(f"$schema = {shown(reference)}, but should be a text")
    version = fields.pop("format", FORMAT)
    if version != FORMAT or isinstance(version, bool):
        raise SpecFileError(f"format = {shown(version)}, but this densespec reads format {FORMAT}")
    return kind.from_dict(fields)


def read_record(path: str | os.PathLike[str], kind: type[R]) -> R:
    """Read the record in a ``.toml`` or ``.json`` file.

    Raises:
        SpecFileError: the file is absent, of another kind, or states no record; the message names
            the file.
    """
    path = _checked(path, kind)
    parse = from_toml if path.suffix == ".toml" else from_json
    try:
        return parse(read_text(path), kind)
    except OSError as error:
        raise SpecFileError(f"{path}: {error.strerror or error}") from error
    except (UnicodeDecodeError, SpecError, UnknownName, SpecFileError) as error:
        raise SpecFileError(f"{path}: {error}") from error


def write_record(record: Record, path: str | os.PathLike[str]) -> None:
    """Write a record to a ``.toml`` or ``.json`` file, whole or not at all.

    Raises:
        SpecFileError: the path has another suffix.
    """
    path = _checked(path, type(record))
    text = to_toml(record) if path.suffix == ".toml" else to_json(record)
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _checked(path: str | os.PathLike[str], kind: type[Record]) -> Path:
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise SpecFileError(f"{path}: a {kind.NOUN} file ends in {' or '.join(SUFFIXES)}")
    return path


def read_spec(path: str | os.PathLike[str]) -> DenseNetSpec:
    """Read the spec in a ``.toml`` or ``.json`` file.

    Raises:
        SpecFileError: the file is absent, of another kind, or not a spec; the message names the
            file.
    """
    return read_record(path, DenseNetSpec)


def write_spec(spec: DenseNetSpec, path: str | os.PathLike[str]) -> None:
    """Write a spec to a ``.toml`` or ``.json`` file, whole or not at all.

    Raises:
        SpecFileError: the path has another suffix.
    """
    write_record(spec, path)


def schema(kind: type[Record] = DenseNetSpec) -> dict[str, Any]:
    """Make the JSON Schema (draft 2020-12) of spec or recipe files.

    It states the constraints on single values. Constraints on several values (S22, S23, S26) are
    checked on loading. The files ``docs/*.schema.json`` are copies of it.
    """
    properties: dict[str, Any] = {"$schema": {"type": "string"}, "format": {"const": FORMAT}}
    required = []
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        about, meaning = field.metadata["domain"], field.metadata["meaning"]
        entry = about.schema() | {"description": f"{field.metadata['constraint']}: {meaning}"}
        if field.default is dataclasses.MISSING:
            required.append(field.name)
        else:
            entry["default"] = plain(about, field.default)
        properties[field.name] = entry
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:densespec:{kind.NOUN}:{FORMAT}",
        "title": kind.__name__,
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }
