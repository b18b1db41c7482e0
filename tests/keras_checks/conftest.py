"""Checks that run in a process of their own on one of Keras's engines, ``DENSESPEC_ENGINE``.

``tests/test_keras_backend.py`` runs them; pytest does not collect them by itself.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import densespec
from densespec import DenseNetSpec

ENGINE = os.environ["DENSESPEC_ENGINE"]

assert "keras" not in sys.modules
if "KERAS_BACKEND" not in os.environ:
    densespec.build(DenseNetSpec(blocks=(1,), growth_rate=2), backend=ENGINE)

import keras  # noqa: E402  (the first build has put it on the engine)

PREACTIVATION = DenseNetSpec(
    blocks=(2, 1),
    growth_rate=4,
    bottleneck_width=2,
    compression=0.5,
    classes=5,
    stem_kind="norm-relu-conv",
    stem_width="2k",
    stem_kernel=5,
    stem_stride=2,
    stem_pool=3,
    conv_bias=True,
    final_norm=False,
)
NETWORKS = {
    "preactivation": PREACTIVATION,
    "same": PREACTIVATION.replace(
        stem_kind="conv-norm-relu", padding="same", running_variance="biased", conv_bias=False
    ),
    "cifar": DenseNetSpec(blocks=(2, 1), growth_rate=3, classes=4),
}


@pytest.fixture(autouse=True)
def fresh_keras() -> Iterator[None]:
    """Global settings of Keras as they were, whatever a check does to them."""
    before = keras.config.image_data_format(), keras.config.dtype_policy(), keras.config.floatx()
    yield
    keras.config.set_image_data_format(before[0])
    keras.config.set_dtype_policy(before[1])
    keras.config.set_floatx(before[2])


@pytest.fixture(scope="session")
def engine() -> str:
    return ENGINE


@pytest.fixture(scope="session")
def build() -> Any:
    """``build(network, **options)``: one of the networks on the engine, with every array random.

    ``spec`` replaces fields of its spec.
    """

    def built(network: str, /, spec: dict[str, Any] | None = None, **options: Any) -> Any:
        changed = NETWORKS[network].replace(**(spec or {}))
        model = densespec.build(changed, backend=ENGINE, **options)
        densespec.load_weights(model, randomised(densespec.read_weights(model)))
        return model

    return built


def randomised(weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    random = np.random.default_rng(5)
    moved = {}
    for name, array in weights.items():
        noise = random.standard_normal(array.shape).astype(array.dtype) / 4
        moved[name] = array * np.exp(noise) if name.endswith("variance") else array + noise
    return moved


@pytest.fixture(scope="session")
def images() -> Any:
    """``images(count, height, width)``: channels-first float32 images."""

    def drawn(count: int = 2, height: int = 24, width: int = 32) -> np.ndarray:
        random = np.random.default_rng(6)
        return random.standard_normal((count, 3, height, width)).astype("float32")

    return drawn


@pytest.fixture(scope="session")
def reference() -> Any:
    """``reference(model)``: the numpy reference of a built model, with the same weights."""

    def like(model: Any) -> Any:
        from densespec.reference.model import ReferenceModel

        return ReferenceModel(model.densespec.graph, densespec.read_weights(model))

    return like


@pytest.fixture(scope="session")
def run() -> Any:
    """``run(model, x)``: the output, in inference mode, as numpy."""

    def call(model: Any, x: np.ndarray) -> np.ndarray:
        y = model(x, training=False)
        if keras.backend.standardize_dtype(y.dtype) in ("bfloat16", "float16"):
            y = keras.ops.cast(y, "float32")
        return np.array(keras.ops.convert_to_numpy(y))

    return call
