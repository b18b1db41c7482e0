"""Results for a reader: on the terminal, as JSON, as JUnit's XML, and as a page.

All but the terminal's are made of one record, which the JSON report holds as it is.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from densespec.atomic import atomic_path
from densespec_conformance.report.html import page
from densespec_conformance.report.junit import junit
from densespec_conformance.report.record import Record, Run, as_record


def _json(record: Record) -> str:
    return json.dumps(record, indent=1) + "\n"


WRITERS: Mapping[str, Callable[[Record], str]] = {"json": _json, "junit": junit, "html": page}
"""By format, the text of a record."""


def write_reports(run: Run, paths: Mapping[str, Path]) -> None:
    """Write a run in some formats, each file whole or not at all.

    Args:
        paths: by format, one of ``WRITERS``.
    """
    record = as_record(run)
    for kind, path in paths.items():
        with atomic_path(path) as temporary:
            temporary.write_text(WRITERS[kind](record), encoding="utf-8")
