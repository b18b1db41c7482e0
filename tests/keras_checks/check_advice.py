"""Advice in errors of Keras's backends can be followed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest

import densespec
from densespec import DenseNetSpec, TrainingRecipe
from densespec.backends import get_backend
from densespec_keras import SGD, optimizer_of, training_state

SPEC = DenseNetSpec(blocks=(1, 1), growth_rate=2, classes=3, dropout_rate=0.1)
RECIPE = TrainingRecipe(epochs=1, batch_size=2)
ADAM = RECIPE.replace(optimizer="adam")
ENGINE = keras.config.backend()
OTHER = "jax" if ENGINE != "jax" else "torch"


def built(**options: Any) -> Any:
    return densespec.build(SPEC, backend=ENGINE, **options)


def compiled(optimizer: Any, *, freeze: bool = False, again: bool = False) -> Any:
    model = built()
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    if freeze:
        model.optimizer.build(model.trainable_variables)
        model.get_layer("stem_conv").trainable = False
    if again:
        model.compile(optimizer_of(RECIPE), model.loss)
    return training_state(model, RECIPE)


def trainer(**options: Any) -> Any:
    model = built(**options)
    return get_backend(model.densespec.backend).trainer(model, model.densespec.graph, RECIPE)


def masked(count: int) -> Any:
    model = built()
    graph = model.densespec.graph
    found = get_backend(ENGINE).trainer(model, graph, RECIPE)
    names = [node.name for node in graph.dropouts][:count]
    masks = {name: np.ones((2, graph[name].channels, 1, 1)) for name in names}
    x = np.zeros((2, 3, 8, 8), np.float32)
    return found.step(x, np.array([0, 1]), learning_rate=0.1, masks=masks)


ROWS: list[tuple[str, Callable[[], Any], Callable[[], Any]]] = [
    (
        f"build with backend={ENGINE!r}",
        lambda: densespec.build(SPEC, backend=OTHER),
        lambda: densespec.build(SPEC, backend=ENGINE),
    ),
    (
        f"or start a new process with KERAS_BACKEND={OTHER}",
        lambda: densespec.build(SPEC, backend=OTHER),
        lambda: in_new_process(),
    ),
    (
        "should be 'channels_first' or 'channels_last'",
        lambda: built(data_format="channels"),
        lambda: (built(data_format="channels_first"), built(data_format="channels_last")),
    ),
    (
        "give weight_decay for L2 decay",
        lambda: SGD(decay=0.1),
        lambda: SGD(weight_decay=0.1),
    ),
    (
        "optimizer_of(recipe) gives the one of any recipe",
        lambda: SGD.from_recipe(ADAM),
        lambda: optimizer_of(ADAM),
    ),
    (
        "compile with densespec_keras.optimizer_of(recipe)",
        lambda: compiled(keras.optimizers.SGD()),
        lambda: compiled(optimizer_of(RECIPE)),
    ),
    (
        "compile it again first",
        lambda: compiled(optimizer_of(RECIPE), freeze=True),
        lambda: compiled(optimizer_of(RECIPE), freeze=True, again=True),
    ),
    (
        "build it with its classifier and without classifier_activation",
        lambda: trainer(classifier_activation="softmax"),
        lambda: trainer(),
    ),
    ("give one for each, or none", lambda: masked(1), lambda: (masked(3), masked(0))),
    ("build without mode='inference'", lambda: trainer(mode="inference"), lambda: trainer()),
]


def in_new_process() -> None:
    code = f"import densespec; densespec.build('densenet-40-12', backend={OTHER!r})"
    environment = os.environ | {"KERAS_BACKEND": OTHER}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)


@pytest.mark.parametrize(
    ("advice", "mistake", "followed"), [pytest.param(*row, id=row[0][:60]) for row in ROWS]
)
def test_advice_can_be_followed(
    advice: str, mistake: Callable[[], Any], followed: Callable[[], Any]
) -> None:
    with pytest.raises((ValueError, RuntimeError), match=re.escape(advice)):
        mistake()
    followed()
