"""What ``build`` gives: functional models with readable names, in either layout, with any head."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import densespec
from densespec.backends import get_backend
from densespec.errors import EngineConflict

HEADS = {
    "classifier": {},
    "features": {"include_top": False},
    "avg": {"include_top": False, "pooling": "avg"},
    "max": {"include_top": False, "pooling": "max"},
    "softmax": {"classifier_activation": "softmax"},
}
layouts = pytest.mark.parametrize("data_format", ["channels_first", "channels_last"])


def ordered(x: np.ndarray, data_format: str) -> np.ndarray:
    """Channels-first maps in a layout; what has no maps as it is."""
    return np.moveaxis(x, 1, -1) if data_format == "channels_last" and x.ndim > 2 else x


def test_the_first_build_put_keras_on_the_engine(engine: str) -> None:
    assert keras.config.backend() == engine


def test_another_engine_is_refused_with_what_to_do(engine: str) -> None:
    for other in {"tensorflow", "torch", "jax"} - {engine}:
        with pytest.raises(EngineConflict) as error:
            densespec.build("densenet121", backend=other)
        assert f"Keras already runs on {engine!r}" in str(error.value)
        assert f"backend={engine!r}" in str(error.value)
        assert f"KERAS_BACKEND={other}" in str(error.value)
        assert keras.config.backend() == engine


def test_networks_may_be_deeper_than_python_calls_functions(engine: str) -> None:
    """Keras goes from layer to layer by recursion."""
    before = sys.getrecursionlimit()
    depth = len(inspect.stack())
    spec = densespec.DenseNetSpec(
        blocks=(400,), growth_rate=1, bottleneck_width=None, stem_width=2, classes=2
    )
    try:
        sys.setrecursionlimit(depth + 300)
        model = densespec.build(spec, backend=engine)
        assert sys.getrecursionlimit() == depth + 300
    finally:
        sys.setrecursionlimit(before)
    assert model.output_shape == (None, 2)


def test_models_are_functional_and_their_layers_have_readable_names(build: Any) -> None:
    model = build("preactivation")
    assert isinstance(model, keras.models.Model)
    assert type(model).__name__ == "Functional"
    assert [layer.name for layer in model.layers] == [
        "input",
        "stem_norm",
        "stem_relu",
        "stem_conv_pad",
        "stem_conv",
        "stem_pool",
        *layer_names("block1_layer1"),
        "block1_concat1",
        *layer_names("block1_layer2"),
        "block1_concat2",
        "transition1_norm",
        "transition1_relu",
        "transition1_conv",
        "transition1_pool",
        *layer_names("block2_layer1"),
        "block2_concat1",
        "global_pool",
        "classifier",
    ]


def layer_names(part: str) -> list[str]:
    return [f"{part}_{kind}{place}" for place in (1, 2) for kind in ("norm", "relu", "conv")]


def test_layers_are_keras_own_but_for_unbiased_norms(build: Any) -> None:
    for layer in build("same").layers:
        assert type(layer).__module__.startswith("keras."), layer.name
    foreign = {
        type(layer).__name__
        for layer in build("preactivation").layers
        if not type(layer).__module__.startswith("keras.")
    }
    assert foreign == {"BatchNormalization"}


def test_the_summary_names_every_layer_and_counts_every_parameter(build: Any) -> None:
    model = build("preactivation", input_shape=(32, 32, 3))
    lines: list[str] = []
    model.summary(line_length=120, print_fn=lines.append)
    text = "\n".join(lines)
    assert all(layer.name in text for layer in model.layers)
    count = model.densespec.graph.parameters
    assert f"Total params: {count.total:,}" in text
    assert f"Trainable params: {count.trainable:,}" in text
    assert "(None, 16, 16, 8)" in text


@layouts
@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
@pytest.mark.parametrize("network", ["preactivation", "same"])
def test_every_head_in_every_layout_computes_the_reference(
    network: str, head: dict[str, Any], data_format: str, build: Any, images: Any, reference: Any,
    run: Any,
) -> None:  # fmt: skip
    model = build(network, data_format=data_format, **head)
    expected = ordered(reference(model)(images(2, 25, 32)), data_format)
    actual = run(model, ordered(images(2, 25, 32), data_format))
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


@layouts
def test_taps_are_channels_first_whatever_the_layout(
    data_format: str, engine: str, build: Any, images: Any, reference: Any
) -> None:
    model = build("preactivation", data_format=data_format, include_top=False)
    graph = model.densespec.graph
    taps = ["stem.conv", "stem_pool", "block1.concat1", graph.output.name]
    actual = get_backend(engine).forward(model, graph, images(), taps)
    expected = reference(model).run(images(), taps=taps)
    assert actual.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_allclose(actual[name], array, rtol=1e-4, atol=1e-5, err_msg=name)


@layouts
def test_the_layout_is_keras_own_setting_unless_given(data_format: str, build: Any) -> None:
    keras.config.set_image_data_format(data_format)
    shapes = {"channels_first": (None, 3, None, None), "channels_last": (None, None, None, 3)}
    assert build("cifar").input_shape == shapes.pop(data_format)
    ((other, shape),) = shapes.items()
    assert build("cifar", data_format=other).input_shape == shape


@layouts
def test_the_input_shape_is_in_the_models_layout(data_format: str, build: Any) -> None:
    shape = ordered(np.empty((1, 2, 24, 32)), data_format).shape[1:]
    model = build("preactivation", data_format=data_format, input_shape=shape)
    assert model.input_shape == (None, *shape)
    assert model.get_layer("stem_conv").kernel.shape[2] == 2
    with pytest.raises(ValueError, match="shape"):
        model(np.zeros((1, *shape[::-1]), "float32"))


def test_without_an_input_shape_any_size_goes(build: Any, images: Any, run: Any) -> None:
    model = build("same")
    for height, width in ((24, 32), (25, 33)):
        x = ordered(images(1, height, width), "channels_last")
        fixed = build("same", input_shape=(height, width, 3))
        np.testing.assert_allclose(run(model, x), run(fixed, x), rtol=1e-5, atol=1e-6)


def test_too_small_an_input_is_an_error(build: Any, images: Any, run: Any) -> None:
    with pytest.raises(densespec.DensespecError, match="nothing is left of it at"):
        build("preactivation", input_shape=(4, 4, 3))


def test_classes_name_and_activation_are_as_asked(build: Any, images: Any, run: Any) -> None:
    model = build("cifar", classes=7, name="mine", classifier_activation="softmax")
    assert (model.name, model.output_shape) == ("mine", (None, 7))
    x = ordered(images(), "channels_last")
    np.testing.assert_allclose(run(model, x).sum(axis=1), 1, rtol=1e-5)


def test_a_model_is_named_for_its_spec(engine: str, build: Any, tmp_path: Path) -> None:
    model = build("cifar")
    assert model.name == "densenet"
    densespec.write_spec(model.densespec.graph.spec, tmp_path / "small.toml")
    assert densespec.build(tmp_path / "small.toml", backend=engine).name == "small"


def test_a_layout_that_does_not_exist_is_refused(engine: str) -> None:
    with pytest.raises(ValueError, match="data_format = 'NHWC', but should be 'channels_first'"):
        densespec.build("densenet121", backend=engine, data_format="NHWC")  # type: ignore[arg-type]


@layouts
def test_weights_go_in_and_come_out_bit_for_bit(
    data_format: str, engine: str, build: Any, tmp_path: Path
) -> None:
    model = build("preactivation", data_format=data_format)
    weights = densespec.read_weights(model)
    densespec.save(model, tmp_path / "net.safetensors")
    other = densespec.build(
        model.densespec.graph.spec, backend=engine, weights=tmp_path / "net.safetensors"
    )
    for name, array in densespec.read_weights(other).items():
        np.testing.assert_array_equal(array, weights[name], err_msg=name)
    for name, shape in ((weight.name, weight.shape) for weight in model.densespec.graph.weights):
        assert weights[name].shape == shape


def test_a_clone_draws_weights_of_its_own_as_wide(engine: str) -> None:
    spec = densespec.DenseNetSpec(blocks=(1,), growth_rate=16, classes=100)
    model = densespec.build(spec, backend=engine)
    clone = keras.models.clone_model(model)
    for name in ("stem_conv", "block1_layer1_conv1", "classifier"):
        ours, theirs = (
            np.array(keras.ops.convert_to_numpy(each.get_layer(name).kernel))
            for each in (model, clone)
        )
        assert not np.array_equal(ours, theirs), name
        np.testing.assert_allclose(theirs.std(), ours.std(), rtol=0.2, err_msg=name)


def test_inner_features_can_be_taken_out_by_name(build: Any, images: Any, run: Any) -> None:
    model = build("preactivation")
    inner = keras.Model(model.input, model.get_layer("block1_concat2").output)
    assert run(inner, ordered(images(), "channels_last")).shape == (2, 6, 8, 16)
