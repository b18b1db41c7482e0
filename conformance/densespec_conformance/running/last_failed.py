"""Which cases failed last, kept in the folder the suite is run in, as pytest keeps its own."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable
from pathlib import Path

from densespec.atomic import atomic_path

FOLDER = Path(".densespec_conformance")
FILE = FOLDER / "last_failed.json"
FORMAT = 1

MARKS = {
    ".gitignore": "# Made by densespec_conformance.\n*\n",
    "CACHEDIR.TAG": "Signature: 8a477f597d28d172789f06886806bc55\n"
    "# This folder is a cache of densespec_conformance; it can be deleted.\n",
}
"""What keeps the folder out of repositories and backups."""


def read_last_failed(root: Path) -> dict[str, set[str]]:
    """Ids of the cases that failed last, by target; empty where nothing usable is kept."""
    try:
        record = json.loads((root / FILE).read_text(encoding="utf-8"))
        if record["format"] != FORMAT:
            return {}
        return {str(target): set(map(str, ids)) for target, ids in record["failed"].items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return {}


def write_last_failed(root: Path, ran: Iterable[tuple[str, str, bool]]) -> None:
    """Bring up to date what is kept: cases that did not run keep what was known of them.

    Args:
        ran: target, id and whether it is as it should be, of each case that ran.

    Raises:
        OSError: the folder can't be written to.
    """
    failed = read_last_failed(root)
    for target, case, ok in ran:
        ids = failed.setdefault(target, set())
        (ids.discard if ok else ids.add)(case)
    (root / FOLDER).mkdir(exist_ok=True)
    for name, text in MARKS.items():
        with contextlib.suppress(FileExistsError), (root / FOLDER / name).open("x") as file:
            file.write(text)
    kept = {target: sorted(ids) for target, ids in sorted(failed.items()) if ids}
    with atomic_path(root / FILE) as temporary:
        record = {"format": FORMAT, "failed": kept}
        temporary.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
