"""Describes the machine that is measured: its processor, and how fast that multiplies matrices."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

SIDE = 1024
"""The matrices that are multiplied have this many rows and columns."""

PRODUCTS = 9


def processor() -> str:
    """Name the processor, as far as the system tells."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def usable_processors() -> list[int] | None:
    """List the processors that this process may use; None if the system does not tell."""
    if not hasattr(os, "sched_getaffinity"):
        return None
    return sorted(os.sched_getaffinity(0))


def gemm_speed() -> float:
    """Measure the operations a second of numpy's float32 product of matrices, in GFLOP/s."""
    a = np.random.default_rng(0).standard_normal((SIDE, SIDE)).astype(np.float32)
    return speed_of(lambda: a @ a, SIDE)


def speed_of(product: Callable[[], object], side: int) -> float:
    """Measure the operations a second of a product of two matrices of some side, in GFLOP/s."""
    product()
    taken = []
    for _ in range(PRODUCTS):
        start = time.perf_counter()
        product()
        taken.append(time.perf_counter() - start)
    return 2 * side**3 / statistics.median(taken) / 1e9
