"""Models that users change after they have built them: never the spec's network in silence."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import keras
import numpy as np
import pytest

import densespec
from densespec import DenseNetSpec
from densespec.errors import DensespecError, ModelChanged, WeightsError

SPEC = DenseNetSpec(
    blocks=(1, 2),
    growth_rate=3,
    bottleneck_width=2,
    compression=0.5,
    stem_kind="conv-norm-relu",
    stem_pool=3,
    classes=4,
    dropout_rate=0.1,
)
MODES = ("layers", "fast", "efficient", "inference")
layers_and_fused = pytest.mark.parametrize(
    "mode", [pytest.param("layers", marks=pytest.mark.full), "fast"]
)
X = np.random.default_rng(1).standard_normal((2, 24, 24, 3)).astype("float32")

Change = Callable[[Any], Any]
"""It changes a model, or makes another of its layers and gives that."""


class Squared(keras.layers.ReLU):
    def call(self, x: Any) -> Any:
        return x * x


def set_all(attribute: str, value: float) -> Change:
    def change(model: Any) -> None:
        for layer in model.layers:
            if hasattr(layer, attribute):
                setattr(layer, attribute, value)

    return change


def set_one(layer: str, attribute: str, value: Any) -> Change:
    return lambda model: setattr(model.get_layer(layer), attribute, value)


def head(*layers: Callable[[], Any], on: str = "global_pool") -> Change:
    def change(model: Any) -> Any:
        y = model.get_layer(on).output
        for make in layers:
            y = make()(y)
        return keras.Model(model.input, y)

    return change


def dense(units: int, activation: str | None = None) -> Callable[[], Any]:
    return lambda: keras.layers.Dense(units, activation=activation)


def reassign(model: Any) -> None:
    for variable in model.weights:
        if variable.dtype == "float32":
            variable.assign(variable * 1.1 + 0.01)


def within_another(model: Any) -> Any:
    return keras.Sequential([keras.Input((None, None, 3)), model])


SAYABLE: Mapping[str, Change] = {
    "another number of classes": head(dense(7)),
    "a hidden layer and a softmax": head(dense(5, "relu"), dense(3, "softmax")),
    "an activation at the end": set_one("classifier", "activation", keras.activations.sigmoid),
    "layers behind the model": lambda model: keras.Model(
        model.input, keras.layers.Softmax()(model.output)
    ),
    "dropout before the classifier": head(lambda: keras.layers.Dropout(0.5), dense(3)),
    "no bias": head(lambda: keras.layers.Dense(3, use_bias=False)),
    "no classifier": lambda model: keras.Model(model.input, model.get_layer("final_relu").output),
    "a model within another": within_another,
    "another epsilon": set_all("epsilon", 0.01),
    "another momentum": set_all("momentum", 0.7),
    "another rate": set_all("rate", 0.4),
    "no dropout": set_all("rate", 0.0),
    "other values": reassign,
}
"""What a spec can say, by what the change is."""

REFUSED: Mapping[str, tuple[str, Change]] = {
    "a leaky ReLU": ("final_relu", set_one("final_relu", "negative_slope", 0.3)),
    "an ELU": ("dense", head(dense(5, "elu"), dense(3))),
    "a ReLU at the end": (
        "classifier",
        set_one("classifier", "activation", keras.activations.relu),
    ),
    "another pool": ("transition1_pool", set_one("transition1_pool", "strides", (1, 1))),
    "a pool over more": ("stem_pool", set_one("stem_pool", "pool_size", (2, 2))),
    "one epsilon": (
        "block2_layer1_norm2",
        set_one("block2_layer1_norm2", "epsilon", 0.5),
    ),
    "one rate": ("block2_layer1_dropout1", set_one("block2_layer1_dropout1", "rate", 0.7)),
    "a maximum for an average": (
        "transition1_pool",
        set_one("transition1_pool", "pool_mode", "max"),
    ),
    "another convolution": (
        "block1_layer1_conv1",
        set_one(
            "block1_layer1_conv1", "convolution_op", lambda x, kernel: 2 * keras.ops.conv(x, kernel)
        ),
    ),
    "another class": ("final_relu", set_one("final_relu", "__class__", Squared)),
    "no bias": ("classifier", set_one("classifier", "bias", None)),
    "another call": ("final_relu", set_one("final_relu", "call", lambda x: 2 * x)),
    "dropout early in the head": (
        "dropout",
        head(lambda: keras.layers.Dropout(0.5), dense(5, "relu"), dense(3)),
    ),
    "a norm in the head": ("batch_normalization", head(keras.layers.BatchNormalization, dense(3))),
    "rescaling": (
        "rescaling",
        lambda model: keras.Sequential(
            [keras.Input((24, 24, 3)), keras.layers.Rescaling(2.0), model]
        ),
    ),
}
"""What none can say, by what the change is: the name that the refusal has, and the change."""


def built(mode: str, seed: int = 0) -> Any:
    return densespec.build(SPEC, backend=keras.config.backend(), mode=mode, seed=seed)


def changed(mode: str, *changes: Change, seed: int = 0) -> Any:
    keras.utils.clear_session(free_memory=False)  # which numbers layers from the start again
    model = built(mode, seed)
    for change in changes:
        keras.utils.set_random_seed(seed)
        model = change(model) or model
    return model


def outputs(model: Any) -> np.ndarray:
    return np.array(keras.ops.convert_to_numpy(model(X, training=False)))


def assert_close(actual: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=1e-5)


def assert_refused(model: Any, part: str, folder: Path) -> None:
    """A model that has lost its origin is refused as one, by the same part."""
    for make in (
        densespec.optimize,
        lambda model: densespec.save(model, folder / "net.safetensors"),
        lambda model: densespec.save_pretrained(model, folder / "folder"),
        lambda model: densespec.export(model, folder / "net.onnx"),
        lambda model: densespec.push_to_hub(model, "user/net"),
    ):
        with pytest.raises((ModelChanged, WeightsError), match=part):
            make(model)
    assert not list(folder.iterdir())


@layers_and_fused
@pytest.mark.parametrize("change", SAYABLE.values(), ids=SAYABLE)
def test_what_a_spec_can_say_is_carried_over(mode: str, change: Change, tmp_path: Path) -> None:
    model, expected = changed(mode, change), outputs(changed("layers", change))
    assert_close(outputs(model), expected)
    other = "inference" if mode == "layers" else "layers"
    made = densespec.in_mode(model, other)
    assert_close(outputs(made), expected)
    densespec.save(model, tmp_path / "net.safetensors")
    saved = densespec.build(
        weights=tmp_path / "net.safetensors",
        backend=keras.config.backend(),
        include_top=expected.ndim == 2,
        classifier_activation=made.densespec.graph.classifier_activation,
    )
    assert_close(outputs(saved), expected)


@layers_and_fused
@pytest.mark.parametrize(("part", "change"), REFUSED.values(), ids=REFUSED)
def test_the_rest_is_refused_by_name(
    mode: str, part: str, change: Change, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", ModuleType("huggingface_hub"))
    model, plain = changed(mode, change), changed("layers", change)
    assert_close(outputs(model), outputs(plain))
    assert_refused(model, part, tmp_path)


@pytest.mark.parametrize("seed", range(8))
def test_several_changes_at_random(seed: int, tmp_path: Path) -> None:
    draw = random.Random(seed)
    names = draw.sample(sorted(SAYABLE), 2) + draw.sample(sorted(REFUSED), draw.randrange(2))
    draw.shuffle(names)
    changes = [SAYABLE[name] if name in SAYABLE else REFUSED[name][1] for name in names]
    mode = draw.choice(MODES)
    try:
        plain = changed("layers", *changes, seed=seed)
    except (AttributeError, ValueError):
        return  # one change leaves nothing for another to change
    model = changed(mode, *changes, seed=seed)
    assert_close(outputs(model), outputs(plain))
    try:
        made = densespec.optimize(model)
    except DensespecError:
        return  # together, such changes may be more than a spec can say
    assert_close(outputs(made), outputs(plain))


def test_a_change_counts_after_calls_too() -> None:
    for mode in MODES:
        model = built(mode)
        outputs(model)
        assert mode == "layers" or model.is_fused()
        model.get_layer("final_relu").negative_slope = 0.3
        plain = changed("layers", REFUSED["a leaky ReLU"][1])
        assert_close(outputs(model), outputs(plain))


def test_an_export_is_of_the_changed_model(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    model = changed("layers", SAYABLE["another epsilon"], head(dense(5, "relu"), dense(3)))
    result = densespec.export(model, tmp_path / "net.onnx")
    assert result.measured is not None
    assert result.graph.spec.batch_norm_epsilon == 0.01
    assert (result.graph.spec.head_units, result.graph.spec.classes) == ((5,), 3)


def test_an_export_is_checked_against_the_given_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime")
    from densespec_keras import inspecting

    model = changed("layers", REFUSED["a leaky ReLU"][1])
    monkeypatch.setattr(inspecting, "graph_of", lambda _model, graph: graph)
    with pytest.raises(DensespecError, match="given model differs"):
        densespec.export(model, tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())


# State


def test_types_and_what_trains_are_kept() -> None:
    model = densespec.build(SPEC, backend=keras.config.backend(), dtype="mixed_bfloat16")
    model.get_layer("classifier").dtype_policy = keras.DTypePolicy("float32")
    for name in ("block1_layer1_conv1", "final_norm"):
        model.get_layer(name).trainable = False
    model.get_layer("stem_conv").kernel.regularizer = keras.regularizers.L2(0.1)
    turned = densespec.in_mode(model, "fast")
    for layer in model.layers:
        other = turned.get_layer(layer.name)
        assert (other.dtype_policy.name, other.trainable) == (
            layer.dtype_policy.name,
            layer.trainable,
        )
        for own, theirs in zip(other.weights, layer.weights, strict=True):
            assert (own.trainable, own.regularizer) == (theirs.trainable, theirs.regularizer)
    assert len(turned.losses) == len(model.losses) == 1


def test_a_policy_that_was_global_is_kept() -> None:
    keras.config.set_dtype_policy("bfloat16")
    model = built("layers")
    keras.config.set_dtype_policy("float32")
    made = densespec.optimize(model)
    assert {layer.dtype_policy.name for layer in made.layers[1:]} == {"bfloat16"}


def test_a_loaded_model_needs_no_telling(tmp_path: Path) -> None:
    model = changed("fast", SAYABLE["other values"])
    model.save(tmp_path / "net.keras")
    loaded = keras.saving.load_model(tmp_path / "net.keras")
    weights = densespec.read_weights(loaded)
    for name, array in densespec.read_weights(model).items():
        np.testing.assert_array_equal(weights[name], array, err_msg=name)
    assert type(densespec.in_mode(loaded, "efficient")).__name__ == "Efficient"


def test_what_is_no_network_of_a_spec_says_why() -> None:
    with pytest.raises(WeightsError, match="the model: it states a model without conv"):
        densespec.read_weights(keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]))
