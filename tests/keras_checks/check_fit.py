"""A recipe through ``compile`` and ``fit`` in float64: the reference's curve, and going on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import densespec
from densespec import DenseNetSpec, TrainingRecipe
from densespec.errors import WeightsError
from densespec.reference.losses import cross_entropy
from densespec.reference.model import ReferenceModel
from densespec.weights.checkpoint import TrainingState, read_checkpoint
from densespec_keras import (
    SGD,
    loss_of,
    recognise,
    restore_training_state,
    schedule,
    training_state,
)

RECIPE = TrainingRecipe(
    epochs=4, batch_size=4, learning_rate=0.05, label_smoothing=0.1, layer_rates=(("block1", 0.5),)
)
SPEC = DenseNetSpec(blocks=(1, 1), growth_rate=3, classes=4)
LABELS = np.array([0, 3, 1, 2, 1, 1, 0, 2, 3, 3])
STEPS = 3
"""In an epoch: the last one is of two samples."""


@pytest.fixture(autouse=True)
def float64(fresh_keras: None) -> None:
    keras.config.set_floatx("float64")


@pytest.fixture(scope="module")
def x(images: Any) -> np.ndarray:
    return np.asarray(images(10, 8, 8), "float64")


def fresh(engine: str, rate: Any, **options: Any) -> Any:
    model = densespec.build(SPEC, backend=engine, input_shape=(8, 8, 3), dtype="float64", **options)
    model.compile(
        SGD.from_recipe(RECIPE, learning_rate=rate), loss_of(RECIPE), metrics=["accuracy"]
    )
    return model


def fit(model: Any, x: np.ndarray, *callbacks: Any, epochs: int = 4, start: int = 0) -> Any:
    """In the order of the data, with the last samples to validate on."""
    x = np.moveaxis(x, 1, -1)
    return model.fit(
        x,
        LABELS,
        batch_size=RECIPE.batch_size,
        initial_epoch=start,
        epochs=epochs,
        shuffle=False,
        validation_data=(x[-4:], LABELS[-4:]),
        callbacks=list(callbacks),
        verbose=0,
    ).history


def dropping() -> Any:
    return keras.callbacks.LearningRateScheduler(RECIPE.learning_rate_at)


def reference_epoch(arbiter: ReferenceModel, x: np.ndarray, epoch: int) -> float:
    """Mean loss of an epoch over its samples."""
    total = 0.0
    for start in range(0, len(x), RECIPE.batch_size):
        batch = slice(start, start + RECIPE.batch_size)
        rate = RECIPE.learning_rate_at(epoch)
        step = arbiter.train_step(x[batch], LABELS[batch], RECIPE, learning_rate=rate)
        total += step.loss * len(x[batch])
    return total / len(x)


def assert_close(actual: Any, expected: dict[str, np.ndarray]) -> None:
    assert actual.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_allclose(actual[name], array, rtol=1e-9, atol=1e-10, err_msg=name)


@pytest.fixture(scope="module")
def curve(engine: str, x: np.ndarray) -> dict[str, Any]:
    """The reference's losses, and its last weights."""
    keras.config.set_floatx("float64")
    start = densespec.read_weights(fresh(engine, 0.1))
    arbiter = ReferenceModel(densespec.lower(SPEC, (8, 8)), start)
    found: dict[str, Any] = {"loss": [], "val_loss": []}
    for epoch in range(RECIPE.epochs):
        found["loss"].append(reference_epoch(arbiter, x, epoch))
        found["val_loss"].append(cross_entropy(arbiter(x[-4:]), LABELS[-4:], 0.1)[0])
    return found | {"weights": arbiter.weights, "velocity": arbiter.moments["velocity"]}


