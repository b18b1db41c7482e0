"""The modes that compute several ops at a time: files, masks, frozen parts, and turning back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import densespec
from densespec import TrainingRecipe
from densespec.backends import get_backend
from densespec.errors import Untrainable
from densespec_keras import SGD, recognise

TRAINING = ("fast", "efficient")
MODES = (*TRAINING, "inference")


def last(x: np.ndarray) -> np.ndarray:
    return np.moveaxis(x, 1, -1)


def from_logits() -> Any:
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


@pytest.mark.parametrize("network", ["preactivation", "same", "cifar"])
@pytest.mark.parametrize("mode", MODES)
def test_a_mode_takes_a_built_networks_weights_and_gives_them_back(
    mode: str, network: str, build: Any, images: Any
) -> None:
    model = build(network, input_shape=(24, 32, 3))
    turned = densespec.in_mode(model, mode)
    x = last(images())
    expected = model.predict_on_batch(x)
    np.testing.assert_allclose(turned.predict_on_batch(x), expected, rtol=1e-3, atol=1e-4)
    back = densespec.in_mode(turned, "layers")
    assert type(back) is type(model)
    np.testing.assert_array_equal(back.predict_on_batch(x), expected)
    assert [layer.name for layer in turned.layers if layer.weights] == [
        layer.name for layer in model.layers if layer.weights
    ]


@pytest.mark.parametrize(
    ("mode", "network"),
    [("fast", "preactivation"), ("efficient", "same"), ("inference", "preactivation")],
)
def test_a_file_comes_back_in_its_mode(
    mode: str, network: str, build: Any, images: Any, tmp_path: Path
) -> None:
    model = densespec.in_mode(build(network, input_shape=(24, 32, 3)), mode)
    x = last(images())
    if mode != "inference":
        model.compile(SGD(0.01), from_logits())
        model.train_on_batch(x, np.array([0, 4]))
    model.save(tmp_path / "net.keras")
    loaded = keras.saving.load_model(tmp_path / "net.keras")
    assert type(loaded) is type(model)
    np.testing.assert_array_equal(loaded.predict_on_batch(x), model.predict_on_batch(x))
    assert recognise(loaded).densespec.backend == f"{keras.config.backend()}+{mode}"
    if mode != "inference":
        losses = [net.train_on_batch(x, np.array([0, 4])) for net in (model, loaded)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-6)


@pytest.mark.parametrize("mode", MODES)
def test_a_file_converts_as_any_other(mode: str, build: Any, tmp_path: Path) -> None:
    model = densespec.in_mode(build("same", input_shape=(24, 32, 3)), mode)
    model.save(tmp_path / "net.keras")
    plain = densespec.build(weights=tmp_path / "net.keras", backend=keras.config.backend())
    weights = densespec.read_weights(plain)
    for name, array in densespec.read_weights(model).items():
        np.testing.assert_array_equal(weights[name], array, err_msg=name)


@pytest.mark.parametrize("mode", TRAINING)
def test_steps_are_the_references_with_and_without_masks(
    mode: str, engine: str, build: Any, images: Any, reference: Any
) -> None:
    model = build("cifar", spec={"dropout_rate": 0.5}, input_shape=(8, 8, 3), mode=mode)
    recipe, graph = TrainingRecipe(), model.densespec.graph
    arbiter, trainer = (
        reference(model),
        get_backend(f"{engine}+{mode}").trainer(model, graph, recipe),
    )
    random = np.random.default_rng(8)
    masks = {
        node.name: random.integers(0, 2, (4, *node.shape)).astype("float32")
        for node in graph.nodes
        if "dropout" in node.name
    }
    batch: dict[str, Any] = {"learning_rate": 0.01, "masks": masks}
    actual = trainer.step(images(4, 8, 8), np.arange(4), **batch)
    expected = arbiter.train_step(images(4, 8, 8), np.arange(4), recipe, **batch)
    assert actual.loss == pytest.approx(expected.loss, rel=1e-4)
    for name, array in densespec.read_weights(model).items():
        np.testing.assert_allclose(array, arbiter.weights[name], rtol=1e-3, atol=1e-4, err_msg=name)
    losses = {
        trainer.step(images(4, 8, 8), np.arange(4), learning_rate=0.0, gradients=False).loss
        for _ in range(3)
    }
    assert len(losses) == 3  # each drops by itself


@pytest.mark.parametrize("mode", TRAINING)
def test_what_a_user_freezes_stays_as_it_is(mode: str, build: Any, images: Any) -> None:
    model = build("preactivation", mode=mode, input_shape=(24, 32, 3))
    for layer in model.layers:
        layer.trainable = "norm" not in layer.name and not layer.name.startswith("stem")
    before = densespec.read_weights(model)
    model.compile(SGD(0.01), from_logits())
    model.train_on_batch(last(images(4)), np.array([0, 4, 2, 1]))
    after = densespec.read_weights(model)
    moved = {name for name in before if not np.array_equal(before[name], after[name])}
    assert "block1.layer1.conv1.kernel" in moved
    assert [name for name in moved if ".norm" in name or name.startswith("stem")] == []


def test_a_mode_prepared_for_inference_refuses_to_train(
    engine: str, build: Any, images: Any
) -> None:
    model = build("cifar", mode="inference")
    with pytest.raises(Untrainable, match=rf"'{engine}\+inference'"):
        get_backend(f"{engine}+inference").trainer(model, model.densespec.graph, TrainingRecipe())
    model.compile(SGD(0.01), from_logits())
    with pytest.raises(Exception, match="prepared for inference"):
        model.train_on_batch(last(images(4)), np.arange(4))


def test_new_weights_count_at_once(build: Any, images: Any) -> None:
    model, x = build("same", mode="inference", input_shape=(24, 32, 3)), last(images())
    before = model.predict_on_batch(x)
    weights = densespec.read_weights(model)
    densespec.load_weights(model, {name: 0.5 * array for name, array in weights.items()})
    halved = densespec.in_mode(model, "layers").predict_on_batch(x)
    assert np.abs(halved - before).max() > 0.01
    np.testing.assert_allclose(model.predict_on_batch(x), halved, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("network", ["preactivation", "same", "cifar"])
@pytest.mark.parametrize("mode", MODES)
def test_what_is_not_finite_stays_so(mode: str, network: str, build: Any, images: Any) -> None:
    x = last(images())
    x[1, 5, 5] = np.nan
    model = build(network, mode=mode, input_shape=x.shape[1:], classifier_activation="softmax")
    probabilities = model.predict_on_batch(x)
    assert np.isfinite(probabilities[0]).all()
    assert np.isnan(probabilities[1]).all()
    weights = densespec.read_weights(model)
    stem = weights["stem.conv.kernel"].copy()
    stem.flat[0] = np.nan
    for diverged in (
        {"stem.conv.kernel": stem},
        {name: array * np.float32(np.nan) for name, array in weights.items()},
    ):
        densespec.load_weights(model, weights | diverged)
        assert np.isnan(model.predict_on_batch(x)).all()


def test_a_value_in_between_can_be_had_as_of_any_functional_model(build: Any, images: Any) -> None:
    model, x = build("same", mode="fast", input_shape=(24, 32, 3)), last(images())
    relu = keras.Model(model.input, model.get_layer("block1_layer1_relu1").output)
    plain = densespec.in_mode(model, "layers")
    expected = keras.Model(plain.input, plain.get_layer("block1_layer1_relu1").output)
    np.testing.assert_allclose(
        relu.predict_on_batch(x), expected.predict_on_batch(x), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("mode", MODES)
def test_lower_precision_runs_layer_by_layer(mode: str, build: Any, images: Any) -> None:
    model = build("same", mode=mode, dtype="mixed_bfloat16", input_shape=(24, 32, 3))
    assert not model.is_fused()
    plain = densespec.in_mode(model, "layers")
    x = last(images())
    np.testing.assert_array_equal(model.predict_on_batch(x), plain.predict_on_batch(x))


@pytest.mark.parametrize("size", [(24, 32), (25, 33)])
def test_a_model_padded_as_same_is_recognised_at_any_size(
    size: tuple[int, int], build: Any
) -> None:
    model = build("same", input_shape=(*size, 3))
    copy = recognise(keras.models.clone_model(model))
    assert copy.densespec.graph.nodes == model.densespec.graph.nodes
