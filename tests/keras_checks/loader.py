"""Load ``.keras`` files in a process that did not make them: ``loader.py FOLDER NAME...``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np

folder, plain = Path(sys.argv[1]), sys.argv[2:]
batch = np.load(folder / "batch.npz")
report: dict[str, Any] = {}
outputs: dict[str, Any] = {}


def load(name: str) -> Any:
    return keras.saving.load_model(folder / f"{name}.keras")


def run(name: str) -> None:
    outputs[name] = load(name).predict(batch["x"], verbose=0)


for name in plain:
    run(name)
try:
    load("unbiased")
except (TypeError, ValueError) as error:
    report["without densespec"] = str(error)
report["densespec imported"] = any(name.startswith("densespec") for name in sys.modules)

from densespec_keras import BatchNormalization  # noqa: E402, F401  (Keras knows it from here on)

run("unbiased")
model = load("trained")
optimizer = model.optimizer
report["optimizer"] = {
    "class": f"{type(optimizer).__module__}.{type(optimizer).__name__}",
    "iterations": int(optimizer.iterations),
    "momentum": optimizer.momentum,
    "rate": float(optimizer.learning_rate),
}
for place, velocity in enumerate(optimizer.velocity):
    outputs[f"velocity {place}"] = keras.ops.convert_to_numpy(velocity)
history = model.fit(
    batch["x"], batch["labels"], batch_size=4, epochs=2, shuffle=False, verbose=0
).history
outputs["losses"] = history["loss"]
outputs["trained"] = model.predict(batch["x"], verbose=0)
np.savez(folder / "outputs.npz", **outputs)
(folder / "report.json").write_text(json.dumps(report), encoding="utf-8")
