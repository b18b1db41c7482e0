"""What Keras saves, and what it makes of files written here; run by ``test_keras.py``.

``keras_side.py save FOLDER`` saves a model in every format, with its input, its output and its
variables. ``keras_side.py load FOLDER FILE...`` loads files into models with other weights, and
prints the largest difference of their outputs as JSON. Names begin with the type of one layer.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
from keras import layers
from keras.src.legacy.saving import legacy_h5_format

LAYERS = 12  # more than ten, so that names do not sort as they were made


def build(seed: int, half: str) -> Any:
    keras.utils.set_random_seed(seed)
    inner_input = keras.Input((8, 8, 4))
    inner = layers.Conv2D(4, 1, name="inner_conv")(inner_input)
    backbone = keras.Model(inner_input, layers.BatchNormalization()(inner), name="backbone")
    x = inputs = keras.Input((8, 8, 3))
    for n in range(LAYERS):
        x = layers.Conv2D(4, 3, padding="same", name=f"block_conv{n}", use_bias=n % 2 == 0)(x)
        x = layers.BatchNormalization(name=f"block_bn{n}")(x)
        x = layers.ReLU()(x)
    x = backbone(x)
    x = layers.GlobalAveragePooling2D()(x)
    x = layers.Dense(3, name="half", dtype=half)(x)
    x = layers.Dense(2, name="predictions", dtype="float32")(x)
    model = keras.Model(inputs, x, name="net")
    random = np.random.default_rng(seed)
    model.set_weights([random.uniform(0.1, 0.3, w.shape).astype("float32") for w in model.weights])
    return model


def compute(model: Any, folder: Path) -> np.ndarray:
    return keras.ops.convert_to_numpy(model(np.load(folder / "x.npy")))


def save(folder: Path) -> None:
    np.save(folder / "x.npy", np.random.default_rng(0).standard_normal((2, 8, 8, 3), np.float32))
    for half in ("bfloat16", "float32"):  # Keras can't read bfloat16 from a legacy file
        model = build(0, half)
        np.save(folder / f"{half}-y.npy", compute(model, folder))
        weights = {w.path: keras.ops.convert_to_numpy(w.value) for w in model.weights}
        np.savez(folder / f"{half}-expected.npz", **weights)
        if half == "bfloat16":
            model.save_weights(folder / "bfloat16.weights.h5")
            model.save(folder / "bfloat16.keras")
        else:
            model.save(folder / "float32-whole.h5")
            with h5py.File(folder / "float32.h5", "w") as file:
                legacy_h5_format.save_weights_to_hdf5_group(file, model)


def load(folder: Path, names: list[str]) -> None:
    found = {}
    for name in names:
        half = "bfloat16" if "bfloat16" in name else "float32"
        if name.endswith("whole.h5"):
            model = keras.models.load_model(folder / name, compile=False)
        else:
            model = build(1, half)
            model.load_weights(folder / name)
        found[name] = float(
            np.abs(compute(model, folder) - np.load(folder / f"{half}-y.npy")).max()
        )
    print(json.dumps(found))


if __name__ == "__main__":
    if sys.argv[1] == "save":
        save(Path(sys.argv[2]))
    else:
        load(Path(sys.argv[2]), sys.argv[3:])
