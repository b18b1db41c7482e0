"""The named recipes, and recipe files."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

import densespec
from densespec.errors import SpecError, UnknownName
from densespec.network.files import SpecFileError, from_json, from_toml, to_json, to_toml
from densespec.recipes.presets import presets
from densespec.recipes.recipe import TrainingRecipe
from tests.strategies import tiny

PUBLISHED: dict[str, dict[str, Any]] = {
    "cifar": {"epochs": 300, "batch_size": 64, "drops": (150, 225), "dropout_rate": 0.2},
    "cifar+": {"epochs": 300, "batch_size": 64, "drops": (150, 225), "augmentation": "cifar"},
    "imagenet": {"epochs": 90, "batch_size": 256, "drops": (30, 60), "augmentation": "imagenet"},
    "densenet169-bc": {"epochs": 40, "batch_size": 64, "drops": (20, 30)},
}
FULL = TrainingRecipe(layer_rates={"block4": 0.1}, dropout_rate=0.2, milestones=(3, 4))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_recipes_are_as_published(name: str) -> None:
    recipe, expected = densespec.get_recipe(name), dict(PUBLISHED[name])
    rates = [recipe.learning_rate_at(epoch) for epoch in range(recipe.epochs)]
    drops = tuple(e for e in range(1, recipe.epochs) if rates[e] < rates[e - 1])
    assert drops == expected.pop("drops")
    assert {field: getattr(recipe, field) for field in expected} == expected
    assert (recipe.learning_rate, recipe.momentum, recipe.nesterov) == (0.1, 0.9, True)
    assert recipe.weight_decay == 1e-4


def test_the_scripts_recipe_of_torchvision_does_not_look_ahead() -> None:
    recipe, papers = densespec.get_recipe("torchvision"), densespec.get_recipe("imagenet")
    assert recipe.replace(nesterov=True) == papers
    assert not recipe.nesterov


def test_recipes_along_a_cosine_come_down_to_nothing() -> None:
    paper = densespec.get_recipe("densenet264-k48")
    rates = [paper.learning_rate_at(epoch) for epoch in (0, 45, 89)]
    assert rates == pytest.approx([0.1, 0.05, 0.1 * (1 + math.cos(math.pi * 89 / 90)) / 2])
    fine = densespec.get_recipe("fine-tune")
    assert fine.rate_of_step(100, 100) == fine.learning_rate == 3e-4
    assert fine.rate_of_step(0, 100) == pytest.approx(3e-6)
    assert fine.rate_of_step(1999, 100) < 1e-8


def test_timms_recipe_is_its_documented_command() -> None:
    recipe = densespec.get_recipe("timm-densenet121-ra_in1k")
    rates = [recipe.learning_rate_at(epoch) for epoch in (0, 3, 449)]
    assert rates == pytest.approx([1e-6, 0.016 * 0.97, 0.016 * 0.97 ** (449 // 2.4)])
    assert (recipe.optimizer, recipe.beta2, recipe.epsilon) == ("rmsprop", 0.9, 0.001)
    assert (recipe.rand_augment, recipe.erasing_fill, recipe.average) == (2, "noise", 0.9999)
    assert "no numbers" in presets()["timm-densenet121-ra_in1k"].source


def test_every_named_recipe_says_what_it_is_for() -> None:
    assert all(preset.about and preset.source for preset in presets().values())


def test_a_recipe_is_found_by_name_file_or_itself(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    densespec.write_recipe(FULL, path)
    assert densespec.get_recipe(FULL) is FULL
    assert densespec.get_recipe(path) == densespec.get_recipe(str(path)) == FULL
    assert densespec.get_recipe("cifar") == presets()["cifar"].recipe


def test_an_unknown_name_is_refused_with_a_suggestion() -> None:
    with pytest.raises(UnknownName, match="Did you mean cifar"):
        densespec.get_recipe("cifr")
    with pytest.raises(TypeError, match="a recipe is a recipe's name, a TrainingRecipe or"):
        densespec.get_recipe(3)  # type: ignore[arg-type]


def test_files_keep_every_field() -> None:
    assert from_toml(to_toml(FULL), TrainingRecipe) == FULL
    assert from_json(to_json(FULL), TrainingRecipe) == FULL


def test_errors_name_the_file_and_the_field(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("epochs = 0")
    with pytest.raises(SpecFileError, match=r"mine\.toml: epochs = 0, but should be .* \[R1\]"):
        densespec.read_recipe(path)
    with pytest.raises(SpecFileError, match="a recipe file ends in"):
        densespec.read_recipe(tmp_path / "mine.yaml")


def test_a_recipe_may_replace_the_dropout_rate_of_a_spec() -> None:
    spec = tiny(dropout_rate=0.5)
    assert TrainingRecipe().applied_to(spec) == spec
    assert TrainingRecipe(dropout_rate=0.0).applied_to(spec).dropout_rate == 0.0


@pytest.mark.parametrize(
    ("name", "factor"),
    [
        pytest.param("stem.conv.kernel", 1.0, id="named nowhere"),
        pytest.param("block4.layer1.conv1.kernel", 0.1, id="in a named block"),
        pytest.param("block4.layer2.conv1.kernel", 0.5, id="the longest name counts"),
        pytest.param("block40.layer1.conv1.kernel", 1.0, id="names are whole parts"),
        pytest.param("classifier.bias", 0.0, id="an array of a named node"),
    ],
)
def test_learning_rates_by_part(name: str, factor: float) -> None:
    rates = {"block4": 0.1, "block4.layer2": 0.5, "classifier": 0}
    recipe = TrainingRecipe(layer_rates=rates)  # type: ignore[arg-type]
    assert recipe.rate_factor_of(name) == factor


def test_a_negative_rate_is_refused() -> None:
    with pytest.raises(SpecError, match="R10"):
        TrainingRecipe(layer_rates={"block4": -0.1})  # type: ignore[arg-type]
