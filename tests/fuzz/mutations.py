"""Damage as disks, transfers and editors do it: a copy of a file with one kind of harm."""

from __future__ import annotations

import random
import struct

EXTREMES = (0, 1, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63, 2**64 - 1)
BLOCK = 512


def damaged(content: bytes, choose: random.Random) -> bytes:
    """A copy of a file's bytes with one kind of damage, drawn by ``choose``."""
    copy = bytearray(content)
    at = choose.randrange(len(copy))
    match choose.randrange(10):
        case 0:
            del copy[at:]
        case 1:
            del copy[at : at + choose.randrange(1, 40)]
        case 2:
            copy[at:at] = choose.randbytes(choose.randrange(1, 40))
        case 3:
            copy[at:at] = copy[at : at + choose.randrange(1, 40)]
        case 4:
            _write_extreme(copy, at, choose)
        case 5:
            other = choose.randrange(len(copy))
            copy[at : at + 8], copy[other : other + 8] = copy[other : other + 8], copy[at : at + 8]
        case 6:
            start = at - at % BLOCK
            copy[start : start + BLOCK] = bytes(len(copy[start : start + BLOCK]))
        case 7:
            copy[at:] = content[: len(copy) - at]
        case _:
            for _ in range(choose.choice([1, 1, 1, 2, 5])):
                copy[choose.randrange(len(copy))] ^= 1 << choose.randrange(8)
    return bytes(copy)


def _write_extreme(copy: bytearray, at: int, choose: random.Random) -> None:
    """Overwrite a place by a number at which size fields break."""
    form = choose.choice("BHIQ")
    number = choose.choice(EXTREMES) % 256 ** struct.calcsize(form)
    field = struct.pack(choose.choice("<>") + form, number)
    copy[at : at + len(field)] = field
