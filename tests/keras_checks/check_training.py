"""Training with Keras's own tools: ``fit``, callbacks, schedules, frozen layers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import densespec
from densespec import TrainingRecipe
from densespec.backends import get_backend
from densespec.errors import WeightsError
from densespec.recipes.moments import MOMENTS
from densespec.recipes.optimizers import FIRST
from densespec.reference.losses import cross_entropy, loss_and_slope
from densespec_keras import SGD, BatchNormalization, CrossEntropy, loss_of, optimizer_of, schedule
from densespec_keras.optimizers import StepwiseRate


def from_logits() -> Any:
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def numpy(tensor: Any) -> np.ndarray:
    return np.array(keras.ops.convert_to_numpy(tensor))


# fit


def test_fit_by_the_recipe_lowers_the_loss_and_drops_the_rate(
    engine: str, images: Any, tmp_path: Path
) -> None:
    recipe = TrainingRecipe(epochs=4, batch_size=8, learning_rate=0.05)
    spec = densespec.DenseNetSpec(blocks=(2, 1), growth_rate=3, classes=4, dropout_rate=0.1)
    model = densespec.build(spec, backend=engine)
    model.compile(SGD.from_recipe(recipe), from_logits(), metrics=["accuracy"])
    x = np.moveaxis(images(16, 8, 8), 1, -1)
    history = model.fit(
        x,
        np.arange(16) % 4,
        batch_size=recipe.batch_size,
        epochs=recipe.epochs,
        callbacks=[
            keras.callbacks.LearningRateScheduler(recipe.learning_rate_at),
            keras.callbacks.ModelCheckpoint(tmp_path / "last.keras", monitor="loss"),
        ],
        verbose=0,
    ).history
    assert history["loss"][-1] < history["loss"][0]
    rates = [recipe.learning_rate_at(epoch) for epoch in range(recipe.epochs)]
    assert len(set(rates)) == 3
    np.testing.assert_allclose(history["learning_rate"], rates, rtol=1e-6)
    assert model.evaluate(x, np.arange(16) % 4, verbose=0, return_dict=True).keys() == {
        "loss",
        "accuracy",
    }
    saved = keras.saving.load_model(tmp_path / "last.keras")
    np.testing.assert_array_equal(saved.predict(x, verbose=0), model.predict(x, verbose=0))


def test_fit_takes_the_reference_step(build: Any, images: Any, reference: Any) -> None:
    model = build("preactivation")
    recipe = TrainingRecipe(learning_rate=0.01)
    arbiter = reference(model)
    model.compile(SGD.from_recipe(recipe), from_logits())
    labels = np.array([0, 4, 2, 1])
    for _ in range(2):
        step = arbiter.train_step(images(4), labels, recipe, learning_rate=0.01)
        loss = model.train_on_batch(np.moveaxis(images(4), 1, -1), labels)
        assert loss == pytest.approx(step.loss, rel=1e-4)
    for name, array in densespec.read_weights(model).items():
        np.testing.assert_allclose(array, arbiter.weights[name], rtol=1e-3, atol=1e-4, err_msg=name)


def test_frozen_norms_keep_weights_and_statistics_while_the_rest_trains(
    build: Any, images: Any
) -> None:
    for network in ("preactivation", "same"):
        model = build(network)
        for layer in model.layers:
            layer.trainable = "norm" not in layer.name
        before = densespec.read_weights(model)
        model.compile(SGD(0.01), from_logits())
        model.train_on_batch(np.moveaxis(images(4), 1, -1), np.array([0, 4, 2, 1]))
        after = densespec.read_weights(model)
        moved = {name for name in before if not np.array_equal(before[name], after[name])}
        assert moved
        assert [name for name in moved if ".norm" in name] == []


# Masks


def masks_of(model: Any, count: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(8)
    return {
        node.name: random.integers(0, 2, (count, *node.shape)).astype("float32")
        for node in model.densespec.graph.nodes
        if "dropout" in node.name
    }


def test_masked_steps_train_the_model_itself(
    engine: str, build: Any, images: Any, reference: Any
) -> None:
    model = build("cifar", spec={"dropout_rate": 0.5}, input_shape=(8, 8, 3))
    recipe, graph = TrainingRecipe(), model.densespec.graph
    arbiter, trainer = reference(model), get_backend(engine).trainer(model, graph, recipe)
    batch: dict[str, Any] = {"learning_rate": 0.01, "masks": masks_of(model, 4)}
    for _ in range(2):
        actual = trainer.step(images(4, 8, 8), np.arange(4), **batch)
        expected = arbiter.train_step(images(4, 8, 8), np.arange(4), recipe, **batch)
        assert actual.loss == pytest.approx(expected.loss, rel=1e-4)
    for name, array in densespec.read_weights(model).items():
        np.testing.assert_allclose(array, arbiter.weights[name], rtol=1e-3, atol=1e-4, err_msg=name)


def test_masks_for_some_dropouts_only_are_refused(engine: str, build: Any, images: Any) -> None:
    model = build("cifar", spec={"dropout_rate": 0.5}, input_shape=(8, 8, 3))
    trainer = get_backend(engine).trainer(model, model.densespec.graph, TrainingRecipe())
    masks = masks_of(model, 4)
    masks.pop("transition1.dropout")
    with pytest.raises(ValueError, match="masks for 3 of 4 dropouts: give one for each, or none"):
        trainer.step(images(4, 8, 8), np.arange(4), learning_rate=0.01, masks=masks)


# The trainer


def test_momentum_is_carried_whatever_is_asked_for(
    engine: str, build: Any, images: Any, reference: Any
) -> None:
    """Restored before the first step; then a step with gradients, without, and with masks."""
    model = build("cifar", spec={"dropout_rate": 0.5}, input_shape=(8, 8, 3))
    for layer in model.layers:
        if "dropout" in layer.name:
            layer.rate = 0.0
    recipe, graph = TrainingRecipe(), model.densespec.graph
    arbiter, trainer = reference(model), get_backend(engine).trainer(model, graph, recipe)
    assert all((array == 0).all() for array in trainer.moments()["velocity"].values())
    momentum = {
        name: np.full_like(array, 0.1) for name, array in trainer.moments()["velocity"].items()
    }
    trainer.restore({"velocity": momentum}, step=1)
    arbiter.moments, arbiter.steps = {"velocity": dict(momentum)}, 1
    x, labels = images(5, 8, 8), np.arange(5) % 4
    keep_all = {name: mask * 0 + 0.5 for name, mask in masks_of(model, 5).items()}
    for asked in ({}, {"gradients": False}, {"gradients": False, "masks": keep_all}):
        logits = arbiter.run(x, taps=["classifier"], training=True, masks=keep_all)["classifier"]
        step = arbiter.train_step(x, labels, recipe, learning_rate=0.01, masks=keep_all)
        actual = trainer.step(x, labels, learning_rate=0.01, **asked)
        assert actual.loss == pytest.approx(step.loss, rel=1e-4)
        assert actual.correct == (logits.argmax(1) == labels).sum()
        assert actual.gradients.keys() == (set() if asked else step.gradients.keys())
    for name, array in trainer.moments()["velocity"].items():
        np.testing.assert_allclose(array, arbiter.moments["velocity"][name], rtol=1e-2, atol=1e-3)
    assert not hasattr(model.optimizer, "gradients")
    with pytest.raises(WeightsError, match="moments of"):
        trainer.restore({}, step=1)
    np.testing.assert_allclose(trainer.predict(x), arbiter(x), rtol=1e-2, atol=1e-3)


def test_half_precision_scales_the_loss_and_gives_gradients_unscaled(
    engine: str, build: Any, images: Any, reference: Any
) -> None:
    model = build("cifar", dtype="mixed_float16")
    trainer = get_backend(engine).trainer(model, model.densespec.graph, TrainingRecipe())
    step = trainer.step(images(4, 8, 8), np.arange(4), learning_rate=0.001)
    assert type(model.optimizer).__name__ == "LossScaleOptimizer"
    expected = reference(build("cifar")).loss_and_gradients(images(4, 8, 8), np.arange(4))
    assert step.loss == pytest.approx(expected[0], rel=0.01)
    gradient, true = step.gradients["classifier.kernel"], expected[1]["classifier.kernel"]
    np.testing.assert_allclose(gradient, true, atol=0.02 * np.abs(true).max())


def test_averages_in_bfloat16_are_read_and_taken_up(engine: str, build: Any, images: Any) -> None:
    recipe, x = TrainingRecipe(average=0.5), images(4, 8, 8)
    first, second = (build("cifar", dtype="bfloat16") for _ in range(2))
    before, after = (
        get_backend(engine).trainer(model, model.densespec.graph, recipe)
        for model in (first, second)
    )
    before.step(x, np.arange(4), learning_rate=0.1, gradients=False)
    kept = before.moments()
    after.restore(kept, step=1)
    assert {array.dtype.name for array in kept["average"].values()} == {"float32"}
    for name, array in after.moments()["average"].items():
        np.testing.assert_array_equal(array, kept["average"][name], err_msg=name)
    assert np.isfinite(after.predict(x)).all()


# The loss


def test_the_smoothed_loss_is_the_references() -> None:
    random = np.random.default_rng(2)
    logits, labels = random.standard_normal((6, 5)).astype("float32"), np.array([0, 4, 1, 1, 2, 3])
    loss = loss_of(TrainingRecipe(label_smoothing=0.2))
    expected = cross_entropy(logits.astype("float64"), labels, 0.2)[0]
    for shape in ((6,), (6, 1)):
        assert float(loss(labels.reshape(shape), logits)) == pytest.approx(expected, rel=1e-5)
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    of_probabilities = loss_of(TrainingRecipe(label_smoothing=0.2), from_logits=False)
    assert float(of_probabilities(labels, probabilities)) == pytest.approx(expected, rel=1e-5)
    copy = keras.losses.deserialize(keras.losses.serialize(loss))
    assert type(copy) is CrossEntropy
    assert copy.get_config() == loss.get_config()
    assert type(loss_of(TrainingRecipe())).__module__.startswith("keras.")
    with pytest.raises(ValueError, match=r"label_smoothing = 1\.0"):
        CrossEntropy(1.0)


# SGD


@pytest.mark.parametrize(
    ("path", "factor"),
    [
        ("block1_layer1_conv1/kernel", 0.5),
        ("block1_layer12_norm1/gamma", 0.25),
        ("block12_layer1_norm1/gamma", 1.0),
        ("dense/kernel", 3.0),
        ("dense_1/kernel", 1.0),
        ("classifier/bias", 2.0),
    ],
)
def test_the_longest_name_that_fits_a_layer_sets_its_rate(path: str, factor: float) -> None:
    rates = {"block1": 0.5, "block1.layer12": 0.25, "dense": 3.0, "classifier": 2.0}
    layer, _, name = path.partition("/")
    with keras.name_scope(layer):
        variable = keras.Variable(np.ones(3, "float32"), name=name)
    assert variable.path == path
    optimizer = SGD(0.1, layer_rates=rates)
    optimizer.build([variable])
    optimizer.apply([keras.ops.convert_to_tensor(GRADIENTS[0], "float32")], [variable])
    step = TrainingRecipe().step("x", np.ones(3), GRADIENTS[0], START, 0.1 * factor)[0]
    np.testing.assert_allclose(numpy(variable), step, rtol=1e-5)


def test_a_schedule_needs_steps_and_a_rate_that_stays_is_a_number() -> None:
    assert schedule(TrainingRecipe(milestones=()), 7) == 0.1
    rates = [float(StepwiseRate([2, 4], [3.0, 2.0, 1.0])(step)) for step in range(6)]
    assert rates == [3.0, 3.0, 2.0, 2.0, 1.0, 1.0]
    with pytest.raises(ValueError, match="steps_per_epoch = 0"):
        schedule(TrainingRecipe(), 0)
    with pytest.raises(ValueError, match="1 changes between 3 rates"):
        StepwiseRate([2], [3.0, 2.0, 1.0])


GRADIENTS = [np.array([0.5, -2.0, 0.1]), np.array([-1.0, 0.25, 3.0]), np.array([0.2, 0.2, -0.7])]


START = {moment: np.full(3, FIRST.get(moment, 0.0)) for moment in MOMENTS}


def steps(optimizer: Any, name: str, rates: Sequence[float | None]) -> np.ndarray:
    """The variable after one step for each gradient, at these rates where they are numbers."""
    variable = keras.Variable(np.array([1.0, -2.0, 3.0], "float32"), name=name)
    optimizer.build([variable])
    for gradient, rate in zip(GRADIENTS, rates, strict=True):
        if rate is not None:
            optimizer.learning_rate = rate
        optimizer.apply([keras.ops.convert_to_tensor(gradient, "float32")], [variable])
    return numpy(variable)


def expected_steps(
    recipe: TrainingRecipe, name: str, rates: Sequence[float], clipped: Any = lambda g: g
) -> np.ndarray:
    weight, moments = np.array([1.0, -2.0, 3.0]), START
    for number, (gradient, rate) in enumerate(zip(GRADIENTS, rates, strict=True), start=1):
        weight, moments = recipe.step(name, weight, clipped(gradient), moments, rate, number)
    return weight


@pytest.mark.parametrize("name", ["kernel", "gamma"])
@pytest.mark.parametrize(
    "terms",
    [
        {},
        {"nesterov": False},
        {"momentum": 0.0},
        {"weight_decay": 0.1},
        {"weight_decay": 0.1, "decay_kernels_only": True},
        {"weight_decay": 0.0},
        {"optimizer": "adam", "weight_decay": 0.1, "epsilon": 0.1},
        {"optimizer": "adamw", "weight_decay": 0.1, "epsilon": 0.1},
        {"optimizer": "adamw", "weight_decay": 0.1, "decay_kernels_only": True, "beta2": 0.9},
        {"optimizer": "rmsprop", "weight_decay": 0.1, "beta2": 0.9, "epsilon": 0.1},
        {"optimizer": "rmsprop", "momentum": 0.0, "beta2": 0.9, "decay_kernels_only": True},
    ],
    ids=lambda terms: ", ".join(f"{key}={value}" for key, value in terms.items()) or "as it is",
)
def test_an_optimizer_is_the_recipes_step_across_a_drop(terms: dict[str, Any], name: str) -> None:
    recipe = TrainingRecipe(**terms)
    rates = [0.1, 0.1, 0.01]
    actual = steps(optimizer_of(recipe), name, rates)
    np.testing.assert_allclose(actual, expected_steps(recipe, f"x.{name}", rates), rtol=1e-5)


@pytest.mark.parametrize(
    ("option", "clipped"),
    [
        ({"clipvalue": 0.5}, lambda g: np.clip(g, -0.5, 0.5)),
        ({"clipnorm": 1.0}, lambda g: g * min(1, 1 / np.linalg.norm(g))),
        ({"global_clipnorm": 1.0}, lambda g: g * min(1, 1 / np.linalg.norm(g))),
    ],
    ids=["clipvalue", "clipnorm", "global_clipnorm"],
)
def test_sgd_clips_gradients_before_its_step(option: dict[str, float], clipped: Any) -> None:
    recipe = TrainingRecipe(weight_decay=0.1)
    actual = steps(SGD.from_recipe(recipe, **option), "kernel", [0.1] * 3)
    expected = expected_steps(recipe, "x.kernel", [0.1] * 3, clipped)
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_keras_adds_epsilon_before_it_corrects_the_bias() -> None:
    """So its AdamW is the recipe's with an epsilon that shrinks; decay is in the same place."""
    recipe = TrainingRecipe(optimizer="adamw", epsilon=0.01, weight_decay=0.1)
    keras_own = keras.optimizers.AdamW(0.1, epsilon=0.01, weight_decay=0.1)
    actual = steps(keras_own, "kernel", [0.1] * 3)
    weight, moments = np.array([1.0, -2.0, 3.0]), START
    for number, gradient in enumerate(GRADIENTS, start=1):
        shrunk = recipe.replace(epsilon=0.01 / (1 - recipe.beta2**number) ** 0.5)
        weight, moments = shrunk.step("x.kernel", weight, gradient, moments, 0.1, number)
    np.testing.assert_allclose(actual, weight, rtol=1e-5)
    ours = steps(optimizer_of(recipe), "kernel", [0.1] * 3)
    assert np.abs(actual - ours).max() > 1e-3


