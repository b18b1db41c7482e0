"""The training recipe: when the learning rate drops, what a step does, and what is refused."""

from __future__ import annotations

import dataclasses
import itertools
import math
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from densespec.errors import SpecError
from densespec.recipes.optimizers import FIRST
from densespec.recipes.recipe import TrainingRecipe
from tests.strategies import named

FIELDS = dataclasses.fields(TrainingRecipe)


def test_the_defaults_are_those_of_the_paper_on_cifar() -> None:
    recipe = TrainingRecipe()
    assert dataclasses.asdict(recipe) == {
        "epochs": 300,
        "batch_size": 64,
        "learning_rate": 0.1,
        "milestones": (0.5, 0.75),
        "gamma": 0.1,
        "momentum": 0.9,
        "nesterov": True,
        "weight_decay": 1e-4,
        "decay_kernels_only": False,
        "layer_rates": (),
        "label_smoothing": 0.0,
        "dropout_rate": None,
        "augmentation": "none",
        "seed": 0,
        "dtype": "float32",
        "batch_norm": "per-replica",
        "loss": "softmax",
        "class_weights": (),
        "positive_weights": (),
        "optimizer": "sgd",
        "beta1": 0.9,
        "beta2": 0.999,
        "epsilon": 1e-8,
        "clip_norm": None,
        "schedule": "steps",
        "rate_per": "epoch",
        "warmup_epochs": 0.0,
        "warmup_steps": 0,
        "warmup_start": 0.01,
        "final_rate": 0.0,
        "drop_every": None,
        "average": None,
        "average_warmup": 0.0,
        "rand_augment": 0,
        "rand_magnitude": 9.0,
        "rotation": 0.0,
        "colour": 0.0,
        "erasing": 0.0,
        "erasing_fill": "mean",
        "mixup": 0.0,
        "cutmix": 0.0,
        "accumulate": 1,
    }


# The learning rate


@pytest.mark.parametrize(
    ("epochs", "milestones", "drops"),
    [
        pytest.param(300, (0.5, 0.75), (150, 225), id="CIFAR: 300 epochs"),
        pytest.param(40, (0.5, 0.75), (20, 30), id="SVHN: 40 epochs"),
        pytest.param(90, (1 / 3, 2 / 3), (30, 60), id="ImageNet: 90 epochs"),
        pytest.param(100, (0.07, 0.55), (7, 55), id="products that floats make too large"),
        pytest.param(100, (0.29, 0.57), (29, 57), id="products that floats make too small"),
        pytest.param(7, (0.5,), (4,), id="a drop within an epoch waits for the next"),
        pytest.param(5, (), (), id="no drop"),
        pytest.param(90, (30, 60), (30, 60), id="ImageNet: in epochs"),
        pytest.param(20, (15, 30), (15,), id="a drop after the last epoch"),
        pytest.param(1, (0.5,), (), id="a drop after the only epoch began"),
    ],
)
def test_the_learning_rate_drops_tenfold_at_each_milestone(
    epochs: int, milestones: tuple[float, ...], drops: tuple[int, ...]
) -> None:
    recipe = TrainingRecipe(epochs=epochs, milestones=milestones)
    for epoch in range(epochs):
        passed = sum(epoch >= drop for drop in drops)
        assert recipe.learning_rate_at(epoch) == pytest.approx(0.1 * 0.1**passed, rel=1e-15)


def test_the_learning_rate_at_the_milestones_of_the_paper() -> None:
    rates = [TrainingRecipe().learning_rate_at(epoch) for epoch in (0, 149, 150, 224, 225, 299)]
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 0.001], rel=1e-15)


def test_gamma_is_the_factor_of_a_drop() -> None:
    recipe = TrainingRecipe(learning_rate=0.8, gamma=0.5)
    assert [recipe.learning_rate_at(epoch) for epoch in (0, 150, 225)] == [0.8, 0.4, 0.2]


