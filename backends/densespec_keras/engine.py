"""Chooses Keras's engine once in a process, and sets what it has to know before it starts."""

from __future__ import annotations

import os
import sys
from typing import Any

from densespec.errors import EngineConflict
from densespec.installed import require

WARNINGS_TOO = "2"
"""With this value TensorFlow leaves warnings out of its log, but not errors."""


def widen(engine: str) -> None:
    """Have an engine that has not started yet compute float64 where it is asked for float64."""
    if engine == "jax" and "jax" not in sys.modules:
        os.environ.setdefault("JAX_ENABLE_X64", "1")


def keras_on(engine: str) -> Any:
    """Import the ``keras`` module, running on ``engine``.

    Raises:
        PackageMissing: Keras or the engine is not installed.
        EngineConflict: Keras already runs on another engine in this process.
    """
    for package in ("keras", engine):
        require(f"backend {engine!r}", package, extra=engine)
    if "keras" not in sys.modules:
        os.environ["KERAS_BACKEND"] = engine
    _quieten_tensorflow()  # any engine's Keras may import it
    import keras

    running = keras.config.backend()
    if running != engine:
        raise EngineConflict(
            f"Keras already runs on {running!r} in this process and cannot change its engine: "
            f"build with backend={running!r}, or start a new process with KERAS_BACKEND={engine} "
            "(or build before anything imports keras)"
        )
    return keras


def import_tensorflow(what_for: str) -> Any:
    """Import the ``tensorflow`` module, for a purpose that needs no Keras.

    Raises:
        PackageMissing: It is not installed.
    """
    require(what_for, "tensorflow", extra="tensorflow")
    _quieten_tensorflow()
    import tensorflow

    return tensorflow


def _quieten_tensorflow() -> None:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", WARNINGS_TOO)
