"""Types and policies: by name, as an object, and as Keras's global policy."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

import densespec
from densespec_keras import SGD

POLICIES = {
    "float32": ("float32", "float32", 1e-5),
    "bfloat16": ("bfloat16", "bfloat16", 0.1),
    "float16": ("float16", "float16", 0.02),
    "mixed_bfloat16": ("bfloat16", "float32", 0.1),
    "mixed_float16": ("float16", "float32", 0.02),
}


def check(model: Any, policy: str, x: np.ndarray, expected: np.ndarray, run: Any) -> None:
    """Computes and stores in the policy's types, and the right thing."""
    compute, store, bound = POLICIES[policy]
    assert {layer.compute_dtype for layer in model.layers[1:]} == {compute}
    stored = {keras.backend.standardize_dtype(v.dtype) for v in model.variables}
    assert stored == {store}
    assert keras.backend.standardize_dtype(model(x).dtype) == compute
    error = np.abs(run(model, x) - expected).max() / np.abs(expected).max()
    assert error < bound


@pytest.mark.parametrize("policy", POLICIES)
def test_a_policys_name_sets_what_layers_compute_and_store(
    policy: str, build: Any, images: Any, reference: Any, run: Any
) -> None:
    model = build("preactivation", dtype=policy)
    check(model, policy, np.moveaxis(images(), 1, -1), reference(model)(images()), run)


def test_keras_global_policy_holds_unless_a_type_is_given(
    build: Any, images: Any, reference: Any, run: Any
) -> None:
    keras.config.set_dtype_policy("mixed_bfloat16")
    for dtype, effective in ((None, "mixed_bfloat16"), ("float32", "float32")):
        model = build("same", dtype=dtype)
        check(model, effective, np.moveaxis(images(), 1, -1), reference(model)(images()), run)


def test_a_policy_object_goes_too(build: Any) -> None:
    model = build("cifar", dtype=keras.DTypePolicy("mixed_bfloat16"))
    assert model.get_layer("stem_conv").compute_dtype == "bfloat16"


def test_what_is_no_policy_is_refused(engine: str) -> None:
    with pytest.raises(ValueError, match="float33"):
        densespec.build("densenet-40-12", backend=engine, dtype="float33")


@pytest.mark.parametrize("mode", ["layers", "fast", "efficient"])
@pytest.mark.parametrize("policy", [name for name in POLICIES if name != "float32"])
def test_fit_works_in_low_precision(policy: str, mode: str, build: Any, images: Any) -> None:
    """mixed_float16 wraps the optimizer in Keras's loss scaling."""
    model = build("cifar", dtype=policy, mode=mode)
    before = densespec.read_weights(model)
    model.compile(SGD(0.05), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    x = np.moveaxis(images(8, 8, 8), 1, -1)
    history = model.fit(x, np.arange(8) % 4, batch_size=4, epochs=1, verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    after = densespec.read_weights(model)
    assert all(np.isfinite(array).all() for array in after.values())
    moved = [name for name in after if name.endswith((".kernel", ".running_variance"))]
    assert [name for name in moved if (after[name] == before[name]).all()] == []