COSINE = TrainingRecipe(epochs=4, schedule="cosine", learning_rate=1.0, final_rate=0.5)


@pytest.mark.parametrize(
    ("changes", "rates"),
    [
        pytest.param({}, [1.0, 0.5 + 0.25 * (1 + 0.5**0.5), 0.75, 0.5 + 0.25 * (1 - 0.5**0.5)]),
        pytest.param({"schedule": "linear"}, [1.0, 0.875, 0.75, 0.625]),
        pytest.param({"schedule": "constant"}, [1.0] * 4),
        pytest.param({"schedule": "constant", "warmup_epochs": 2}, [0.01, 0.505, 1.0, 1.0]),
        pytest.param({"schedule": "linear", "warmup_epochs": 2}, [0.01, 0.505, 1.0, 0.75]),
        pytest.param({"warmup_epochs": 2, "warmup_start": 0.0}, [0.0, 0.5, 1.0, 0.75]),
        pytest.param({"warmup_epochs": 1.5, "schedule": "steps"}, [0.01, 0.67, 0.1, 0.01]),
    ],
)
def test_the_course_of_the_learning_rate_by_epoch(
    changes: dict[str, Any], rates: list[float]
) -> None:
    recipe = COSINE.replace(**changes)
    assert [recipe.learning_rate_at(epoch) for epoch in range(4)] == pytest.approx(rates, rel=1e-14)
    assert [recipe.rate_of_step(step, 3) for step in range(12)] == pytest.approx(
        [rate for rate in rates for _ in range(3)], rel=1e-14
    )


@pytest.mark.parametrize("warmup", [{"warmup_steps": 3}, {"warmup_epochs": 1.5}])
def test_the_course_of_the_learning_rate_by_step(warmup: dict[str, Any]) -> None:
    recipe = COSINE.replace(schedule="linear", rate_per="step", **warmup)
    rates = [recipe.rate_of_step(step, 2) for step in range(8)]
    assert rates == pytest.approx([0.01, 0.34, 0.67, 1.0, 0.9, 0.8, 0.7, 0.6], rel=1e-14)
    with pytest.raises(ValueError, match="changes with each step"):
        recipe.learning_rate_at(0)
    with pytest.raises(ValueError, match="changes with each step"):
        recipe.learning_rates()


def test_milestones_count_from_the_start_of_the_run() -> None:
    recipe = TrainingRecipe(epochs=4, milestones=(2, 3), warmup_epochs=1, rate_per="step")
    rates = [recipe.rate_of_step(step, 2) for step in range(8)]
    assert rates == pytest.approx([0.001, 0.0505, 0.1, 0.1, 0.01, 0.01, 0.001, 0.001], rel=1e-14)


