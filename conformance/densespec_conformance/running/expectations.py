"""Cases may be known to fail; strictly, so that what is mended is noticed.

A file lists them by target; both the target and the case may be patterns like those of file names::

    [["keras.applications:*"]]
    case = "network/float64-*"
    reason = "computes in float32 inside"
    status = "failed"      # or "error", "crashed", ...; any kind of failure if left out
    where = "stem.*"       # where it differs first; anywhere if left out
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from densespec.errors import DensespecError, shown

FAILURES = ("failed", "error", "crashed", "timeout", "out of memory")
"""These statuses can be expected."""


class ExpectationError(DensespecError, ValueError):
    """A file of expected failures can't be used; the message says where, and why."""


@dataclass(frozen=True)
class ExpectedFailure:
    """Describes a failure that is known.

    Attributes:
        case: The id of a case, or a pattern of ids.
        target: The name of a target as typed, or a pattern of names.
        status: The only kind of failure that is meant; empty for any.
        where: A pattern of the first difference that is meant; empty for any.
    """

    case: str
    reason: str
    target: str = "*"
    status: str = ""
    where: str = ""

    def concerns(self, target: str, case: str) -> bool:
        """Say whether it is about this case on this target."""
        return _matches(target, self.target) and _matches(case, self.case)

    def covers(self, status: str, where: str) -> bool:
        """Say whether a failure of this kind, at this place, is the one that is meant."""
        return (
            status in FAILURES
            and self.status in ("", status)
            and (not self.where or fnmatchcase(where, self.where))
        )


def _matches(name: str, pattern: str) -> bool:
    """Match a name, which is a pattern of itself first: names hold brackets of their own."""
    return name == pattern or fnmatchcase(name, pattern)


KEYS = tuple(field.name for field in fields(ExpectedFailure) if field.name != "target")


def read_expectations(path: Path) -> tuple[ExpectedFailure, ...]:
    """Read the expected failures in a file.

    Raises:
        ExpectationError: It is absent, not TOML, or says what is not understood.
    """
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ExpectationError(f"{path}: {error.strerror or error}") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ExpectationError(f"{path}: not TOML: {error}") from error
    return tuple(
        _entry(entry, target, f"{path}: {target!r}, entry {index}")
        for target, entries in tables.items()
        for index, entry in enumerate(_entries(entries, f"{path}: {target!r}"), start=1)
    )


def _entries(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise ExpectationError(
            f"{where} should be a list of tables, as made by [[{where.rpartition(': ')[2]}]]"
        )
    return value


def _entry(value: Any, target: str, where: str) -> ExpectedFailure:
    if not isinstance(value, dict):
        raise ExpectationError(f"{where}: is {shown(value)}, but should be a table")
    for key, text in value.items():
        if key not in KEYS:
            raise ExpectationError(f"{where}: unknown key {key!r}. Known: {', '.join(KEYS)}.")
        if not isinstance(text, str):
            raise ExpectationError(f"{where}: {key} = {shown(text)}, but should be a text")
    for key in ("case", "reason"):
        if not value.get(key):
            raise ExpectationError(f"{where}: has no {key}")
    if value.get("status", "failed") not in FAILURES:
        known = ", ".join(FAILURES)
        raise ExpectationError(f"{where}: status = {value['status']!r}, but should be of: {known}")
    return ExpectedFailure(target=target, **value)


def expected_for(
    failures: Iterable[ExpectedFailure], target: str, case: str
) -> ExpectedFailure | None:
    """Find the first entry about a case on a target."""
    return next((one for one in failures if one.concerns(target, case)), None)


def unmatched(
    failures: Iterable[ExpectedFailure], cases_of: Mapping[str, Sequence[str]]
) -> tuple[str, ...]:
    """Return a warning for each entry about one of the targets that no case of theirs matches.

    Args:
        cases_of: The ids of all cases of a target, whichever of them run, by target.
    """
    found = []
    for one in failures:
        targets = [name for name in cases_of if _matches(name, one.target)]
        ids = [case for name in targets for case in cases_of[name]]
        if targets and not any(_matches(case, one.case) for case in ids):
            found.append(
                f"expected failure {one.case!r} of {', '.join(targets)} matches no case; "
                "--list shows their ids"
            )
    return tuple(found)
