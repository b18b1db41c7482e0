"""Backends that are wrong on purpose, as data: each names the case that must catch it, where, and
what must be said of it.

``meta_tests.mutants:NAME`` is the backend of a mutant. PyTorch is imported for those written in it.
"""

from __future__ import annotations

import os
import time
from typing import Any

from densespec.reference.backend import NumpyBackend
from densespec.reference.model import ReferenceModel
from meta_tests.mutants.mutant import Mutant as Mutant
from meta_tests.mutants.numpy_mutants import MUTANTS as NUMPY_MUTANTS
from meta_tests.mutants.torch_mutants import MUTANTS as TORCH_MUTANTS

MUTANTS = NUMPY_MUTANTS | TORCH_MUTANTS


class _Crashes(NumpyBackend):
    def build(self, *args: Any, **options: Any) -> ReferenceModel:
        os._exit(41)


class _Hangs(NumpyBackend):
    def build(self, *args: Any, **options: Any) -> ReferenceModel:
        time.sleep(3600)
        raise AssertionError


class _Raises(NumpyBackend):
    def build(self, *args: Any, **options: Any) -> ReferenceModel:
        raise RuntimeError("no kernel image is available")


CRASHES, HANGS, RAISES = _Crashes(), _Hangs(), _Raises()


def __getattr__(name: str) -> Any:
    if name in MUTANTS:
        return MUTANTS[name].backend()
    raise AttributeError(name)
