"""Has the C library keep the memory that is freed, for what is allocated next.

A training step allocates and frees the same memory again and again. glibc gives large pieces back
to the system at once, which clears every page before it hands it out again.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import sys

SET_BY_USERS = (
    "MALLOC_TRIM_THRESHOLD_",
    "MALLOC_MMAP_THRESHOLD_",
    "MALLOC_MMAP_MAX_",
    "GLIBC_TUNABLES",
)
"""Where one of these environment variables is set, what users want is left as it is."""

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
"""The numbers of these settings in ``malloc.h``."""


@functools.cache
def keep_freed_memory() -> None:
    """Keep it from now on, in the whole process, where its C library is glibc."""
    if sys.platform != "linux" or any(name in os.environ for name in SET_BY_USERS):
        return
    with contextlib.suppress(AttributeError):  # of other C libraries
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_TRIM_THRESHOLD, -1)
        mallopt(_MMAP_MAX, 0)
