"""A trained network with another head."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest

import densespec
from densespec.errors import UnknownName, WeightsError, WeightsWarning
from densespec.network.graph import lower
from densespec.network.initial import initial_weights
from tests.strategies import tiny

SPEC = tiny(classes=7)


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    path = tmp_path / "trained.safetensors"
    densespec.save(densespec.build(SPEC, backend="numpy", seed=5), path)
    return path


def _transfer(trained: Path, **options: object) -> object:
    defaults = {"classes": 3, "backend": "numpy", "weights": trained}
    return densespec.transfer(**(defaults | options))  # type: ignore[arg-type]


@pytest.mark.parametrize("head_units", [(), (6,), (6, 5)])
def test_the_body_is_the_trained_one_and_the_head_is_new(
    trained: Path, head_units: tuple[int, ...]
) -> None:
    model = _transfer(trained, head_units=head_units, seed=9)
    spec = SPEC.replace(classes=3, head_units=head_units)
    body = initial_weights(lower(SPEC, include_top=False), 5)
    head = initial_weights(lower(spec), 9)
    for name, array in densespec.read_weights(model).items():
        np.testing.assert_array_equal(array, body.get(name, head[name]))
    assert model.densespec.graph.spec == spec  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("head_units", "part", "first"),
    [
        pytest.param((), "head", "classifier", id="a new classifier"),
        pytest.param((6,), "head", "head1.dense", id="a new head"),
        pytest.param((6,), "block1", "block1.layer1.norm1", id="fine-tuning"),
        pytest.param((6,), None, None, id="everything"),
    ],
)
def test_what_trains_is_the_head_unless_told_otherwise(
    trained: Path, head_units: tuple[int, ...], part: str | None, first: str | None
) -> None:
    model = _transfer(trained, head_units=head_units, trainable_from=part)
    assert model.densespec.graph.trainable_from == first  # type: ignore[attr-defined]


def test_a_spec_may_be_given_where_the_weights_do_not_tell_it() -> None:
    weights = initial_weights(lower(SPEC), 5)
    model = densespec.transfer(SPEC, classes=3, backend="numpy", weights=weights)
    kernel = densespec.read_weights(model)["stem.conv.kernel"]
    np.testing.assert_array_equal(kernel, weights["stem.conv.kernel"])


def test_weights_of_another_body_are_refused(trained: Path) -> None:
    with pytest.raises(WeightsError, match="growth_rate is"):
        _transfer(trained, spec=SPEC.replace(growth_rate=SPEC.growth_rate + 1))


def test_a_transferred_network_saves_and_loads(trained: Path, tmp_path: Path) -> None:
    model = _transfer(trained, head_units=(6,))
    densespec.save(model, tmp_path / "new.safetensors")
    again = densespec.build(backend="numpy", weights=tmp_path / "new.safetensors")
    for name, array in densespec.read_weights(model).items():
        np.testing.assert_array_equal(densespec.read_weights(again)[name], array)


def test_training_may_go_on_from_another_part(trained: Path) -> None:
    model = _transfer(trained)
    finer = densespec.train_from(model, "block1")
    assert finer.densespec.graph.trainable_from == "block1.layer1.norm1"
    assert densespec.train_from(finer, None).densespec.graph.trainable_from is None
    assert model.densespec.graph.trainable_from == "classifier"  # type: ignore[attr-defined]
    for name, array in densespec.read_weights(model).items():
        np.testing.assert_array_equal(densespec.read_weights(finer)[name], array)


# A new head by ``classes`` alone


@pytest.mark.parametrize("form", ["a file", "arrays", "a model"])
def test_other_classes_start_a_new_head_and_keep_the_rest(trained: Path, form: str) -> None:
    model = densespec.build(backend="numpy", weights=trained)
    weights = {"a file": trained, "arrays": densespec.read_weights(model), "a model": model}[form]
    spec = SPEC.replace(classes=3)
    with pytest.warns(WeightsWarning, match=r"head is new, since .*: classifier\.kernel, class"):
        new = densespec.build(SPEC, backend="numpy", weights=weights, classes=3, seed=9)
    fresh = initial_weights(lower(spec), 9)
    body = densespec.build(SPEC, backend="numpy", weights=trained, include_top=False)
    for name, array in densespec.read_weights(new).items():
        kept = densespec.read_weights(body).get(name, fresh[name])
        np.testing.assert_array_equal(array, kept)


def test_weights_without_a_classifier_get_one_of_as_many_classes_as_are_asked_for(
    tmp_path: Path,
) -> None:
    headless = densespec.build(SPEC, backend="numpy", include_top=False)
    densespec.save(headless, tmp_path / "body.safetensors")
    with pytest.warns(WeightsWarning, match="the head is new"):
        model = densespec.build(backend="numpy", weights=tmp_path / "body.safetensors", classes=3)
    assert model.densespec.graph.output.channels == 3


def test_as_many_classes_as_the_weights_have_keep_their_head(trained: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = densespec.build(backend="numpy", weights=trained, classes=7)
    kept = initial_weights(lower(SPEC), 5)["classifier.kernel"]
    np.testing.assert_array_equal(densespec.read_weights(model)["classifier.kernel"], kept)


def test_a_new_head_gives_logits_whatever_followed_the_old_one() -> None:
    old = densespec.build(SPEC, backend="numpy", classifier_activation="softmax")
    with pytest.warns(WeightsWarning):
        model = densespec.build(backend="numpy", weights=old, classes=3)
    assert model.densespec.graph.gives_logits


def test_another_spec_is_no_wish_for_a_new_head(trained: Path) -> None:
    with pytest.raises(WeightsError, match=r"classes is 7 there, but 3 here; .*classes=3\) and"):
        densespec.build(SPEC.replace(classes=3), backend="numpy", weights=trained)


def test_an_unknown_part_is_refused(trained: Path) -> None:
    with pytest.raises(UnknownName, match="part of the network"):
        _transfer(trained, trainable_from="heads")
