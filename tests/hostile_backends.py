"""Backends that their process has to cope with, for ``test_target_process.py``."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Any

from densespec.reference.backend import NumpyBackend


@dataclass(frozen=True)
class Raising(NumpyBackend):
    """Raises when a model is built."""

    error: Exception

    def build(self, *args: Any, **kwargs: Any) -> Any:
        raise self.error


class Slow(NumpyBackend):
    """Takes a second for every model."""

    def build(self, *args: Any, **kwargs: Any) -> Any:
        time.sleep(1)
        return super().build(*args, **kwargs)


class Parent(NumpyBackend):
    """Starts a process that goes on for ever, says its number in the log, and hangs."""

    def build(self, *args: Any, **kwargs: Any) -> Any:
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        print(f"child {child.pid}", flush=True)
        time.sleep(600)


NOISE = "\x1b[2J\x1b]0;title\x07\r" + "x" * 10**7 + "\x1b[31mthe end\ud800"


class DyingLoudly(NumpyBackend):
    """Writes far more than anybody reads, and ends."""

    def build(self, *args: Any, **kwargs: Any) -> Any:
        print(NOISE.replace("\ud800", ""), flush=True)
        os._exit(3)


SHORT_OF_MEMORY = Raising(RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory"))
WITHOUT_FLOAT64 = Raising(ValueError("dtype = 'float64', but this chip has none"))
WRONG = Raising(ValueError("no such kernel"))
SLOW = Slow()
PARENT = Parent()
NOISY = Raising(ValueError(NOISE))
DYING_LOUDLY = DyingLoudly()
