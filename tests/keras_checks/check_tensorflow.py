"""What is particular to the TensorFlow engine, on machines without a GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import densespec
from densespec_keras import SGD


def permutations(model: Any) -> list[str]:
    return [layer.name for layer in model.layers if isinstance(layer, keras.layers.Permute)]


def test_channels_first_is_permuted_once_at_either_end(build: Any) -> None:
    model = build("preactivation", data_format="channels_first")
    assert permutations(model) == ["to_channels_last"]
    model = build("preactivation", data_format="channels_first", include_top=False)
    assert permutations(model) == ["to_channels_last", "to_channels_first"]
    assert permutations(build("preactivation", data_format="channels_last")) == []


def test_a_channels_first_model_trains(build: Any, images: Any) -> None:
    model = build("cifar", data_format="channels_first")
    model.compile(SGD(0.01), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    options = {"batch_size": 8, "epochs": 5, "shuffle": False, "verbose": 0}
    history = model.fit(images(8, 8, 8), np.arange(8) % 4, **options)
    assert history.history["loss"][-1] < history.history["loss"][0]


def test_one_value_per_channel_shows_as_nan_where_only_the_run_knows_the_batch(build: Any) -> None:
    model = build("preactivation", spec={"stem_pool": None, "blocks": (1, 1)})
    model.compile(SGD(0.01), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(np.ones((3, 4, 4, 3)), np.arange(3), batch_size=2, epochs=1, verbose=0)
    variance = keras.ops.convert_to_numpy(model.get_layer("block2_layer1_norm1").moving_variance)
    assert np.isnan(variance).all()


def test_a_saved_model_serves_under_the_name_that_servers_ask_for(
    build: Any, tmp_path: Path
) -> None:
    model = build("same")
    densespec.export(model, tmp_path / "net")
    served = tf.saved_model.load(tmp_path / "net").signatures["serving_default"]
    x = np.random.default_rng(0).standard_normal((2, 33, 40, 3)).astype(np.float32)
    (y,) = served(input=tf.constant(x)).values()
    np.testing.assert_allclose(y, model.predict(x, verbose=0), rtol=0, atol=1e-5)
