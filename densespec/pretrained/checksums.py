"""Checks published files by their digests, whole or by their first digits."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from densespec.errors import WeightsError, shown

ALGORITHMS = ("sha256", "sha1", "md5")
SHORTEST = 8
"""A digest has at least this many hexadecimal digits."""


@dataclass(frozen=True)
class PublishedDigest:
    """Holds a digest as it is published.

    Attributes:
        algorithm: How it is computed, such as ``"sha256"``.
        digits: All of its hexadecimal digits, or only the first ones.
    """

    algorithm: str
    digits: str

    @classmethod
    def parse(cls, text: str) -> PublishedDigest:
        """Read ``"sha256:a639ec97"``.

        Raises:
            WeightsError: The text is no digest.
        """
        algorithm, _, digits = text.partition(":")
        hexadecimal = digits and not set(digits) - set("0123456789abcdef")
        if algorithm not in ALGORITHMS or not hexadecimal or len(digits) < SHORTEST:
            raise WeightsError(
                f"digest = {shown(text)}, but should be one of {', '.join(ALGORITHMS)}, a colon "
                f"and at least {SHORTEST} hexadecimal digits"
            )
        return cls(algorithm, digits)

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.digits}"

    def fits(self, path: Path) -> bool:
        """Say whether a file has this digest."""
        return file_digest(path, self.algorithm).startswith(self.digits)


def file_digest(path: Path, algorithm: str = "sha256") -> str:
    """Compute the digest of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()
