"""How reading a file can end, and which of these endings are promised never to happen."""

from __future__ import annotations

from dataclasses import dataclass

AS_IT_WAS = "read, every value as it was"
RENAMED = "read, under another name"
OTHERWISE = "read, with other values"
REFUSED = "refused in one line that names the file"
UNCLEAR = "refused unclearly"
RAISED = "an exception that is not densespec's own"
DIED = "the process died"
SLOW = "took more than its seconds"
LARGE = "took more than its memory"
ACTED = "did something besides reading"

ENDINGS = (AS_IT_WAS, RENAMED, OTHERWISE, REFUSED, UNCLEAR, RAISED, DIED, SLOW, LARGE, ACTED)
BAD = frozenset({UNCLEAR, RAISED, DIED, SLOW, LARGE, ACTED})

CHECKED = ("torch-zip", "npz", "keras", "a checkpoint")
"""Kinds of file whose bytes are protected by checksums: other values are bad there as well."""


@dataclass(frozen=True)
class Ending:
    """What came of one file.

    Attributes:
        name: one of ``ENDINGS``.
        said: the message, or what is known of the end.
    """

    name: str
    said: str = ""

    def is_bad(self, kind: str) -> bool:
        """Whether this may not happen to a file of a kind."""
        return self.name in BAD or (self.name == OTHERWISE and kind.startswith(CHECKED))
