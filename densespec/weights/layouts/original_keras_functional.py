"""Names arrays as the functional Keras original of ``densenet169-bc``: its layers lie elsewhere."""

from __future__ import annotations

from dataclasses import replace

from densespec.weights.layouts import original_keras

LAYOUT = replace(
    original_keras.LAYOUT,
    name="original-keras-functional",
    about="the Keras original of densenet169-bc made functional",
    containers=("keras-weights", "keras"),
    keys=original_keras.keys("layers/"),
    claims=original_keras.claims("layers/"),
    evidence=original_keras.evidence("layers/"),
)
