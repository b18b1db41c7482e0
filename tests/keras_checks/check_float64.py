"""Float64 that is float64 all the way: a part in 1e13, where float32 would give 1e-7."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

import densespec
from densespec.backends import get_backend
from densespec_keras import float64


def largest_error(actual: np.ndarray, expected: np.ndarray) -> float:
    """Relative to the largest value; some gradients are zero but for rounding."""
    assert actual.dtype == np.float64
    return float(np.abs(actual - expected).max() / max(np.abs(expected).max(), 1e-2))


@pytest.mark.parametrize("network", ["preactivation", "same", "cifar"])
def test_inference_keeps_float64_in_every_op(
    network: str, engine: str, build: Any, images: Any, reference: Any
) -> None:
    model = build(network, dtype="float64", classifier_activation="softmax")
    graph, x = model.densespec.graph, images().astype("float64")
    taps = [node.name for node in graph.nodes[1:]]
    actual = get_backend(engine).forward(model, graph, x, taps)
    expected = reference(model).run(x, taps=taps)
    errors = {name: largest_error(actual[name], expected[name]) for name in taps}
    assert {name: error for name, error in errors.items() if error > 1e-13} == {}


def test_training_keeps_float64_in_every_op(
    engine: str, build: Any, images: Any, reference: Any
) -> None:
    model = build("preactivation", dtype="float64")
    arbiter, recipe = reference(model), densespec.TrainingRecipe()
    trainer = get_backend(engine).trainer(model, model.densespec.graph, recipe)
    x, labels = images(4).astype("float64"), np.array([0, 3, 1, 4])
    for rate in (0.1, 0.01):
        theirs = trainer.step(x, labels, learning_rate=rate)
        ours = arbiter.train_step(x, labels, recipe, learning_rate=rate)
        assert theirs.loss == pytest.approx(ours.loss, rel=1e-12)
        for name, gradient in ours.gradients.items():
            assert largest_error(theirs.gradients[name], gradient) < 1e-10, name
    for name, array in densespec.read_weights(model).items():
        assert largest_error(array, arbiter.weights[name]) < 1e-10, name


def test_the_global_policy_is_enough(build: Any, images: Any, reference: Any, run: Any) -> None:
    keras.config.set_dtype_policy("float64")
    keras.config.set_floatx("float64")
    model = build("same")
    x = images().astype("float64")
    actual = run(model, np.moveaxis(x, 1, -1))
    assert largest_error(actual, reference(model)(x)) < 1e-13


def test_other_types_promote_as_before(engine: str) -> None:
    float64.keep_float64()
    promote = keras.backend.result_type
    assert promote("float32", "float64") == promote("float64", "float64") == "float64"
    assert promote("bfloat16", "float32") == promote("float32", "int32") == "float32"
    assert promote("float16", "bfloat16") == "float32"
    assert promote("float32", float) == "float32"
    assert promote("int64") == ("int64" if engine == "tensorflow" else "int32")


def test_a_keras_that_promotes_elsewhere_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(f"{float64.DTYPES_MODULE}.BIT64_TO_BIT32_DTYPE")
    with pytest.raises(RuntimeError, match=r"use backend='torch\.nn'"):
        float64.keep_float64()
