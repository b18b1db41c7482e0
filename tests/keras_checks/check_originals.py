"""Files of the Keras original of ``densenet169-bc``, read and written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from densespec import build, get
from densespec.weights.comparing import largest_difference
from densespec.weights.convert import convert
from densespec.weights.opening import open_weights
from tests.original_keras import DenseNet, functional
from tests.test_convert import checkpoint

OPTIONS: dict[str, Any] = {"blocks": (2, 1, 1), "growth_rate": 4, "stem_width": 8, "classes": 5}
SPEC = get("densenet169-bc-keras").replace(**OPTIONS)
X = np.random.default_rng(3).standard_normal((2, 3, 64, 64)).astype("float32")

every_form = pytest.mark.parametrize(
    ("layout", "file"),
    [
        ("original-keras", "net.weights.h5"),
        ("original-keras", "net.h5"),
        ("original-keras-functional", "net.weights.h5"),
    ],
)


def _model(layout: str) -> keras.Model:
    model = functional(64, **OPTIONS) if "functional" in layout else DenseNet(**OPTIONS)
    model(X.transpose(0, 2, 3, 1))
    return model


def _assert_same(model: keras.Model, weights: Path) -> None:
    expected = build(SPEC, backend="numpy", weights=weights)(X.astype("float64"))
    actual = keras.ops.convert_to_numpy(model(X.transpose(0, 2, 3, 1), training=False))
    assert largest_difference(actual, expected) < 1e-5  # float32's, over a dozen convolutions


@every_form
def test_the_original_loads_what_is_written_for_it(layout: str, file: str, tmp_path: Path) -> None:
    source = checkpoint(tmp_path / "source.safetensors", SPEC)
    convert(source, tmp_path / file, to_layout=layout)
    model = _model(layout)
    model.load_weights(tmp_path / file)
    _assert_same(model, source)


@pytest.mark.parametrize("layout", ["original-keras", "original-keras-functional"])
def test_what_the_original_saves_is_read(layout: str, tmp_path: Path) -> None:
    model, random = _model(layout), np.random.default_rng(4)
    model.set_weights([random.uniform(0.1, 1, array.shape) for array in model.get_weights()])
    path = tmp_path / "net.weights.h5"
    model.save_weights(path)
    with open_weights(path) as found:
        assert (found.layout.name, found.spec) == (layout, SPEC)
    _assert_same(model, path)
