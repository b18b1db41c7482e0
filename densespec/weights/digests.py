"""Computes digests of arrays and texts, which are kept beside them, to detect damaged files.

They detect damage, but not forgery: whoever can change the arrays can change the digests. Files of
other programs have none; arrays there may hold signalling NaNs, which tell damage as well: the NaNs
that computations give are quiet ones.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from densespec.errors import WeightsError, bare, listed
from densespec.texts import JsonError, parsed_json
from densespec.weights.tensors import Tensor, Tensors

KEY = "digests"
"""The metadata has the digests under this key, as JSON."""

VERSION = "densespec"
"""Only this package's files have this key: other programs may also use ``digests``."""

STATED = f'"metadata {VERSION}":'
"""Digests have this text in them, under whatever name damage has put them."""

SIZE = 16
"""A digest has this many bytes."""


def stated_digests(arrays: Mapping[str, np.ndarray], texts: Mapping[str, str]) -> str:
    """Return the digest of every array and every text, as the file's metadata state them."""
    return json.dumps(_digests(arrays, texts), separators=(",", ":"))


def checked(path: Path, tensors: Tensors, texts: Mapping[str, str]) -> Tensors:
    """Return the tensors of a file. Each of them is checked when it is read.

    Args:
        path: The file's, for messages.
        texts: The file's metadata; where they hold no digests, arrays are looked through for values
            that only damage gives.

    Raises:
        WeightsError: Names or texts differ from those with digests; the message names the first
            ones. So does reading an array that is not what it was.
    """
    if not {KEY, VERSION} <= texts.keys():
        if any(STATED in text for text in texts.values()):
            raise _damaged(path, [f"the names {KEY} and {VERSION} in its metadata"])
        return {
            name: _checked(tensor, partial(_look_through, path, name))
            for name, tensor in tensors.items()
        }
    expected = _stated(texts[KEY])
    found = _of_texts(texts)
    kept = {name: digest for name, digest in expected.items() if name not in tensors}
    differing = [name for name in {**kept, **found} if kept.get(name) != found.get(name)]
    differing += [name for name in tensors if name not in expected]
    if differing:
        raise _damaged(path, differing)
    return {
        name: _checked(tensor, partial(_compare, path, name, expected[name]))
        for name, tensor in tensors.items()
    }


def _stated(text: str) -> dict[str, Any]:
    try:
        expected = parsed_json(text, f"the text of its {KEY}")
    except JsonError as error:
        raise WeightsError(str(error)) from error
    if not isinstance(expected, dict):
        raise WeightsError(f"its {KEY} should be a table of names")
    return expected


def _checked(tensor: Tensor, check: Callable[[np.ndarray], None]) -> Tensor:
    """Check a tensor when it is read."""

    def read() -> np.ndarray:
        array = tensor.read()
        check(array)
        return array

    return Tensor(tensor.shape, tensor.dtype, read)


def _compare(path: Path, name: str, expected: Any, array: np.ndarray) -> None:
    if _of_array(array) != expected:
        raise _damaged(path, [name])


def _look_through(path: Path, name: str, array: np.ndarray) -> None:
    if _has_signalling(array):
        raise WeightsError(
            f"{path}: {bare(name)} holds NaNs that no computation gives (signalling ones): the "
            "file is damaged; get it anew"
        )


def _has_signalling(array: np.ndarray) -> bool:
    """Say whether an array has a NaN whose first bit after the exponent is not set."""
    if array.dtype.kind in "biu":
        return False
    with np.errstate(invalid="ignore"):
        nans = array[np.isnan(array)]
    native = nans.dtype.newbyteorder("=")
    kept = native in (np.float16, np.float32, np.float64)  # and not of ml_dtypes
    nans = nans.astype(native if kept else np.float32, copy=False)
    quiet = 1 << (np.finfo(nans.dtype).nmant - 1)
    return not (nans.view(f"u{nans.itemsize}") & quiet).all()


def _damaged(path: Path, names: Sequence[str]) -> WeightsError:
    which = listed([bare(name) for name in names])
    return WeightsError(
        f"{path}: {which} differ from what was written, by their digests: the file is damaged"
    )


def _digests(arrays: Mapping[str, np.ndarray], texts: Mapping[str, str]) -> dict[str, str]:
    return {name: _of_array(array) for name, array in arrays.items()} | _of_texts(texts)


def _of_texts(texts: Mapping[str, str]) -> dict[str, str]:
    return {
        f"metadata {name}": _of_bytes(text.encode(errors="surrogatepass"))
        for name, text in texts.items()
        if name != KEY
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
