"""Reading and writing spec files (TOML, JSON), their JSON Schema, and atomic writing."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from densespec.errors import DensespecError, SpecError, UnknownName, shown
from densespec.spec import DenseNetSpec

FORMAT = 1
"""Version of the file format, the ``format`` key of every file written."""

SCHEMA_ID = f"urn:densespec:spec:{FORMAT}"
SUFFIXES = (".toml", ".json")


class SpecFileError(DensespecError, ValueError):
    """A spec file can't be read: where, and why."""


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary path beside ``path`` that replaces it on success and vanishes on failure.

    As with a plain write, a link stays a link, and a file that is replaced keeps its permissions.

    Raises:
        FileNotFoundError: the folder does not exist.
    """
    target = Path(os.path.realpath(path))
    if not target.parent.is_dir():
        raise FileNotFoundError(f"no folder {target.parent} to write {target.name} into")
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".tmp")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(_permissions(target))
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def _permissions(target: Path) -> int:
    """Of the file that is there, or else of a new one."""
    with contextlib.suppress(FileNotFoundError):
        return stat.S_IMODE(target.stat().st_mode)
    umask = os.umask(0)
    os.umask(umask)
    return 0o666 & ~umask


def spec_to_json(spec: DenseNetSpec) -> str:
    """The spec as JSON, every field stated."""
    return json.dumps({"format": FORMAT} | spec.to_dict(), indent=2) + "\n"


def spec_to_toml(spec: DenseNetSpec) -> str:
    """The spec as TOML, every field stated but those that are none (TOML has no null)."""
    import tomli_w

    stated = {name: value for name, value in spec.to_dict().items() if value is not None}
    return tomli_w.dumps({"format": FORMAT} | stated)


def spec_from_json(text: str) -> DenseNetSpec:
    """The inverse of :func:`spec_to_json`.

    Raises:
        SpecError, UnknownName, SpecFileError: the text is not a spec; the message says why.
    """
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SpecFileError(f"not JSON: {error}") from error
    return _from_record(record)


def spec_from_toml(text: str) -> DenseNetSpec:
    """The inverse of :func:`spec_to_toml`.

    Raises:
        SpecError, UnknownName, SpecFileError: the text is not a spec; the message says why.
    """
    import tomllib

    try:
        record = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise SpecFileError(f"not TOML: {error}") from error
    return _from_record(record)


def _from_record(record: Any) -> DenseNetSpec:
    if not isinstance(record, dict):
        raise SpecFileError(f"a spec is a table of fields, not {type(record).__name__}")
    fields = dict(record)
    reference = fields.pop("$schema", "")
    if not isinstance(reference, str):
        raise SpecFileError(f"$schema = {shown(reference)}, but should be a text")
    version = fields.pop("format", FORMAT)
    if version != FORMAT or isinstance(version, bool):
        raise SpecFileError(f"format = {shown(version)}, but this densespec reads format {FORMAT}")
    return DenseNetSpec.from_dict(fields)


def read_spec(path: str | os.PathLike[str]) -> DenseNetSpec:
    """The spec in a ``.toml`` or ``.json`` file.

    Raises:
        SpecFileError: the file is absent, of another kind, or not a spec; names the file.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise SpecFileError(f"{path}: a spec file ends in {' or '.join(SUFFIXES)}")
    parse = spec_from_toml if path.suffix == ".toml" else spec_from_json
    try:
        return parse(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SpecFileError(f"{path}: {error.strerror or error}") from error
    except (UnicodeDecodeError, SpecError, UnknownName, SpecFileError) as error:
        raise SpecFileError(f"{path}: {error}") from error


def write_spec(spec: DenseNetSpec, path: str | os.PathLike[str]) -> None:
    """Write a spec to a ``.toml`` or ``.json`` file, whole or not at all.

    Raises:
        SpecFileError: another suffix.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise SpecFileError(f"{path}: a spec file ends in {' or '.join(SUFFIXES)}")
    text = spec_to_toml(spec) if path.suffix == ".toml" else spec_to_json(spec)
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of spec files; ``docs/spec.schema.json`` is a copy.

    It states constraints on one field each; those across fields (S22, S23) are checked on loading.
    """
    properties: dict[str, Any] = {"$schema": {"type": "string"}, "format": {"const": FORMAT}}
    required = []
    for field in dataclasses.fields(DenseNetSpec):
        kind, meaning = field.metadata["kind"], field.metadata["meaning"]
        entry = kind.schema() | {"description": f"{field.metadata['constraint']}: {meaning}"}
        if field.default is dataclasses.MISSING:
            required.append(field.name)
        else:
            entry["default"] = field.default
        properties[field.name] = entry
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": SCHEMA_ID,
        "title": "DenseNetSpec",
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }
