"""A DenseNet trained on handwritten digits with Keras's own ``fit``, then used for another task.

    KERAS_BACKEND=jax python examples/keras_training.py out/keras

Takes scikit-learn's digits (1,797 real images of 8x8). First it trains by a recipe, with Keras's
callbacks; then it goes on from the file of the second epoch and arrives at the same network; then
it freezes the network and trains a new head on it. Needs ``densespec[jax,data]``, or
``tensorflow`` or ``torch`` for ``jax``.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np

import densespec
from densespec import DenseNetSpec, TrainingRecipe, data
from densespec_keras import SGD, loss_of

SPEC = DenseNetSpec(
    blocks=(3, 3, 3),
    growth_rate=12,
    bottleneck_width=4,
    compression=0.5,
    in_channels=1,
    classes=10,
    stem_width="2k",
)
RECIPE = TrainingRecipe(epochs=6, batch_size=64)  # SGD, 0.1, drops at half and three quarters


def train(folder: Path, recipe: TrainingRecipe = RECIPE, spec: DenseNetSpec = SPEC) -> Any:
    """Train by the recipe, and leave a file of every epoch and a log."""
    digits = data.load("digits")
    batches = data.Batches.for_training(digits, recipe)
    model = densespec.build(spec, backend=keras.config.backend(), input_shape=(8, 8, 1))
    model.compile(SGD.from_recipe(recipe), loss_of(recipe), metrics=["accuracy"])
    model.fit(
        batches.as_keras_dataset(),
        steps_per_epoch=batches.steps_per_epoch,
        epochs=recipe.epochs,
        shuffle=False,  # the recipe's seed has done it
        validation_data=data.Batches.for_test(digits).as_keras_dataset(),
        callbacks=[
            keras.callbacks.LearningRateScheduler(recipe.learning_rate_at),
            keras.callbacks.ModelCheckpoint(folder / "{epoch}.keras"),
            keras.callbacks.CSVLogger(folder / "log.csv"),
        ],
        verbose=2,
    )
    return model


def go_on(path: Path, epochs_done: int, recipe: TrainingRecipe = RECIPE) -> Any:
    """Train the rest of the recipe from a file of the run: weights and momentum are in it."""
    batches = data.Batches.for_training(data.load("digits"), recipe)
    model = keras.saving.load_model(path)
    model.fit(
        batches.as_keras_dataset(start_step=epochs_done * batches.steps_per_epoch),
        steps_per_epoch=batches.steps_per_epoch,
        initial_epoch=epochs_done,
        epochs=recipe.epochs,
        shuffle=False,  # the recipe's seed has done it
        callbacks=[keras.callbacks.LearningRateScheduler(recipe.learning_rate_at)],
        verbose=0,
    )
    return model


def transfer(trained: Any, epochs: int = 3) -> Any:
    """Tell even digits from odd ones with a new head on the network as it is."""
    batches = list(data.Batches.for_training(data.load("digits"), RECIPE).epoch(0))
    images = np.moveaxis(np.concatenate([x for x, _ in batches]), 1, -1)
    odd = np.concatenate([labels for _, labels in batches]) % 2
    backbone = densespec.build(
        SPEC,
        backend=keras.config.backend(),
        include_top=False,
        input_shape=(8, 8, 1),
        weights=densespec.read_weights(trained),
    )
    backbone.trainable = False
    image = keras.Input((8, 8, 1))
    pooled = keras.layers.GlobalAveragePooling2D()(backbone(image))
    hidden = keras.layers.Dense(64, activation="relu")(pooled)
    model = keras.Model(image, keras.layers.Dense(2, activation="softmax")(hidden))
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(images, odd, epochs=epochs, batch_size=64, verbose=2)
    return model


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    model = train(folder)
    same = go_on(folder / "2.keras", epochs_done=2)
    pairs = zip(model.get_weights(), same.get_weights(), strict=True)
    apart = max(float(np.abs(ours - theirs).max()) for ours, theirs in pairs)
    print(f"gone on from epoch 2, the weights differ by at most {apart:.1e}")
    transfer(model)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(f"KERAS_BACKEND={os.environ.get('KERAS_BACKEND', 'jax')} {sys.argv[0]} FOLDER")
    main(Path(sys.argv[1]))
