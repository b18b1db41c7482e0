"""What is particular to the torch engine."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import densespec
from densespec_keras import prepared


def test_autograd_gives_the_gradients_of_the_native_backend(build: Any, images: Any) -> None:
    """Through unbiased norms too, and the running statistics with them."""
    model = build("preactivation")
    native = densespec.build(
        model.densespec.graph.spec, backend="torch.nn", weights=densespec.read_weights(model)
    )
    labels = torch.tensor([1, 0, 4])
    x = torch.from_numpy(images(3))
    losses = [
        torch.nn.functional.cross_entropy(logits.cpu(), labels)
        for logits in (native(x), model(x.movedim(1, -1), training=True))
    ]
    for loss in losses:
        loss.backward()  # type: ignore[no-untyped-call]
    np.testing.assert_allclose(losses[1].item(), losses[0].item(), rtol=1e-5)
    for keras_name, torch_name in (
        ("stem_norm.gamma", "features.norm0.weight"),
        ("stem_norm.beta", "features.norm0.bias"),
        ("block1_layer2_norm2.beta", "features.denseblock1.denselayer2.norm2.bias"),
        ("transition1_norm.gamma", "features.transition1.norm.weight"),
        ("classifier.bias", "classifier.bias"),
    ):
        layer, _, variable = keras_name.partition(".")
        gradient = getattr(model.get_layer(layer), variable).value.grad.cpu()
        expected = native.get_parameter(torch_name).grad
        scale = float(expected.abs().max())
        torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-4 * scale)
    ours, theirs = densespec.read_weights(native), densespec.read_weights(model)
    for name in ours:
        if ".running_" in name:
            np.testing.assert_allclose(theirs[name], ours[name], rtol=1e-4, atol=1e-6, err_msg=name)


# Mode "inference", by the program of torch.nn


def predicted(model: Any, x: Any) -> np.ndarray:
    with torch.no_grad():
        return np.array(model(x, training=False).cpu())


def by_steps(model: Any, x: Any) -> np.ndarray:
    """Compute it with what the variables hold: where gradients are wanted, nothing is kept."""
    return np.array(model(x, training=False).detach().cpu())


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Every program that is made."""
    programs: list[Any] = []
    program = prepared.Program

    def make(*args: Any, **options: Any) -> Any:
        programs.append(program(*args, **options))
        return programs[-1]

    monkeypatch.setattr(prepared, "Program", make)
    return programs


@pytest.mark.parametrize("network", ["preactivation", "same", "cifar"])
@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_inference_is_torch_nns_to_the_bit(
    network: str, data_format: Any, build: Any, images: Any
) -> None:
    model = build(network, mode="inference", data_format=data_format)
    native = densespec.optimize(
        densespec.build(
            model.densespec.graph.spec, backend="torch.nn", weights=densespec.read_weights(model)
        )
    )
    x = images(3)
    y = model.predict_on_batch(x if data_format == "channels_first" else np.moveaxis(x, 1, -1))
    with torch.no_grad():
        np.testing.assert_array_equal(y, native(torch.from_numpy(x)).numpy())


@pytest.mark.parametrize("dims", [1, 3])
def test_other_dimensions_are_prepared_too(dims: int, build: Any, made: list[Any]) -> None:
    model = build("preactivation", {"spatial_dims": dims}, mode="inference")
    x = torch.randn(2, *[24] * dims, 3)
    np.testing.assert_allclose(predicted(model, x), by_steps(model, x), rtol=1e-3, atol=1e-4)
    assert len(made) == 1


def halved(variable: Any) -> Any:
    return 0.5 * variable.value.detach()


def write_numpy(variable: Any) -> None:
    array = variable.value.detach().numpy()
    array *= 0.5