def test_a_rate_drops_every_so_many_epochs_as_timms_does() -> None:
    recipe = TrainingRecipe(
        epochs=30, milestones=(), gamma=0.97, drop_every=2.4, warmup_epochs=3, warmup_start=0.5
    )
    rising = [0.05 + 0.05 * epoch / 3 for epoch in range(3)]
    steady = [0.1 * 0.97 ** (epoch // 2.4) for epoch in range(3, 30)]
    rates = [recipe.learning_rate_at(epoch) for epoch in range(30)]
    assert rates == pytest.approx(rising + steady, rel=1e-12)
    assert recipe.drop_epochs() == [3, 5, 8, 10, 12, 15, 17, 20, 22, 24, 27, 29]
    assert "times 0.97 every 2.4 epochs, after 3 epochs of warm-up from 0.05" in recipe.course()


@pytest.mark.parametrize(
    "changes",
    [
        {"milestones": (0.5,)},
        {"milestones": (), "schedule": "cosine"},
        {"milestones": (), "epochs": 2**31 - 1},
    ],
    ids=["milestones", "cosine", "too often"],
)
def test_a_rate_drops_every_so_many_epochs_or_otherwise(changes: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match="R41"):
        TrainingRecipe(drop_every=2.4, **changes)


# A step

ONE = np.array([1.0])
NONE = np.array([0.0])


def _steps(recipe: TrainingRecipe, *steps: tuple[float, float]) -> list[tuple[float, ...]]:
    """Weight and moments after each (gradient, learning rate), from weight 1."""
    weight, moments, result = ONE, {m: FIRST.get(m, 0) * ONE for m in recipe.rule.moments}, []
    for number, (gradient, rate) in enumerate(steps, start=1):
        weight, moments = recipe.step("a.kernel", weight, gradient * ONE, moments, rate, number)
        result.append((float(weight[0]), *(float(array[0]) for array in moments.values())))
    return result


def test_nesterov_steps_by_hand() -> None:
    """momentum 0.5, decay 0.1, rate 1 and then 0.1, gradients 0.4 and 0.2:

    g = 0.4 + 0.1 * 1 = 0.5,   v = 0.5,               w = 1 - (0.5 + 0.25)               = 0.25
    g = 0.2 + 0.025 = 0.225,   v = 0.25 + 0.225 = 0.475, w = 0.25 - 0.1 (0.225 + 0.2375) = 0.20375
    """
    recipe = TrainingRecipe(momentum=0.5, weight_decay=0.1)
    found = _steps(recipe, (0.4, 1.0), (0.2, 0.1))
    np.testing.assert_allclose(found, [(0.25, 0.5), (0.20375, 0.475)], rtol=1e-15)


def test_plain_momentum_steps_by_hand() -> None:
    """As above without looking ahead: w = 1 - 0.5 = 0.5, then g = 0.25, v = 0.5, w = 0.45."""
    recipe = TrainingRecipe(momentum=0.5, weight_decay=0.1, nesterov=False)
    found = _steps(recipe, (0.4, 1.0), (0.2, 0.1))
    np.testing.assert_allclose(found, [(0.5, 0.5), (0.45, 0.5)], rtol=1e-15)


def test_a_drop_of_the_learning_rate_does_not_rescale_the_velocity() -> None:
    recipe = TrainingRecipe(momentum=0.5, weight_decay=0)
    (_, before), (_, after) = _steps(recipe, (1.0, 1.0), (0.0, 1e-3))
    assert (before, after) == (1.0, 0.5)


def test_without_momentum_a_step_is_plain_gradient_descent() -> None:
    recipe = TrainingRecipe(momentum=0, weight_decay=0)
    assert _steps(recipe, (0.5, 0.5)) == [(0.75,)]


@pytest.mark.parametrize(("optimizer", "decoupled"), [("adam", False), ("adamw", True)])
def test_adam_steps_by_hand(optimizer: str, decoupled: bool) -> None:
    """beta1 0.5, beta2 0.75, epsilon 0.5, decay 0.1, rate 1 and then 0.1, gradients 0.4 and 0.2.

    A moment over its correction is the gradient itself in the first step, whatever the betas.
    """
    recipe = TrainingRecipe(
        optimizer=optimizer, beta1=0.5, beta2=0.75, epsilon=0.5, weight_decay=0.1
    )
    g = 0.4 if decoupled else 0.5
    w = 1 - g / (g + 0.5) - (0.1 if decoupled else 0)
    m, s = 0.5 * g, 0.25 * g * g
    found = [(w, m, s)]
    g = 0.2 if decoupled else 0.2 + 0.1 * w
    m, s = 0.5 * m + 0.5 * g, 0.75 * s + 0.25 * g * g
    ahead = (m / 0.75) / (math.sqrt(s / (1 - 0.75**2)) + 0.5)
    w = w - 0.1 * ahead - (0.1 * 0.1 * w if decoupled else 0)
    found.append((w, m, s))
    np.testing.assert_allclose(_steps(recipe, (0.4, 1.0), (0.2, 0.1)), found, rtol=1e-14)


def test_rmsprop_steps_by_hand() -> None:
    """beta2 0.75, momentum 0.5, epsilon 0.19, decay 0.1, rates 1 and 0.1, gradients 0.3 and 0.2.

    The mean square starts at 1, and the velocity of the first step keeps its rate of 1.
    """
    recipe = TrainingRecipe(
        optimizer="rmsprop", beta2=0.75, momentum=0.5, epsilon=0.19, weight_decay=0.1
    )
    g = 0.3 + 0.1
    s = 0.75 + 0.25 * g * g
    v = g / math.sqrt(s + 0.19)
    w = 1 - v
    found = [(w, s, v)]
    g = 0.2 + 0.1 * w
    s = 0.75 * s + 0.25 * g * g
    v = 0.5 * v + 0.1 * g / math.sqrt(s + 0.19)
    found.append((w - v, s, v))
    np.testing.assert_allclose(_steps(recipe, (0.3, 1.0), (0.2, 0.1)), found, rtol=1e-14)


def test_gradients_are_scaled_down_to_the_norm_and_never_up() -> None:
    recipe = TrainingRecipe(clip_norm=2.0)
    assert [recipe.clip_factor(norm) for norm in (0.0, 1.0, 2.0, 8.0)] == [1.0, 1.0, 1.0, 0.25]
    assert TrainingRecipe().clip_factor(1e300) == 1.0


@pytest.mark.parametrize("nesterov", [True, False], ids=["Nesterov", "plain"])
def test_steps_follow_the_formula(nesterov: bool) -> None:
    rng = np.random.default_rng(0)
    recipe = TrainingRecipe(momentum=0.9, weight_decay=0.01, nesterov=nesterov)
    weight, velocity = rng.standard_normal((3, 2)), rng.standard_normal((3, 2))
    gradient = rng.standard_normal((3, 2))
    new, moments = recipe.step("a.kernel", weight, gradient, {"velocity": velocity}, 0.1)
    moving = moments["velocity"]
    for index in np.ndindex(3, 2):
        g = gradient[index] + 0.01 * weight[index]
        v = 0.9 * velocity[index] + g
        ahead = g + 0.9 * v if nesterov else v
        assert moving[index] == pytest.approx(v, rel=1e-14)
        assert new[index] == pytest.approx(weight[index] - 0.1 * ahead, rel=1e-14)


def test_a_step_leaves_its_arguments_alone() -> None:
    arrays = [np.array([1.0, 2.0]) for _ in range(3)]
    TrainingRecipe().step("a.kernel", arrays[0], arrays[1], {"velocity": arrays[2]}, 0.1)
    np.testing.assert_array_equal(arrays, [[1.0, 2.0]] * 3)


@pytest.mark.parametrize(
    ("name", "spared"),
    named(
        "{0}",
        ("stem.conv.kernel", False),
        ("classifier.kernel", False),
        ("stem.conv.bias", True),
        ("classifier.bias", True),
        ("stem.norm.gamma", True),
        ("stem.norm.beta", True),
    ),
)
def test_weight_decay_spares_norms_and_biases_when_asked(name: str, spared: bool) -> None:
    for only, decay in ((False, 0.01), (True, 0.0 if spared else 0.01)):
        recipe = TrainingRecipe(weight_decay=0.01, decay_kernels_only=only)
        assert recipe.decay_of(name) == decay
        weight, moments = recipe.step(name, ONE, NONE, {"velocity": NONE}, 1.0)
        assert moments["velocity"][0] == decay
        assert weight[0] == pytest.approx(1 - 1.9 * decay, rel=1e-15)


# Constraints

INTEGER = "an integer of at least 1 and below 2**31"
ALLOWED = {
    "R1": INTEGER,
    "R2": INTEGER,
    "R3": "a number in (0, 1000]",
    "R4": "an ascending list of at most 1000 fractions in (0, 1), or one of epochs from 1 on",
    "R5": "a number in (0, 1]",
    "R6": "a number in [0, 1)",
    "R7": "true or false",
    "R8": "a number in [0, 1]",
    "R9": "true or false",
    "R10": "a table of at most 1000 names, each with a number in [0, 1000]",
    "R11": "a number in [0, 1)",
    "R12": "a number in [0, 1), or none",
    "R13": "'none' or 'cifar' or 'imagenet'",
    "R14": "an integer of at least 0 and below 2**31",
    "R15": "'float32' or 'float64' or 'mixed_bfloat16' or 'mixed_float16'",
    "R16": "'per-replica' or 'synchronised'",
    "R17": "'sgd' or 'adam' or 'adamw' or 'rmsprop'",
    "R18": "a number in [0, 1)",
    "R19": "a number in [0, 1)",
    "R20": "a number in (0, 1]",
    "R21": "a number in (0, 1e+06], or none",
    "R22": "'steps' or 'cosine' or 'linear' or 'constant'",
    "R23": "'epoch' or 'step'",
    "R24": "a number in [0, 1e+06]",
    "R25": "an integer of at least 0 and below 2**31",
    "R26": "a number in [0, 1]",
    "R27": "a number in [0, 1000]",
    "R28": "'softmax' or 'sigmoid' or 'squared'",
    "R29": "a list of at most 100000 numbers, each a number in [0, 1e+06]",
    "R30": "a list of at most 100000 numbers, each a number in [0, 1e+06]",
    "R31": "a number in [0, 1), or none",
    "R32": "a number in [0, 1e+09]",
    "R33": "an integer of at least 0 and at most 10",
    "R34": "a number in [0, 30]",
    "R35": "a number in [0, 180]",
    "R36": "a number in [0, 1]",
    "R37": "a number in [0, 1]",
    "R38": "a number in [0, 1000]",
    "R39": "a number in [0, 1000]",
    "R40": "an integer of at least 1 and below 2**31",
    "R41": "a number in (0, 1e+06], or none",
    "R42": "'mean' or 'noise'",
}

BROKEN: dict[str, tuple[str, list[object]]] = {
    "R1": ("epochs", [0, -1, 2**31, 1.0, True, "300", None]),
    "R2": ("batch_size", [0, -1, 64.0, True, "64", None]),
    "R3": ("learning_rate", [0, -0.1, 1001, math.nan, math.inf, True, "0.1", None]),
    "R4": (
        "milestones",
        [
            [0.75, 0.5],
            [0.5, 0.5],
            [0, 0.5],
            [0.5, 1],
            [0.5, math.nan],
            [225, 150],
            [0, 10],
            [0.5, 10],
            [10, 20.0],
            [True],
            ["0.5"],
            "0.5",
            {0.5},
            {0.5: 1},
            0.5,
            None,
        ],
    ),
    "R5": ("gamma", [0, -0.1, 1.1, math.nan, True, "0.1", None]),
    "R6": ("momentum", [1, -0.1, math.nan, True, "0.9", None]),
    "R7": ("nesterov", [0, 1, "true", None, np.True_]),
    "R8": ("weight_decay", [-1e-4, 1.5, math.nan, math.inf, True, "0", None]),
    "R9": ("decay_kernels_only", [0, 1, "false", None, np.False_]),
    "R10": ("layer_rates", [{"block4": -1}, {"block4": "1"}, {"": 1}, {4: 1}, "block4", 0.1, None]),
    "R11": ("label_smoothing", [1, -0.1, math.nan, True, "0.1", None]),
    "R12": ("dropout_rate", [1, -0.1, math.nan, True, "0.2"]),
    "R13": ("augmentation", ["cifar10", "", None, True]),
    "R14": ("seed", [-1, 2**31, 1.0, True, "0", None]),
    "R15": ("dtype", ["float16", "double", None, 32]),
    "R16": ("batch_norm", ["synchronized", "", None, True]),
    "R17": ("optimizer", ["AdamW", "RMSprop", "", None, True]),
    "R18": ("beta1", [1, -0.1, math.nan, True, "0.9", None]),
    "R19": ("beta2", [1, -0.1, math.nan, True, "0.9", None]),
    "R20": ("epsilon", [0, -1e-8, 1.1, math.nan, True, "0", None]),
    "R21": ("clip_norm", [0, -1, math.inf, math.nan, True, "1"]),
    "R22": ("schedule", ["Cosine", "", None, True]),
    "R23": ("rate_per", ["batch", "", None, True]),
    "R24": ("warmup_epochs", [-1, math.inf, math.nan, True, "1", None]),
    "R25": ("warmup_steps", [-1, 1.0, True, "1", None]),
    "R26": ("warmup_start", [-0.1, 1.1, math.nan, True, "0", None]),
    "R27": ("final_rate", [-0.1, 1001, math.nan, True, "0", None]),
    "R28": ("loss", ["bce", "", None, True]),
    "R29": ("class_weights", [[-1.0], [math.nan], ["1"], "1", 1.0, {1.0}, None]),
    "R30": ("positive_weights", [[-1.0], [math.inf], [True], "1", 1.0, None]),
    "R31": ("average", [-0.1, 1, math.nan, True, "0"]),
    "R32": ("average_warmup", [-1, math.inf, math.nan, True, "1", None]),
    "R33": ("rand_augment", [-1, 11, 1.0, True, "1", None]),
    "R34": ("rand_magnitude", [-1, 31, math.nan, True, "1", None]),
    "R35": ("rotation", [-1, 181, math.nan, True, "1", None]),
    "R36": ("colour", [-0.1, 1.1, math.nan, True, "0", None]),
    "R37": ("erasing", [-0.1, 1.1, math.nan, True, "0", None]),
    "R38": ("mixup", [-0.1, 1001, math.nan, True, "0", None]),
    "R39": ("cutmix", [-0.1, 1001, math.nan, True, "0", None]),
    "R40": ("accumulate", [0, 1.0, True, "1", None]),
    "R41": ("drop_every", [0, -1, 1e7, math.nan, True, "2.4"]),
    "R42": ("erasing_fill", ["pixel", "", None, True]),
}


@pytest.mark.parametrize(
    ("number", "field", "value"),
    [
        pytest.param(number, field, value, id=f"{number} refuses {field} = {value!r}")
        for number, (field, values) in BROKEN.items()
        for value in values
    ],
)
def test_a_constraint_names_field_value_rule_and_number(
    number: str, field: str, value: Any
) -> None:
    with pytest.raises(SpecError) as caught:
        TrainingRecipe(**{field: value})
    error = caught.value
    assert (error.constraint, error.field) == (number, field)
    assert error.value is value
    assert str(error) == f"{field} = {value!r}, but should be {ALLOWED[number]} [{number}]"


@pytest.mark.parametrize(
    ("number", "field", "value"),
    [
        ("R4", "milestones", range(1, 1002)),
        ("R4", "milestones", itertools.count(1)),
        ("R10", "layer_rates", {str(n): 1.0 for n in range(1001)}),
    ],
)
def test_tables_without_end_are_refused(number: str, field: str, value: Any) -> None:
    with pytest.raises(SpecError, match=f"at most 1000 .*{number}"):
        TrainingRecipe(**{field: value})


def test_the_learning_rates_of_any_number_of_epochs_are_found_at_once() -> None:
    recipe = TrainingRecipe(epochs=2**31 - 1, milestones=(0.5, 0.75), learning_rate=1.0, gamma=0.5)
    assert [*recipe.learning_rates().values()] == [1.0, 0.5, 0.25]


@given(
    epochs=st.integers(1, 30),
    milestones=st.sets(st.integers(1, 40)) | st.sets(st.floats(0.01, 0.99)),
    gamma=st.sampled_from([1.0, 0.5, 1e-200]),
)
def test_learning_rates_are_those_of_the_epochs_at_which_they_change(
    epochs: int, milestones: set[float], gamma: float
) -> None:
    recipe = TrainingRecipe(epochs=epochs, milestones=tuple(sorted(milestones)), gamma=gamma)
    rates = [recipe.learning_rate_at(epoch) for epoch in range(epochs)]
    changes = {e: rate for e, rate in enumerate(rates) if not e or rate != rates[e - 1]}
    assert recipe.learning_rates() == changes


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"epochs": 5, "warmup_epochs": 5}, r"warmup_epochs = 5\.0.* fewer than all 5 .*R24"),
        ({"warmup_steps": 5}, r"warmup_steps = 5.* unless rate_per = 'step' \[R25\]"),
        ({"warmup_steps": 5, "warmup_epochs": 1, "rate_per": "step"}, r"0 with warmup_epochs"),
        ({"positive_weights": [1.0]}, r"none, unless loss = 'sigmoid' \[R30\]"),
        ({"class_weights": [1.0], "loss": "sigmoid"}, r"none, unless loss = 'softmax' \[R29\]"),
        ({"label_smoothing": 0.1, "loss": "squared"}, r"label_smoothing .* 0 of numbers \[R11\]"),
        ({"batch_size": 4, "accumulate": 5}, r"accumulate = 5.* at most batch_size = 4 \[R40\]"),
        ({"average_warmup": 9}, r"average_warmup = 9\.0.* 0 without an average \[R32\]"),
        ({"learning_rate": 0.1, "final_rate": 0.2}, r"at most learning_rate = 0\.1 \[R27\]"),
    ],
)
def test_fields_that_can_t_be_meant_together_are_refused(
    fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(SpecError, match=message):
        TrainingRecipe(**fields)


def test_an_average_takes_up_more_while_it_warms_up() -> None:
    recipe = TrainingRecipe(average=0.9, average_warmup=3)
    shares = [recipe.average_share(number) for number in (1, 2, 27, 28, 1000)]
    np.testing.assert_allclose(shares, [3 / 4, 3 / 5, 0.1, 0.1, 0.1])
    assert TrainingRecipe(average=0.9).average_share(1) == pytest.approx(0.1)
    with pytest.raises(ValueError, match="the recipe has no average"):
        TrainingRecipe().average_share(1)


def test_every_field_has_a_constraint_that_is_broken_here() -> None:
    ours = {number: field for number, (field, _) in BROKEN.items()}
    numbers = {field.metadata["constraint"]: field.name for field in FIELDS}
    assert ours == numbers
    assert list(ours) == [f"R{n}" for n in range(1, 43)]


@pytest.mark.parametrize(
    ("field", "given", "kept"),
    [
        pytest.param("milestones", [0.5, np.float64(0.75)], (0.5, 0.75), id="a list"),
        pytest.param("milestones", np.array([0.5]), (0.5,), id="an array"),
        pytest.param("milestones", [], (), id="no milestone"),
        pytest.param("milestones", [30, np.int64(60)], (30, 60), id="epochs"),
        pytest.param("layer_rates", {"b": 1, "a": 0.5}, (("a", 0.5), ("b", 1.0)), id="a table"),
        pytest.param("learning_rate", np.float64(0.5), 0.5, id="a numpy float"),
        pytest.param("learning_rate", 1000, 1000.0, id="the largest learning rate"),
        pytest.param("momentum", 0, 0.0, id="an integer for a number"),
        pytest.param("epochs", np.int64(3), 3, id="a numpy integer"),
    ],
)
def test_values_take_one_normal_form(field: str, given: Any, kept: Any) -> None:
    value = getattr(TrainingRecipe(**{field: given}), field)
    assert value == kept
    assert type(value) is type(kept)


def test_a_recipe_is_a_value() -> None:
    recipe = TrainingRecipe(milestones=[0.5])  # type: ignore[arg-type]
    assert recipe == TrainingRecipe(milestones=(0.5,))
    assert hash(recipe) == hash(TrainingRecipe(milestones=(0.5,)))
    assert pickle.loads(pickle.dumps(recipe)) == recipe
    with pytest.raises(dataclasses.FrozenInstanceError):
        recipe.epochs = 1  # type: ignore[misc]