@pytest.mark.parametrize("rate_per", ["step", "epoch"])
@pytest.mark.parametrize("kind", ["cosine", "linear", "constant", "steps"])
def test_a_schedule_is_the_recipes(kind: Any, rate_per: Any) -> None:
    recipe = TrainingRecipe(
        epochs=4, milestones=(2, 3), schedule=kind, rate_per=rate_per, warmup_epochs=1
    )
    rate: Any = schedule(recipe, 3)
    expected = [recipe.rate_of_step(step, 3) for step in range(12)]
    np.testing.assert_allclose([float(rate(step)) for step in range(12)], expected, rtol=1e-5)
    copy = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer_of(recipe)))
    assert type(copy) is SGD
    if not recipe.holds_rates:
        assert type(rate).from_config(rate.get_config())(7) == rate(7)


@pytest.mark.parametrize(
    "terms",
    [
        {"loss": "sigmoid", "positive_weights": (2.0, 0.5, 1.0), "label_smoothing": 0.1},
        {"loss": "squared"},
        {"class_weights": (2.0, 0.5, 1.0), "label_smoothing": 0.1},
    ],
    ids=["sigmoid", "squared", "class weights"],
)
def test_a_loss_is_the_recipes_and_can_be_saved(terms: dict[str, Any]) -> None:
    recipe, logits = TrainingRecipe(**terms), np.random.default_rng(0).standard_normal((4, 3))
    labels: Any = np.array([[1, 0, np.nan], [0, 1, 1], [1, 1, 0], [np.nan, 0, 1]], "float32")
    labels = np.array([0, 2, 1, 1]) if recipe.loss == "softmax" else labels
    loss = loss_of(recipe)
    copy = keras.losses.deserialize(keras.losses.serialize(loss))
    expected = loss_and_slope(recipe, logits, labels)[0]
    for one in (loss, copy):
        assert float(one(labels, logits.astype("float32"))) == pytest.approx(expected, rel=1e-5)


