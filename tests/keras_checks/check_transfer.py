"""Frozen parts: by ``trainable_from``, and by Keras's own ``trainable = False``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import densespec
from densespec import DenseNetSpec, TrainingRecipe
from densespec.backends import get_backend
from densespec.network.graph import freeze, lower, split
from densespec.reference.model import ReferenceModel
from densespec.weights.opening import open_weights
from densespec_keras import SGD, loss_of

SPEC = DenseNetSpec(blocks=(2, 1), growth_rate=3, classes=4, dropout_rate=0.5, head_units=(6,))
RECIPE = TrainingRecipe(learning_rate=0.05, layer_rates=(("block2", 0.5), ("classifier", 2.0)))
LABELS = np.array([0, 3, 1, 2, 1, 1])


@pytest.fixture(scope="module")
def x(images: Any) -> np.ndarray:
    return np.asarray(images(6, 8, 8))


def last(x: np.ndarray) -> np.ndarray:
    return np.moveaxis(x, 1, -1)


def numpy(tensor: Any) -> np.ndarray:
    return np.array(keras.ops.convert_to_numpy(tensor))


def state(model: Any) -> list[np.ndarray]:
    return [numpy(variable) for variable in model.weights]


def masks(graph: Any, count: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(8)
    return {
        node.name: random.integers(0, 2, (count, *node.shape))
        for node in graph.nodes
        if "dropout" in node.name
    }


# trainable_from


@pytest.mark.parametrize("variance", ["biased", "unbiased"])
def test_a_frozen_part_does_as_the_reference_does(
    variance: str, engine: str, x: np.ndarray
) -> None:
    spec = SPEC.replace(running_variance=variance)
    model = densespec.build(spec, backend=engine, input_shape=(8, 8, 3), trainable_from="block2")
    graph, backend = model.densespec.graph, get_backend(engine)
    assert backend.count_parameters(model)[0] == graph.parameters.trainable
    before = densespec.read_weights(model)
    arbiter, trainer = ReferenceModel(graph, before), backend.trainer(model, graph, RECIPE)
    given = masks(graph, len(x))
    for _ in range(2):
        expected = arbiter.train_step(x, LABELS, RECIPE, learning_rate=0.05, masks=given)
        actual = trainer.step(x, LABELS, learning_rate=0.05, masks=given)
        assert actual.loss == pytest.approx(expected.loss, rel=1e-4)
        assert actual.gradients.keys() == expected.gradients.keys()
    assert trainer.moments()["velocity"].keys() == expected.gradients.keys()
    frozen = {w.name for node in graph.nodes if node.frozen for w in node.weights}
    for name, array in densespec.read_weights(model).items():
        np.testing.assert_allclose(array, arbiter.weights[name], rtol=1e-3, atol=1e-4, err_msg=name)
        assert np.array_equal(array, before[name]) == (name in frozen), name
    np.testing.assert_allclose(trainer.predict(x), arbiter(x), rtol=1e-3, atol=1e-4)


def test_a_frozen_network_is_saved_and_thawed_as_kerass_users_do(
    engine: str, x: np.ndarray, tmp_path: Path
) -> None:
    model = densespec.build(SPEC, backend=engine, trainable_from="classifier")
    model.save(tmp_path / "net.keras")
    with open_weights(tmp_path / "net.keras") as found:
        assert densespec.lower(found.spec).nodes == lower(SPEC).nodes
    model.save_weights(tmp_path / "net.weights.h5")
    with open_weights(tmp_path / "net.weights.h5", otherwise=SPEC) as found:
        assert found.spec == SPEC
    loaded = keras.saving.load_model(tmp_path / "net.keras")
    clone = keras.models.clone_model(model)
    for each in (loaded, clone):
        assert len(each.trainable_variables) == 2
        quiet = numpy(each(last(x), training=True))
        np.testing.assert_array_equal(quiet, numpy(each(last(x), training=True)))
    loaded.get_layer("block2_layer1_conv1").trainable = True
    loaded.compile(SGD.from_recipe(RECIPE), loss_of(RECIPE))
    before = dict(zip([v.path for v in loaded.weights], state(loaded), strict=True))
    loaded.fit(last(x), LABELS, verbose=0)
    after = dict(zip([v.path for v in loaded.weights], state(loaded), strict=True))
    moved = {path.split("/")[0] for path in before if not np.array_equal(before[path], after[path])}
    assert moved == {"block2_layer1_conv1", "classifier"}


# A backbone in a model of the user's


@pytest.mark.parametrize("call", [{}, {"training": True}], ids=["", "called in training mode"])
def test_plain_transfer_moves_nothing_that_is_frozen(
    call: dict[str, bool], engine: str, x: np.ndarray, tmp_path: Path
) -> None:
    keras.utils.set_random_seed(1)
    backbone = densespec.build(SPEC, backend=engine, include_top=False, input_shape=(8, 8, 3))
    backbone.trainable = False
    before = state(backbone)
    image = keras.Input((8, 8, 3))
    pooled = keras.layers.GlobalAveragePooling2D()(backbone(image, **call))
    hidden = keras.layers.Dense(16, activation="relu")(pooled)
    model = keras.Model(image, keras.layers.Dense(4, activation="softmax")(hidden))
    recipe = RECIPE.replace(learning_rate=0.01)
    model.compile(SGD.from_recipe(recipe), loss_of(recipe, from_logits=False), metrics=["accuracy"])
    assert len(model.trainable_variables) == 4
    first = model.fit(last(x), LABELS, epochs=5, verbose=0).history["loss"]
    assert first[-1] < first[0]
    for ours, theirs in zip(state(backbone), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(
        numpy(model(last(x), training=True)), numpy(model(last(x), training=False))
    )
    model.save(tmp_path / "net.keras")
    loaded = keras.saving.load_model(tmp_path / "net.keras")
    np.testing.assert_array_equal(
        loaded.predict(last(x), verbose=0), model.predict(last(x), verbose=0)
    )
    assert len(loaded.trainable_variables) == 4
    backbone.trainable = True
    model.compile(SGD.from_recipe(recipe), loss_of(recipe, from_logits=False))
    assert not np.array_equal(
        numpy(model(last(x), training=True)), numpy(model(last(x), training=True))
    )
    model.fit(last(x), LABELS, verbose=0)
    assert any(not np.array_equal(*pair) for pair in zip(state(backbone), before, strict=True))
    names = [variable.path.rpartition("/")[0] for variable in model.trainable_variables]
    factors = dict(zip(names, model.optimizer._factors, strict=True))
    assert {name for name, factor in factors.items() if factor == 0.5} == {
        "block2_layer1_norm1",
        "block2_layer1_conv1",
    }


# Parts of a network


@pytest.mark.parametrize("data_format", ["channels_first", "channels_last"])
@pytest.mark.parametrize("part", ["block2", "global_pool", "head1"])
def test_both_parts_of_a_network_are_the_network(
    part: str, data_format: Any, engine: str, x: np.ndarray
) -> None:
    """And the second one trains by itself as the network does behind a frozen first."""
    graph, backend = lower(SPEC, (8, 8)), get_backend(engine)
    weights = ReferenceModel(graph, densespec.initial_weights(graph, 1)).weights
    parts = split(graph, part)
    models = [
        backend.build(
            each,
            {w.name: weights[w.name] for w in each.weights},
            dtype=None,
            data_format=data_format,
            name="part",
        )
        for each in parts
    ]
    between = backend.forward(models[0], parts[0], x, [parts[0].output.name])
    (value,) = between.values()
    assert value.shape == (len(x), *parts[1].input.shape)
    trainer = backend.trainer(models[1], parts[1], RECIPE)
    whole = ReferenceModel(freeze(graph, part), weights)
    np.testing.assert_allclose(trainer.predict(value), whole(x), rtol=1e-4, atol=1e-5)
    if part != "head1" or data_format == "channels_first":
        return
    expected = whole.train_step(x, LABELS, RECIPE, learning_rate=0.05, masks=masks(graph, len(x)))
    actual = trainer.step(value, LABELS, learning_rate=0.05)
    assert actual.loss == pytest.approx(expected.loss, rel=1e-4)
    after = backend.read_weights(models[1], parts[1])
    for name, array in after.items():
        np.testing.assert_allclose(array, whole.weights[name], rtol=1e-3, atol=1e-5, err_msg=name)
