"""Writing a ``.keras`` archive: it holds a whole model, so Keras has to build and save it."""

from __future__ import annotations

import importlib.util
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from densespec.errors import PackageMissing
from densespec.network.arrays import Arrays

if TYPE_CHECKING:
    from densespec.weights.convert import Found

ENGINES = ("torch", "jax", "tensorflow")


def write_keras_archive(target: Path, found: Found, arrays: Arrays) -> None:
    """Build the network with Keras, on whichever engine there is, and save it.

    Raises:
        PackageMissing: no engine is installed.
    """
    from densespec.building import build

    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    model = build(
        found.spec,
        backend=_engine(),
        include_top=found.has_classifier,
        weights=arrays,
        name=found.variant,
    )
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as folder:
        written = Path(folder) / target.name
        model.save(written)
        written.replace(target)


def _engine() -> str:
    chosen = os.environ.get("KERAS_BACKEND")
    if chosen in ENGINES:
        return chosen
    for engine in ENGINES:
        if importlib.util.find_spec(engine) is not None:
            return engine
    raise PackageMissing("writing a .keras file", "keras", "torch")