CHANGES: dict[str, Any] = {
    "assign": lambda layer, v: v.assign(halved(v)),
    "set_weights": lambda layer, v: layer.set_weights([0.5 * w for w in layer.get_weights()]),
    "in place": lambda layer, v: v.value.mul_(0.5),
    "data, in place": lambda layer, v: v.value.data.mul_(0.5),
    "other data": lambda layer, v: setattr(v.value, "data", halved(v)),
    "numpy": lambda layer, v: write_numpy(v),
    "a parameter of the module": lambda layer, v: next(layer.parameters()).data.zero_(),
    "a state": lambda layer, v: layer.load_state_dict(
        {name: 0.5 * value for name, value in layer.state_dict().items()}
    ),
    "another epsilon": lambda layer, v: setattr(layer, "epsilon", 0.7),
    "another variable": lambda layer, v: setattr(layer, "gamma", layer.beta),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_change_of_any_kind_counts_at_once(change: Any, build: Any, images: Any) -> None:
    model, x = build("preactivation", mode="inference"), torch.from_numpy(images()).movedim(1, -1)
    layer, before = model.get_layer("transition1_norm"), predicted(model, x)
    with torch.no_grad():
        change(layer, layer.gamma)
    after = predicted(model, x)
    assert np.abs(after - before).max() > 1e-3
    np.testing.assert_allclose(after, by_steps(model, x), rtol=1e-3, atol=1e-4)


def test_an_array_that_was_there_before_counts(build: Any, images: Any) -> None:
    model, x = build("cifar", mode="inference"), torch.from_numpy(images()).movedim(1, -1)
    arrays = [v.value.detach().numpy() for v in model.variables]
    before = predicted(model, x)
    for array in arrays:
        array *= 1.5
    after = predicted(model, x)
    assert np.abs(after - before).max() > 1e-3
    np.testing.assert_allclose(after, by_steps(model, x), rtol=1e-3, atol=1e-4)


def test_a_bias_that_is_taken_away_counts(build: Any, images: Any) -> None:
    model, x = build("cifar", mode="inference"), torch.from_numpy(images()).movedim(1, -1)
    before = predicted(model, x)
    model.get_layer("classifier").bias = None
    np.testing.assert_array_equal(predicted(model, x), by_steps(model, x))
    assert np.abs(predicted(model, x) - before).max() > 1e-3


def test_a_program_is_made_once(build: Any, images: Any, made: list[Any], tmp_path: Path) -> None:
    """Reading, and the same values again, need no other."""
    model = build("same", mode="inference", input_shape=(24, 32, 3))
    x = np.moveaxis(images(5), 1, -1)
    expected = model.predict(x, batch_size=2, verbose=0)
    model.save(tmp_path / "net.keras")
    model.set_weights(model.get_weights())
    np.testing.assert_array_equal(model.predict(x, batch_size=2, verbose=0), expected)
    by_steps(model, torch.from_numpy(x))
    np.testing.assert_array_equal(model.predict(x, batch_size=2, verbose=0), expected)
    densespec.get_backend("torch").forward(
        model, model.densespec.graph, images(2), ["block1", "classifier"]
    )
    assert len(made) == 1


def test_an_image_and_weights_have_gradients(build: Any, images: Any, made: list[Any]) -> None:
    model = build("preactivation", mode="inference")
    x = torch.from_numpy(images()).movedim(1, -1).requires_grad_()
    model(x, training=False).sum().backward()
    assert float(x.grad.abs().max()) > 0
    assert float(model.get_layer("stem_conv").kernel.value.grad.abs().max()) > 0
    assert made == []


def test_given_values_count_in_a_stateless_call(build: Any, images: Any) -> None:
    model, x = build("cifar", mode="inference"), torch.from_numpy(images()).movedim(1, -1)
    before = predicted(model, x)
    trainable = [0.5 * v.value.detach() for v in model.trainable_variables]
    others = [v.value.detach() for v in model.non_trainable_variables]
    with torch.no_grad():
        given, _ = model.stateless_call(trainable, others, x, training=False)
    np.testing.assert_array_equal(predicted(model, x), before)
    for variable, value in zip(model.trainable_variables, trainable, strict=True):
        variable.assign(value)
    np.testing.assert_array_equal(given.numpy(), predicted(model, x))


def test_a_quantised_classifier_is_no_plain_one(build: Any, images: Any) -> None:
    model, plain = (build("cifar", mode=mode) for mode in ("inference", "layers"))
    x = torch.from_numpy(images()).movedim(1, -1)
    for each in (model, plain):
        predicted(each, x)
        each.get_layer("classifier").quantize("int8")
    np.testing.assert_allclose(predicted(model, x), predicted(plain, x), rtol=1e-3, atol=1e-4)


def test_autocast_is_the_steps(build: Any, images: Any, made: list[Any]) -> None:
    model, x = build("cifar", mode="inference"), torch.from_numpy(images()).movedim(1, -1)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        model(x, training=False)
    assert made == []


def test_threads_share_a_program(build: Any, images: Any, made: list[Any]) -> None:
    model, x = build("cifar", mode="inference"), torch.from_numpy(images(4)).movedim(1, -1)
    with ThreadPoolExecutor(4) as pool:
        given = list(pool.map(lambda _: predicted(model, x), range(8)))
    for y in given:
        np.testing.assert_array_equal(y, given[0])
    assert len(made) == 1
