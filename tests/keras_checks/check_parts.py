"""Files of models with several DenseNets within them: one is chosen by its name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers
from keras.src.applications.densenet import DenseNet

from densespec.errors import WeightsError
from densespec.weights.opening import open_weights

SIZE = (32, 32, 3)
SUFFIXES = (".keras", ".h5", ".weights.h5")


def _backbone(name: str) -> Any:
    options = {"include_top": False, "pooling": "avg", "input_shape": SIZE}
    return DenseNet([1, 1, 1, 1], weights=None, name=name, **options)


@pytest.fixture(scope="module")
def backbones() -> dict[str, Any]:
    return {name: _backbone(name) for name in ("left", "right")}


def _saved(model: Any, path: Path) -> Path:
    if path.name.endswith(".weights.h5"):
        model.save_weights(path)
    else:
        model.save(path)
    return path


@pytest.fixture(params=SUFFIXES)
def twins(backbones: dict[str, Any], request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    inputs = [keras.Input(SIZE) for _ in backbones]
    features = [model(x) for model, x in zip(backbones.values(), inputs, strict=True)]
    model = keras.Model(inputs, layers.Dense(2)(layers.Concatenate()(features)))
    return _saved(model, tmp_path / f"twins{request.param}")


def _assert_is(path: Path, name: str, backbone: Any) -> None:
    with open_weights(path, prefix=name) as found:
        arrays = found.arrays()
        assert not found.has_classifier
    stem, last = (backbone.get_layer(name).get_weights() for name in ("conv1_conv", "bn"))
    kernel = np.moveaxis(stem[0], (-1, -2), (0, 1))
    np.testing.assert_array_equal(arrays["stem.conv.kernel"], kernel)
    leaves = ("gamma", "beta", "running_mean", "running_variance")
    for leaf, array in zip(leaves, last, strict=True):
        np.testing.assert_array_equal(arrays[f"final.norm.{leaf}"], array)


def check_one_of_two_networks_is_chosen_by_its_name(twins: Path, backbones: dict[str, Any]) -> None:
    for name, backbone in backbones.items():
        _assert_is(twins, name, backbone)


def check_what_is_refused_names_the_models_within(twins: Path) -> None:
    with (
        pytest.raises(WeightsError, match=r"\(--prefix left or --prefix right\)"),
        open_weights(twins),
    ):
        pass


def check_a_network_behind_a_head_that_no_spec_says_is_read_alone(tmp_path: Path) -> None:
    backbone = _backbone("body")
    model = keras.Sequential([backbone, layers.BatchNormalization(), layers.Dense(2)])
    model.build((None, *SIZE))
    for suffix in SUFFIXES:
        _assert_is(_saved(model, tmp_path / f"net{suffix}"), "body", backbone)


def check_what_the_chosen_model_states_is_kept(tmp_path: Path) -> None:
    def changed(layer: Any) -> Any:
        config = layer.get_config()
        if isinstance(layer, layers.BatchNormalization):
            config["epsilon"] = 0.25
        return type(layer).from_config(config)

    body = keras.models.clone_model(_backbone("body"), clone_function=changed)
    model = keras.Sequential([body, layers.BatchNormalization(), layers.Dense(2)])
    model.build((None, *SIZE))
    with open_weights(_saved(model, tmp_path / "net.keras"), prefix=body.name) as found:
        assert found.spec.batch_norm_epsilon == 0.25
