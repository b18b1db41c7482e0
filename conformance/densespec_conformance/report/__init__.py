"""Readers see results on the terminal, as JSON or as a page; all are made of one record."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from densespec.atomic import atomic_path
from densespec_conformance.report.html import page
from densespec_conformance.report.record import Json


def _json(record: Json) -> str:
    return json.dumps(record, indent=1) + "\n"


WRITERS: Mapping[str, Callable[[Json], str]] = {"json": _json, "html": page}
"""Gives the function that writes a record as text, by format."""


def write_reports(record: Json, paths: Mapping[str, Path]) -> None:
    """Write a run in some formats, each file whole or not at all.

    Args:
        paths: Where to write, by format, which is one of ``WRITERS``.
    """
    for kind, path in paths.items():
        with atomic_path(path) as temporary:
            temporary.write_text(WRITERS[kind](record), encoding="utf-8")