def test_sgd_follows_a_schedule() -> None:
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([0, 1], [0.1, 0.05, 0.01])
    actual = steps(SGD(schedule), "kernel", [None] * 3)
    expected = expected_steps(TrainingRecipe(), "x.kernel", [0.1, 0.05, 0.01])
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_sgd_spares_excluded_variables_from_decay() -> None:
    optimizer = SGD(0.1, weight_decay=0.1)
    optimizer.exclude_from_weight_decay(var_names=["gam"])
    expected = expected_steps(TrainingRecipe(weight_decay=0.0), "x.gamma", [0.1] * 3)
    np.testing.assert_allclose(steps(optimizer, "gamma", [None] * 3), expected, rtol=1e-5)


def test_sgd_keeps_its_velocity_between_rates() -> None:
    optimizer = SGD(0.1, momentum=0.5, weight_decay=0.0)
    steps(optimizer, "kernel", [0.1, 0.001, 10.0])
    expected = 0.25 * GRADIENTS[0] + 0.5 * GRADIENTS[1] + GRADIENTS[2]
    np.testing.assert_allclose(numpy(optimizer.velocity[0]), expected, rtol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"nesterov": False, "momentum": 0.5, "weight_decay": 0.25, "decay_kernels_only": True},
        {"clipnorm": 1.5, "name": "mine", "layer_rates": {"block4": 0.1}},
    ],
    ids=["as it is", "own terms", "Keras's terms"],
)
def test_sgd_goes_through_its_config(options: dict[str, Any]) -> None:
    optimizer = SGD(0.03, **options)
    config = optimizer.get_config()
    assert config.items() >= options.items()
    for copy in (
        SGD.from_config(config),
        keras.optimizers.deserialize(keras.optimizers.serialize(optimizer)),
        keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(optimizer)),
    ):
        assert type(copy) is SGD
        assert copy.get_config() == config


