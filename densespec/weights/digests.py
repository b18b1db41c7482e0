"""Digests of arrays and texts, kept beside them, by which a damaged file is known.

They tell damage, not forgery: whoever can change the arrays can change the digests.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping

import numpy as np

from densespec.errors import WeightsError, listed

KEY = "digests"
"""The metadata that holds them, as JSON."""

SIZE = 16
"""How many bytes a digest has."""


def stated_digests(arrays: Mapping[str, np.ndarray], texts: Mapping[str, str]) -> str:
    """Give the digest of every array and every text, as the metadata of their file states them."""
    return json.dumps(_digests(arrays, texts), separators=(",", ":"))


def check_digests(stated: str, arrays: Mapping[str, np.ndarray], texts: Mapping[str, str]) -> None:
    """Check that arrays and texts are what they were when their digests were taken.

    Args:
        stated: What :func:`stated_digests` gave.

    Raises:
        WeightsError: Some are not; names the first ones.
    """
    try:
        expected = json.loads(stated)
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"its {KEY} are not JSON: {error}") from error
    if not isinstance(expected, dict):
        raise WeightsError(f"its {KEY} should be a table of names")
    found = _digests(arrays, texts)
    names = [name for name in {**expected, **found} if expected.get(name) != found.get(name)]
    if names:
        raise WeightsError(
            f"{listed(names)} differ from what was written, by their digests: the file is damaged"
        )


def _digests(arrays: Mapping[str, np.ndarray], texts: Mapping[str, str]) -> dict[str, str]:
    return {name: _of_array(array) for name, array in arrays.items()} | {
        f"metadata {name}": _of_bytes(text.encode()) for name, text in texts.items() if name != KEY
    }


def _of_array(array: np.ndarray) -> str:
    native = array.astype(array.dtype.newbyteorder("="), copy=False)
    content = np.ascontiguousarray(native.byteswap() if sys.byteorder == "big" else native)
    kind = f"{array.dtype.name} {array.shape} "
    return _of_bytes(kind.encode(), content.reshape(-1).view(np.uint8).data)


def _of_bytes(*parts: bytes | memoryview) -> str:
    digest = hashlib.blake2b(digest_size=SIZE)
    for part in parts:
        digest.update(part)
    return digest.hexdigest()
