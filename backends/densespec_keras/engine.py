"""Choosing Keras's engine: once a process, and never behind the user's back."""

from __future__ import annotations

import os
import sys
from typing import Any

from densespec.errors import EngineConflict
from densespec.installed import require


def keras_on(engine: str) -> Any:
    """The ``keras`` module, running on ``engine``.

    Raises:
        PackageMissing: Keras or the engine is not installed.
        EngineConflict: Keras already runs on another engine in this process.
    """
    for package in ("keras", engine):
        require(f"backend {engine!r}", package, extra=engine)
    if "keras" not in sys.modules:
        os.environ["KERAS_BACKEND"] = engine
    import keras

    running = keras.config.backend()
    if running != engine:
        raise EngineConflict(
            f"Keras already runs on {running!r} in this process and cannot change its engine: "
            f"build with backend={running!r}, or start a new process with KERAS_BACKEND={engine} "
            "(or build before anything imports keras)"
        )
    return keras