def test_sgd_with_a_schedule_goes_through_its_config() -> None:
    optimizer = SGD(keras.optimizers.schedules.CosineDecay(0.1, 100))
    copy = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert copy.get_config() == optimizer.get_config()
    assert copy.get_config()["learning_rate"]["config"]["decay_steps"] == 100


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"momentum": 1.0}, r"momentum = 1\.0, but should be in \[0, 1\)"),
        ({"momentum": -0.1}, r"momentum = -0\.1"),
        ({"weight_decay": -1e-4}, "weight_decay = -0.0001, but should be at least 0"),
        ({"decay": 1e-4}, "decay, which Keras once had for the learning rate"),
        ({"weight_decay": float("nan")}, "weight_decay = nan"),
        ({"clipnorm": 1.0, "clipvalue": 1.0}, "clip"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_sgd_refuses(option: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SGD(0.1, **option)


# Batch norm with unbiased running variance


def batch(*shape: int) -> np.ndarray:
    return np.random.default_rng(9).standard_normal(shape).astype("float32") * 2 + 1


@pytest.mark.parametrize("axis", [1, -1])
def test_running_statistics_move_by_the_formula(axis: int) -> None:
    layer = BatchNormalization(axis=axis, momentum=0.7)
    x = batch(3, 4, 5, 4)
    others = (0, 2, 3) if axis == 1 else (0, 1, 2)
    layer(x, training=True)
    mean, variance = x.mean(others), x.var(others, ddof=1)
    np.testing.assert_allclose(numpy(layer.moving_mean), 0.3 * mean, rtol=1e-5)
    np.testing.assert_allclose(numpy(layer.moving_variance), 0.7 + 0.3 * variance, rtol=1e-5)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("center", [True, False], ids=["beta", "no beta"])
@pytest.mark.parametrize("scale", [True, False], ids=["gamma", "no gamma"])
def test_outputs_are_those_of_keras_own_batch_norm(
    center: bool, scale: bool, training: bool
) -> None:
    options = {"center": center, "scale": scale, "epsilon": 1e-5}
    x = batch(4, 3, 3, 5)
    ours, theirs = BatchNormalization(**options), keras.layers.BatchNormalization(**options)
    for layer in (ours, theirs):
        layer.build(x.shape)
        for place, weight in enumerate(layer.weights):
            weight.assign(np.linspace(0.5, 1.5, 5) + place)
    y, expected = (numpy(layer(x, training=training)) for layer in (ours, theirs))
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)


def test_a_far_off_mean_costs_no_digits() -> None:
    layer = BatchNormalization(momentum=0.0, epsilon=1e-12)
    x = 4096 + np.array([-0.5, 0.5, -0.5, 0.5], "float32").reshape(4, 1)
    y = numpy(layer(x, training=True))
    np.testing.assert_allclose(y, x - 4096 + np.sign(x - 4096) * 0.5, rtol=1e-5)
    np.testing.assert_allclose(numpy(layer.moving_variance), [1 / 3], rtol=1e-5)


def test_a_frozen_norm_runs_in_inference_mode() -> None:
    layer = BatchNormalization()
    layer.build((None, 4))
    layer.trainable = False
    np.testing.assert_allclose(numpy(layer(batch(8, 4), training=True)), batch(8, 4), rtol=1e-3)
    np.testing.assert_array_equal(numpy(layer.moving_variance), 1)


def test_one_value_per_channel_is_an_error_where_the_shape_is_known() -> None:
    layer = BatchNormalization(name="norm7")
    with pytest.raises(ValueError, match="norm7: one value per channel has no unbiased variance"):
        layer(batch(1, 1, 1, 4), training=True)
    assert layer(batch(1, 1, 1, 4), training=False).shape == (1, 1, 1, 4)


def test_what_unbiased_norms_lack_is_refused(engine: str) -> None:
    with pytest.raises(ValueError, match="renorm = True"):
        BatchNormalization(renorm=True)
    if engine != "tensorflow":
        with pytest.raises(ValueError, match="synchronized=True is only supported with"):
            BatchNormalization(synchronized=True)
    with pytest.raises(ValueError, match="takes no masked batches"):
        BatchNormalization()(batch(2, 3, 4), training=True, mask=np.ones((2, 3), bool))


def test_norms_go_through_their_config() -> None:
    layer = BatchNormalization(axis=1, momentum=0.8, epsilon=0.01, center=False, name="mine")
    copy = keras.layers.deserialize(keras.layers.serialize(layer))
    assert type(copy) is BatchNormalization
    assert copy.get_config() == layer.get_config()
