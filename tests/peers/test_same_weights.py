"""The figures of the page about what the same weights compute elsewhere."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from densespec_conformance.adapters.constructing import import_module

pytest.importorskip("torch")
EXAMPLE = Path(__file__).parents[2] / "examples" / "same_weights.py"


def test_keras_hub_computes_another_network_and_one_field_explains_it(tmp_path: Path) -> None:
    if importlib.util.find_spec("keras_hub") is None:
        pytest.skip("keras-hub is not installed")
    if "keras" not in sys.modules:
        os.environ["KERAS_BACKEND"] = "torch"
    import keras

    if keras.backend.backend() != "torch":
        pytest.skip(f"Keras runs on {keras.backend.backend()} already")
    import_module("timm")
    example = _example()
    x = np.random.default_rng(0).standard_normal((1, 3, 224, 224), np.float32)
    expected = example.torchvision_saved_by_timm(tmp_path, x)
    found = dict(example.others(tmp_path, x))
    assert example.apart(found["timm"], expected) < 1e-6
    assert example.apart(found["densespec, Keras"], expected) < 2e-6
    assert 0.05 < example.apart(found["keras-hub"], expected) < 0.2
    for name in ("... with padding = 'same'", "... with both"):
        assert example.apart(found[name], found["keras-hub"]) < 2e-6


def _example() -> Any:
    spec = importlib.util.spec_from_file_location("same_weights", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