@pytest.fixture(scope="module")
def fitted(engine: str, x: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A model after ``fit`` with a scheduler and other callbacks, its history, and its files."""
    keras.config.set_floatx("float64")
    folder: Path = tmp_path_factory.mktemp("fit")
    model = fresh(engine, RECIPE.learning_rate)
    callbacks = keras.callbacks
    history = fit(
        model,
        x,
        dropping(),
        callbacks.ModelCheckpoint(folder / "{epoch}.keras"),
        callbacks.ModelCheckpoint(folder / "best.keras", monitor="val_loss", save_best_only=True),
        callbacks.CSVLogger(folder / "log.csv"),
        callbacks.EarlyStopping(patience=4),
    )
    return model, history, folder


def test_fit_with_a_scheduler_is_the_references_curve(fitted: Any, curve: dict[str, Any]) -> None:
    model, history, folder = fitted
    rates = [RECIPE.learning_rate_at(epoch) for epoch in range(RECIPE.epochs)]
    assert history["learning_rate"] == rates
    assert len(set(rates)) == 3
    for metric in ("loss", "val_loss"):
        np.testing.assert_allclose(history[metric], curve[metric], rtol=1e-9)
    assert_close(densespec.read_weights(model), curve["weights"])
    assert len((folder / "log.csv").read_text(encoding="utf-8").splitlines()) == 5
    assert {path.name for path in folder.glob("*.keras")} == {
        *(f"{epoch}.keras" for epoch in range(1, 5)),
        "best.keras",
    }


def test_fit_with_a_schedule_by_step_is_the_references_curve(
    engine: str, x: np.ndarray, curve: dict[str, Any], tmp_path: Path
) -> None:
    model = fresh(engine, schedule(RECIPE, STEPS))
    np.testing.assert_allclose(fit(model, x)["loss"], curve["loss"], rtol=1e-9)
    assert_close(densespec.read_weights(model), curve["weights"])
    model.save(tmp_path / "net.keras")
    rate = keras.saving.load_model(tmp_path / "net.keras").optimizer.get_config()["learning_rate"]
    rates = [RECIPE.learning_rate_at(epoch) for epoch in (0, 2, 3)]
    assert rate["config"] == {"changes": [6, 9], "rates": rates}


def test_a_checkpoint_goes_on_exactly(fitted: Any, x: np.ndarray, curve: dict[str, Any]) -> None:
    model, _, folder = fitted
    loaded = keras.saving.load_model(folder / "2.keras")
    history = fit(loaded, x, dropping(), start=2)
    np.testing.assert_allclose(history["loss"], curve["loss"][2:], rtol=1e-9)
    for ours, theirs in zip(loaded.weights, model.weights, strict=True):
        ours, theirs = (keras.ops.convert_to_numpy(array) for array in (ours, theirs))
        np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-14)


def test_a_run_of_fit_goes_on_in_the_reference_and_back(
    engine: str, fitted: Any, x: np.ndarray, curve: dict[str, Any], tmp_path: Path
) -> None:
    loaded = recognise(keras.saving.load_model(fitted[2] / "1.keras"))
    state = training_state(loaded, RECIPE)
    assert (state.step, state.recipe, state.trainable_from) == (STEPS, RECIPE, None)
    densespec.save(loaded, tmp_path / "run.safetensors", training=state)
    found = read_checkpoint(tmp_path / "run.safetensors")
    assert found.training is not None
    arbiter = ReferenceModel(densespec.lower(found.spec, (8, 8)), found.arrays)
    arbiter.moments = {"velocity": dict(found.training.moments["velocity"])}
    assert reference_epoch(arbiter, x, 1) == pytest.approx(curve["loss"][1], rel=1e-9)
    model = fresh(engine, RECIPE.learning_rate, weights=arbiter.weights)
    state = TrainingState(2 * STEPS, RECIPE, arbiter.moments)
    restore_training_state(model, state)
    assert int(model.optimizer.iterations) == 6
    history = fit(model, x, dropping(), start=2)
    np.testing.assert_allclose(history["loss"], curve["loss"][2:], rtol=1e-9)
    assert_close(training_state(model, RECIPE).moments["velocity"], curve["velocity"])


def test_a_state_of_other_parts_is_refused(engine: str) -> None:
    model = fresh(engine, 0.1, trainable_from="block2")
    state = training_state(model, RECIPE)
    assert state.trainable_from == "block2.layer1.norm1"
    assert {name.partition(".")[0] for name in state.moments["velocity"]} == {
        "block2",
        "final",
        "classifier",
    }
    with pytest.raises(WeightsError, match=r"moments of the optimizer do not fit"):
        restore_training_state(fresh(engine, 0.1), state)
    model.get_layer("block1_layer1_norm1").trainable = True
    with pytest.raises(WeightsError, match="compile it again first"):
        training_state(model, RECIPE)
    model.compile(SGD.from_recipe(RECIPE), loss_of(RECIPE))
    with pytest.raises(WeightsError, match=r"block1\.layer1\.conv1 is frozen, but"):
        training_state(model, RECIPE)
    model.compile("sgd", loss_of(RECIPE))
    with pytest.raises(WeightsError, match=r"compile with densespec_keras\.optimizer_of"):
        training_state(model, RECIPE)


@pytest.mark.parametrize(
    "options",
    [
        {"include_top": False, "pooling": "max", "data_format": "channels_first"},
        {"include_top": False, "trainable_from": "block2"},
        {"classifier_activation": "softmax", "input_shape": (8, None, 3)},
        {"trainable_from": "classifier"},
    ],
    ids=lambda options: ", ".join(f"{key}={value}" for key, value in options.items()),
)
def test_a_loaded_file_is_recognised(options: dict[str, Any], engine: str, tmp_path: Path) -> None:
    spec = SPEC.replace(dropout_rate=0.25, head_units=(5, 6), final_norm=False)
    model = densespec.build(spec, backend=engine, **options)
    model.save(tmp_path / "net.keras")
    loaded = recognise(keras.saving.load_model(tmp_path / "net.keras"))
    theirs, ours = model.densespec.graph, loaded.densespec.graph
    assert [n.shape for n in ours.nodes] == [n.shape for n in theirs.nodes]
    assert [w for n in ours.nodes for w in n.weights] == [
        w for n in theirs.nodes for w in n.weights
    ]
    same = ours.spec.replace(classes=spec.classes, head_units=spec.head_units)
    assert densespec.lower(same, (8, 8)).nodes == densespec.lower(spec, (8, 8)).nodes
    with pytest.raises(WeightsError, match="densespec did not build the model"):
        recognise(keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]))
