"""Reads texts that people or programs wrote: regular files of UTF-8, and JSON within limits.

A few megabytes of JSON can make gigabytes of objects.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

LONGEST = 16 * 2**20
"""A text may have at most this many bytes."""

MOST_PARTS = 1_000_000
"""JSON may have at most this many lists, objects and entries, those inside texts included."""


class JsonError(ValueError):
    """A text is no JSON, or has more than any honest file has; the message says which."""


def read_text(path: str | os.PathLike[str]) -> str:
    """Read a text file whole.

    Raises:
        OSError: It can't be read, is no regular file, or is far too long; a pipe or a device would
            be waited for, or never end.
        UnicodeDecodeError: It is not UTF-8.
    """
    path = Path(path)
    check_regular(path)
    with path.open("rb") as file:
        content = file.read(LONGEST + 1)
    if len(content) > LONGEST:
        raise OSError(errno.EFBIG, f"more than {LONGEST} bytes, so no text of ours", str(path))
    return content.decode()


def check_regular(path: str | os.PathLike[str]) -> None:
    """Check that a path leads to a regular file, or is a link to one.

    Raises:
        OSError: It is a folder, a pipe, a device or a socket, or there is nothing.
    """
    mode = Path(path).stat().st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "a pipe, a device or a socket, and no file", str(path))


def parsed_json(
    text: bytes | str,
    what: str,
    pairs_hook: Callable[[list[tuple[str, Any]]], Any] | None = None,
) -> Any:
    """Read the value of a JSON text.

    Args:
        what: What the text is, as the subject of a sentence.
        pairs_hook: What makes a value of the names and values of an object; a dict otherwise.

    Raises:
        JsonError: It is no JSON in UTF-8, longer or deeper than any honest file has it, or of more
            parts.
    """
    if len(text) > LONGEST:
        raise JsonError(f"{what} has {len(text)} bytes, but should have at most {LONGEST}")
    try:
        text = text.decode() if isinstance(text, bytes) else text
        parts = sum(text.count(mark) for mark in ",[{")
        if parts > MOST_PARTS:
            raise JsonError(f"{what} has {parts} parts, but should have at most {MOST_PARTS}")
        return json.loads(text, object_pairs_hook=pairs_hook)
    except RecursionError as error:
        raise JsonError(f"{what} is nested deeper than JSON is read") from error
    except JsonError:
        raise
    except ValueError as error:  # of JSON, of UTF-8, or of a number of too many digits
        raise JsonError(f"{what} is no JSON: {error}") from error
