"""Draws random numbers that any implementation can draw again, by Philox4x64-10.

A stream is named by a seed, a text and a position, such as an epoch or a step. Its numbers are the
raw 64-bit outputs of Philox4x64-10 (Salmon et al. 2011) with

    key      (seed, crc32(text))
    counter  (n, 0, position, 0)    lowest word first, for block n = 1, 2, 3, ...

Every block gives four numbers, in order. In numpy that is
``Philox(key=[seed, crc32], counter=[0, 0, position, 0]).random_raw(count)``; numpy counts up before
it draws. No distribution of ``numpy.random.Generator`` is used: numpy may change those.
"""

from __future__ import annotations

import functools
import math
import zlib

import numpy as np

from densespec.errors import DensespecError, shown

BLOCK = 4
"""Philox gives this many numbers at once."""

SEEDS = 2**64
"""Every seed is below this number."""


class SeedError(DensespecError, ValueError):
    """A seed is not an integer that fits into 64 bits."""


def check_seed(seed: int) -> int:
    """Return the seed as a plain integer.

    Raises:
        SeedError: It is no integer, negative or too large.
    """
    whole = isinstance(seed, int | np.integer) and not isinstance(seed, bool)
    if not whole or not 0 <= int(seed) < SEEDS:
        raise SeedError(f"seed = {shown(seed)}, but should be an integer from 0 to below 2**64")
    return int(seed)


def raw(seed: int, text: str, position: int, count: int, *, block: int = 0) -> np.ndarray:
    """Return the first numbers of a stream, as uint64 of shape (count,).

    Args:
        block: How many blocks of four to leave out first.
    """
    key = np.array([check_seed(seed), zlib.crc32(text.encode())], np.uint64)
    counter = np.array([block, 0, position, 0], np.uint64)
    return np.random.Philox(key=key, counter=counter).random_raw(count)


@functools.lru_cache(maxsize=4)
def permutation(seed: int, text: str, position: int, count: int) -> np.ndarray:
    """Return the numbers from 0 in the order of a stream's first ``count`` numbers; read-only.

    Equal numbers, should there ever be any, keep their order.
    """
    order = np.argsort(raw(seed, text, position, count), kind="stable")
    order.flags.writeable = False
    return order


MIXED_GROUPS = 4
"""At least this many groups are mixed with each other in an order by groups."""
MIXED = 1024
"""On average, at least this many members are mixed with each other."""


def mixed_at_once(groups: np.ndarray) -> int:
    """Say how many groups are mixed with each other in an order by groups.

    Args:
        groups: The group of each member, (count,).
    """
    each = len(groups) / len(np.unique(groups))
    return max(MIXED_GROUPS, math.ceil(MIXED / each))


def by_groups(seed: int, text: str, position: int, groups: np.ndarray) -> np.ndarray:
    """Return an order that goes through few groups at a time, such as the shards of a set.

    The groups, in the order of the permutation of the stream ``text + " of groups"``, are taken
    so many at a time as :func:`mixed_at_once` says. What is in these is ordered by the numbers of
    the stream ``text``, of which every member has the one in its own place. Equal numbers keep
    their order.

    Args:
        groups: The group of each member, (count,), whole numbers from 0.
    """
    turn = np.empty(int(groups.max()) + 1, np.int64)
    turn[permutation(seed, f"{text} of groups", position, len(turn))] = np.arange(
        len(turn)
    ) // mixed_at_once(groups)
    return np.lexsort((raw(seed, text, position, len(groups)), turn[groups]))


def unit(numbers: np.ndarray) -> np.ndarray:
    """Turn raw numbers into float64 in [0, 1): their upper 53 bits, times 2**-53."""
    return (numbers >> np.uint64(11)) * 2.0**-53
