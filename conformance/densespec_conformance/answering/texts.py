"""Makes a target's texts, such as its errors, fit to be shown: a page of each at most."""

from __future__ import annotations

from pathlib import Path

LONGEST = 4000
"""At most this many characters of a text are shown: the first half of them and the last."""

WRITTEN = 64 * 1024
"""At most this many bytes at the end of an output are read."""


def shown_text(text: object) -> str:
    """Cut a text to a page, and escape its control characters: terminals would obey them."""
    whole = str(text)
    half = LONGEST // 2
    if len(whole) > LONGEST:
        left_out = len(whole) - 2 * half
        whole = f"{whole[:half]}\n... {left_out} characters are left out ...\n{whole[-half:]}"
    return "".join(map(_escaped, whole))


def last_lines(path: Path, count: int) -> list[str]:
    """Read the last lines of an output, fit to be shown.

    Raises:
        OSError: it can't be read.
    """
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, 2) - WRITTEN))
        lines = file.read(WRITTEN).decode(errors="replace").splitlines()
    return shown_text("\n".join(lines[-count:])).splitlines()


def _escaped(character: str) -> str:
    if character.isprintable() or character in "\n\t":
        return character
    return character.encode("unicode_escape").decode()
