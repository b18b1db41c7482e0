"""JSON in weight files, within limits: a few megabytes of it can make gigabytes of objects."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from densespec.weights.containers.base import Damaged

LONGEST = 16 * 2**20
MOST_PARTS = 1_000_000
"""The most lists, objects and entries; those that texts seem to have are counted too."""


def parsed(
    text: bytes | str,
    what: str,
    pairs_hook: Callable[[list[tuple[str, Any]]], Any] | None = None,
) -> Any:
    """Read the value of a JSON text.

    Args:
        what: what the text is, as the subject of a sentence.
        pairs_hook: what makes a value of the names and values of an object; a dict otherwise.

    Raises:
        Damaged: it is no JSON in UTF-8, longer or deeper than any honest file has it, or of more
            parts.
    """
    if len(text) > LONGEST:
        raise Damaged(f"{what} has {len(text)} bytes, but should have at most {LONGEST}")
    try:
        text = text.decode() if isinstance(text, bytes) else text
        parts = sum(text.count(mark) for mark in ",[{")
        if parts > MOST_PARTS:
            raise Damaged(f"{what} has {parts} parts, but should have at most {MOST_PARTS}")
        return json.loads(text, object_pairs_hook=pairs_hook)
    except RecursionError as error:
        raise Damaged(f"{what} is nested deeper than JSON is read") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise Damaged(f"{what} is no JSON: {error}") from error
