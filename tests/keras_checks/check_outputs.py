"""Models that give the values of several parts: in both layouts, in every mode, trained, saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import densespec
from densespec import DenseNetSpec
from densespec.errors import ModelChanged

ENGINE = keras.backend.backend()
SPEC = DenseNetSpec(
    blocks=(2, 1, 2),
    growth_rate=4,
    bottleneck_width=2,
    compression=0.5,
    stem_kind="conv-norm-relu",
    stem_width="2k",
    stem_kernel=7,
    stem_stride=2,
    stem_pool=3,
)
OUTPUTS = ("block2", "stem", "block1", "final", "global_pool")
MODES = ("layers", "fast", "efficient", "inference")
WITHIN: dict[str, Any] = {"rtol": 1e-3, "atol": 1e-4}


def built(mode: str = "layers", **options: Any) -> Any:
    return densespec.build(
        SPEC, backend=ENGINE, mode=mode, outputs=OUTPUTS, **({"dtype": "float32"} | options)
    )


def given_by(model: Any, x: np.ndarray, last: bool) -> list[np.ndarray]:
    """What a model gives for a channels-first input, channels first."""
    values = model.predict_on_batch(np.moveaxis(x, 1, -1) if last else x)
    assert isinstance(values, list | tuple)
    return [np.moveaxis(value, -1, 1) if last else value for value in values]


def assert_close(ours: list[np.ndarray], theirs: list[np.ndarray]) -> None:
    for own, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(own, other, **WITHIN)


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize("mode", MODES)
def test_outputs_are_the_references(mode: str, data_format: Any, images: Any) -> None:
    model = built(mode, data_format=data_format)
    expected = densespec.build(SPEC, backend="numpy", outputs=OUTPUTS)(images())
    assert_close(given_by(model, images(), data_format == "channels_last"), list(expected))
    assert [m.stride for m in densespec.feature_maps(model)] == [8, 2, 4, 16, None]


@pytest.mark.parametrize("mode", ["fast", "efficient"])
def test_a_step_by_all_outputs_is_that_of_the_layers(mode: str, images: Any) -> None:
    after = []
    for each in (mode, "layers"):
        model = built(each, data_format="channels_last")
        x = np.moveaxis(images(), 1, -1)
        aims = [np.ones(value.shape, "float32") for value in model.predict_on_batch(x)]
        model.compile(optimizer=keras.optimizers.SGD(0.1), loss=["mse"] * len(aims))
        model.train_on_batch(x, aims)
        after.append(densespec.read_weights(model))
    for name, array in after[0].items():
        np.testing.assert_allclose(array, after[1][name], err_msg=name, **WITHIN)


@pytest.mark.parametrize("mode", ["layers", "fast", "inference"])
def test_a_saved_model_gives_the_same(mode: str, images: Any, tmp_path: Path) -> None:
    model = built(mode, data_format="channels_last")
    model.save(tmp_path / "net.keras")
    again = keras.saving.load_model(tmp_path / "net.keras")
    assert_close(given_by(again, images(), True), given_by(model, images(), True))
    turned = densespec.in_mode(model, "layers")
    assert_close(given_by(turned, images(), True), given_by(model, images(), True))


@pytest.mark.parametrize("mode", [pytest.param("layers", marks=pytest.mark.full), "fast"])
@pytest.mark.parametrize(
    ("attribute", "value", "field"),
    [
        ("epsilon", 0.01, "batch_norm_epsilon"),
        ("momentum", 0.7, "batch_norm_momentum"),
        ("rate", 0.4, "dropout_rate"),
        ("rate", 0.0, "dropout_rate"),
    ],
)
def test_what_a_spec_can_say_of_a_changed_model_is_carried_over(
    mode: str, attribute: str, value: float, field: str, images: Any, tmp_path: Path
) -> None:
    def changed(mode: str) -> Any:
        spec = SPEC.replace(dropout_rate=0.2)
        model = densespec.build(spec, backend=ENGINE, mode=mode, outputs=OUTPUTS, dtype="float32")
        for layer in model.layers:
            if hasattr(layer, attribute):
                setattr(layer, attribute, value)
        return model

    last = keras.config.image_data_format() == "channels_last"
    model, expected = changed(mode), given_by(changed("layers"), images(), last)
    assert_close(given_by(model, images(), last), expected)
    assert_close(given_by(densespec.optimize(model), images(), last), expected)
    densespec.save(model, tmp_path / "net.safetensors")
    saved = densespec.build(weights=tmp_path / "net.safetensors", backend=ENGINE)
    assert_close(given_by(saved, images(), last), expected)
    said = getattr(saved.densespec.graph.spec, field)
    assert said == pytest.approx(1 - value if attribute == "momentum" else value)
    if ENGINE == "jax" and attribute == "epsilon":
        done = densespec.export(model, tmp_path / "net.stablehlo")
        assert done.measured is not None
        assert done.measured.difference < 1e-5


@pytest.mark.parametrize("mode", ["layers", "fast"])
def test_what_no_spec_says_of_a_changed_model_is_refused(mode: str, tmp_path: Path) -> None:
    model = built(mode)
    model.get_layer("block1_layer2_norm1").epsilon = 0.5
    with pytest.raises(ModelChanged, match="block1_layer2_norm1"):
        densespec.save(model, tmp_path / "net.safetensors")
    assert not list(tmp_path.iterdir())


def test_an_export_is_checked_in_every_output(tmp_path: Path) -> None:
    names = {"tensorflow": ["net"], "jax": ["net.stablehlo", "net.mlir"]}
    for name in names.get(ENGINE, ["net.onnx"]):
        done = densespec.export(built(), tmp_path / name)
        assert done.measured is not None
        assert done.measured.difference < 1e-5
