"""Reading texts that people wrote: regular files of UTF-8, and no longer than such texts are."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

LONGEST = 16 * 2**20
"""How many bytes a text may have."""


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
    """Check that a path is that of a regular file, or a link to one.

    Raises:
        OSError: It is a folder, a pipe, a device or a socket, or there is nothing.
    """
    mode = Path(path).stat().st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "a pipe, a device or a socket, and no file", str(path))
