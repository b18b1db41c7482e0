"""The native torch.nn backend, as PyTorch's users use their modules."""

from __future__ import annotations

import copy
import io
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import densespec
from densespec import DenseNetSpec
from densespec.backends import get_backend

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
nn, functional = torch.nn, torch.nn.functional

TORCHVISION = DenseNetSpec(
    blocks=(2, 2),
    growth_rate=4,
    bottleneck_width=2,
    compression=0.5,
    classes=5,
    stem_kind="conv-norm-relu",
    stem_width="2k",
    stem_kernel=7,
    stem_stride=2,
    stem_pool=3,
)
PREACTIVATION = TORCHVISION.replace(
    stem_kind="norm-relu-conv",
    conv_bias=True,
    final_norm=False,
    dropout_rate=0.2,
    dropout_place="every-conv",
)
KERAS = TORCHVISION.replace(padding="same", running_variance="biased")
CIFAR = DenseNetSpec(blocks=(2, 1), growth_rate=3, classes=4)

NETWORKS = {
    "torchvision-like": TORCHVISION,
    "preactivation": PREACTIVATION,
    "keras-like": KERAS,
    "cifar": CIFAR,
}
every_network = pytest.mark.parametrize("spec", NETWORKS.values(), ids=NETWORKS)
training_or_inference = pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])


def build(spec: Any, **options: Any) -> Any:
    return densespec.build(spec, backend="torch.nn", **options)


def images(count: int = 2, size: int = 32, dtype: Any = None) -> Any:
    generator = torch.Generator().manual_seed(7)
    return torch.randn(count, 3, size, size, generator=generator).to(dtype or torch.float32)


def randomised(model: Any) -> Any:
    """The same model with every array random, running statistics included."""
    generator = torch.Generator().manual_seed(11)
    for name, tensor in model.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 2, generator=generator)
        elif tensor.is_floating_point():
            tensor.add_(torch.randn(tensor.shape, generator=generator) / 4)
    return model


def loss_of(model: Any, x: Any) -> Any:
    return functional.cross_entropy(model(x).float(), torch.arange(len(x)) % 4)


def assert_same_state(one: Any, other: Any) -> None:
    states = one.state_dict(), other.state_dict()
    assert list(states[0]) == list(states[1])
    assert [name for name in states[0] if not torch.equal(states[0][name], states[1][name])] == []


# Names and shapes


def torchvision_state(blocks: tuple[int, ...], growth: int, stem: int) -> dict[str, Any]:
    """Keys and shapes of torchvision's state_dict, by torchvision's own rule, in its order."""
    state: dict[str, tuple[int, ...]] = {}

    def norm(name: str, channels: int) -> None:
        for leaf in ("weight", "bias", "running_mean", "running_var"):
            state[f"features.{name}.{leaf}"] = (channels,)
        state[f"features.{name}.num_batches_tracked"] = ()

    state["features.conv0.weight"] = (stem, 3, 7, 7)
    norm("norm0", stem)
    channels = stem
    for block, layers in enumerate(blocks, start=1):
        for layer in range(1, layers + 1):
            name = f"denseblock{block}.denselayer{layer}"
            norm(f"{name}.norm1", channels)
            state[f"features.{name}.conv1.weight"] = (4 * growth, channels, 1, 1)
            norm(f"{name}.norm2", 4 * growth)
            state[f"features.{name}.conv2.weight"] = (growth, 4 * growth, 3, 3)
            channels += growth
        if block < len(blocks):
            norm(f"transition{block}.norm", channels)
            state[f"features.transition{block}.conv.weight"] = (channels // 2, channels, 1, 1)
            channels //= 2
    norm("norm5", channels)
    return state | {"classifier.weight": (1000, channels), "classifier.bias": (1000,)}


TORCHVISION_NETWORKS = {  # blocks, growth rate, stem width, keys as counted in torchvision 0.28
    "densenet121": ((6, 12, 24, 16), 32, 64, 727),
    "densenet161": ((6, 12, 36, 24), 48, 96, 967),
    "densenet169": ((6, 12, 32, 32), 32, 64, 1015),
    "densenet201": ((6, 12, 48, 32), 32, 64, 1207),
}


@pytest.mark.parametrize("name", TORCHVISION_NETWORKS)
def test_state_dict_has_torchvisions_keys_and_shapes_in_its_order(name: str) -> None:
    blocks, growth, stem, keys = TORCHVISION_NETWORKS[name]
    expected = torchvision_state(blocks, growth, stem)
    assert len(expected) == keys
    state = build(name).state_dict()
    assert list(state) == list(expected)
    assert {key: tuple(tensor.shape) for key, tensor in state.items()} == expected


def test_modules_are_standard_ones_where_a_torchvision_user_looks_for_them() -> None:
    model = build(TORCHVISION)
    kinds = {
        "features.conv0": nn.Conv2d,
        "features.norm0": nn.BatchNorm2d,
        "features.relu0": nn.ReLU,
        "features.pool0": nn.MaxPool2d,
        "features.denseblock1.denselayer1.norm1": nn.BatchNorm2d,
        "features.denseblock1.denselayer1.relu1": nn.ReLU,
        "features.denseblock1.denselayer1.conv1": nn.Conv2d,
        "features.denseblock2.denselayer2.conv2": nn.Conv2d,
        "features.transition1.norm": nn.BatchNorm2d,
        "features.transition1.relu": nn.ReLU,
        "features.transition1.conv": nn.Conv2d,
        "features.transition1.pool": nn.AvgPool2d,
        "features.norm5": nn.BatchNorm2d,
        "classifier": nn.Linear,
    }
    assert {name: type(model.get_submodule(name)) for name in kinds} == kinds
    assert isinstance(model, nn.Module)


def test_nothing_works_in_place() -> None:
    for spec in NETWORKS.values():
        modules = build(spec).named_modules()
        assert [name for name, module in modules if getattr(module, "inplace", False)] == []


def test_another_classifier_can_be_put_in() -> None:
    model = build(TORCHVISION).eval()
    model.classifier = nn.Linear(model.classifier.in_features, 9)
    assert model(images()).shape == (2, 9)


def test_features_come_out_without_the_top() -> None:
    x = images()
    features = build(TORCHVISION, include_top=False).eval()(x)
    assert features.shape == (2, 16, 4, 4)
    for pooling, expected in (("avg", features.mean((2, 3))), ("max", features.amax((2, 3)))):
        pooled = build(TORCHVISION, include_top=False, pooling=pooling).eval()(x)
        torch.testing.assert_close(pooled, expected)


# State


@every_network
def test_state_dict_loads_strictly_into_a_fresh_network(spec: DenseNetSpec, tmp_path: Path) -> None:
    model = randomised(build(spec))
    torch.save(model.state_dict(), tmp_path / "model.pt")
    other = build(spec, seed=1)
    other.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True), strict=True)
    assert_same_state(model, other)
    assert torch.equal(model.eval()(images()), other.eval()(images()))


@every_network
def test_weights_go_in_and_come_out_bit_for_bit(spec: DenseNetSpec, tmp_path: Path) -> None:
    model = randomised(build(spec))
    weights = densespec.read_weights(model)
    other = build(spec, weights=weights)
    assert_same_state(model, other)
    densespec.save(model, tmp_path / "net.safetensors")
    third = build(spec, seed=1)
    densespec.load_weights(third, tmp_path / "net.safetensors")
    assert_same_state(model, third)
    assert densespec.read_weights(third).keys() == weights.keys()
    for name, array in densespec.read_weights(third).items():
        np.testing.assert_array_equal(array, weights[name], err_msg=name)


def test_float64_weights_keep_every_digit() -> None:
    model = build(TORCHVISION, dtype="float64")
    weights = {
        name: array + 1e-12 * np.arange(array.size).reshape(array.shape)
        for name, array in densespec.read_weights(model).items()
    }
    densespec.load_weights(model, weights)
    for name, array in densespec.read_weights(model).items():
        np.testing.assert_array_equal(array, weights[name], err_msg=name)


def test_arrays_that_were_read_are_copies() -> None:
    model = build(CIFAR)
    before = copy.deepcopy(model)
    for array in densespec.read_weights(model).values():
        array += 1
    assert_same_state(model, before)


def test_arrays_that_were_written_are_copied() -> None:
    weights = densespec.read_weights(build(CIFAR))
    model = build(CIFAR, weights=weights)
    before = copy.deepcopy(model)
    for array in weights.values():
        array += 1
    assert_same_state(model, before)


def test_loading_keeps_the_parameters_an_optimizer_holds() -> None:
    model = build(CIFAR)
    held = dict(model.named_parameters())
    densespec.load_weights(model, densespec.read_weights(build(CIFAR, seed=1)))
    assert all(parameter is held[name] for name, parameter in model.named_parameters())


def test_weights_of_a_compiled_model_are_those_of_the_model() -> None:
    model = build(CIFAR)
    compiled = torch.compile(model)
    weights = densespec.read_weights(compiled)
    assert weights.keys() == densespec.read_weights(model).keys()
    densespec.load_weights(compiled, {name: array + 1 for name, array in weights.items()})
    np.testing.assert_array_equal(
        densespec.read_weights(model)["stem.conv.kernel"], weights["stem.conv.kernel"] + 1
    )


@every_network
def test_every_parameter_can_be_trained(spec: DenseNetSpec) -> None:
    model = build(spec)
    assert model.training
    assert [name for name, p in model.named_parameters() if not p.requires_grad] == []
    loss_of(model, images()).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


# Copies


def through_pickle(model: Any) -> Any:
    return pickle.loads(pickle.dumps(model))


def through_torch_save(model: Any) -> Any:
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


@every_network
@pytest.mark.parametrize(
    "copied", [copy.deepcopy, through_pickle, through_torch_save], ids=lambda f: f.__name__
)
def test_a_copy_is_the_same_network_and_knows_its_origin(
    spec: DenseNetSpec, copied: Any, tmp_path: Path
) -> None:
    model = randomised(build(spec)).eval()
    twin = copied(model)
    assert torch.equal(twin(images()), model(images()))
    assert twin.densespec == model.densespec
    densespec.save(twin, tmp_path / "twin.safetensors")
    assert_same_state(build(spec, weights=tmp_path / "twin.safetensors"), model)
    with torch.no_grad():
        twin.classifier.weight.zero_()
    assert bool(model.classifier.weight.any()), "the copy shares memory with the original"


# Hooks


def watch(model: Any) -> list[tuple[str, Any, Any]]:
    """Hook every module: gives a list that fills with (name, tensor as seen, copy of it)."""
    seen: list[tuple[str, Any, Any]] = []

    def hook(name: str) -> Any:
        def keep(_module: Any, inputs: tuple[Any, ...], output: Any) -> None:
            seen.extend((f"{name} in", x, x.detach().clone()) for x in inputs)
            seen.append((f"{name} out", output, output.detach().clone()))

        return keep

    for name, module in model.named_modules():
        module.register_forward_hook(hook(name))
    return seen


@every_network
@training_or_inference
def test_what_forward_hooks_see_never_changes_afterwards(
    spec: DenseNetSpec, training: bool
) -> None:
    model = build(spec).train(training)
    seen = watch(model)
    loss_of(model, images()).backward()
    assert len(seen) > 2 * len(list(model.modules())) - 1
    assert [name for name, kept, clone in seen if not torch.equal(kept, clone)] == []


@every_network
def test_full_backward_hooks_see_gradients_and_change_none(spec: DenseNetSpec) -> None:
    spec = spec.replace(dropout_rate=0.0)
    plain, hooked = build(spec), build(spec)
    gradients: dict[str, Any] = {}

    def hook(name: str) -> Any:
        return lambda _module, _into, out: gradients.update({name: out[0]})

    for name, module in hooked.named_modules():
        module.register_full_backward_hook(hook(name))
    for model in (plain, hooked):
        loss_of(model, images().requires_grad_()).backward()
    assert gradients.keys() == {name for name, _ in hooked.named_modules()}
    assert [name for name, gradient in gradients.items() if gradient is None] == []
    expected = {name: p.grad for name, p in plain.named_parameters()}
    for name, parameter in hooked.named_parameters():
        assert torch.equal(parameter.grad, expected[name]), name


def test_grad_cam_through_hooks_gives_the_classifiers_weights() -> None:
    """Behind the last ReLU there is a mean and a linear layer, whose gradient is known."""
    model = randomised(build(TORCHVISION)).eval()
    kept: dict[str, Any] = {}
    model.relu.register_forward_hook(lambda _m, _x, y: kept.update(activation=y.detach()))
    model.relu.register_full_backward_hook(lambda _m, _x, y: kept.update(gradient=y[0]))
    model(images(1))[0, 3].backward()
    assert kept["activation"].shape == kept["gradient"].shape == (1, 16, 4, 4)
    expected = model.classifier.weight[3].detach()[None, :, None, None] / 16
    torch.testing.assert_close(kept["gradient"], expected.expand(1, 16, 4, 4))


# Compilers


@pytest.fixture
def dynamo() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def whole_graph(model: Any) -> Any:
    return torch.compile(model, fullgraph=True, backend="aot_eager")


@pytest.mark.usefixtures("dynamo")
@pytest.mark.parametrize("spec", [TORCHVISION, KERAS], ids=["torchvision-like", "keras-like"])
def test_compiles_as_one_graph_for_inference_and_training(spec: DenseNetSpec) -> None:
    model, x = build(spec), images()
    eager = copy.deepcopy(model)
    compiled = whole_graph(model)
    for each in (eager, compiled):
        optimizer = torch.optim.SGD(each.parameters(), lr=0.1)
        loss_of(each, x).backward()
        optimizer.step()
    for name, tensor in eager.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], tensor, msg=name)
    eager.eval()
    compiled.eval()
    torch.testing.assert_close(compiled(x), eager(x))


@pytest.mark.parametrize(
    ("spec", "strict"),
    [(TORCHVISION, True), (PREACTIVATION, False)],
    ids=["torchvision-like, strict", "preactivation, non-strict"],
)
def test_exports_with_any_batch_and_size(spec: DenseNetSpec, strict: bool) -> None:
    model = randomised(build(spec)).eval()
    batch, height, width = (torch.export.Dim(name, min=16, max=512) for name in ("n", "h", "w"))
    sizes = {"x": {0: batch, 2: height, 3: width}}
    exported = torch.export.export(model, (images(16),), dynamic_shapes=sizes, strict=strict)
    for x in (images(16), images(17, 47), images(18, 96)):
        torch.testing.assert_close(exported.module()(x), model(x))


def test_exports_same_padding_at_one_size() -> None:
    model = randomised(build(KERAS)).eval()
    exported = torch.export.export(model, (images(2, 33),))
    torch.testing.assert_close(exported.module()(images(2, 33)), model(images(2, 33)))


def test_can_be_traced_symbolically() -> None:
    model = randomised(build(TORCHVISION)).eval()
    traced = torch.fx.symbolic_trace(model)
    assert torch.equal(traced(images(1, 40)), model(images(1, 40)))


# Layouts and types


@every_network
def test_channels_last_memory_gives_the_same_numbers(spec: DenseNetSpec) -> None:
    model = randomised(build(spec)).eval()
    expected = model(images())
    weights = densespec.read_weights(model)
    model.to(memory_format=torch.channels_last)
    actual = model(images().to(memory_format=torch.channels_last))
    torch.testing.assert_close(actual, expected)
    for name, array in densespec.read_weights(model).items():
        np.testing.assert_array_equal(array, weights[name], err_msg=name)
    densespec.load_weights(model, weights)
    assert model.features.conv0.weight.is_contiguous(memory_format=torch.channels_last)


@every_network
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_runs_and_trains_in_the_type_asked_for(spec: DenseNetSpec, dtype: str) -> None:
    kind = getattr(torch, dtype)
    model = build(spec, dtype=dtype)
    floating = [tensor for tensor in model.state_dict().values() if tensor.is_floating_point()]
    assert {tensor.dtype for tensor in floating} == {kind}
    y = model.eval()(images(dtype=kind))
    assert y.dtype == kind
    expected = densespec.build(spec, backend="numpy")(images().double().numpy())
    error = np.abs(y.detach().double().numpy() - expected).max() / np.abs(expected).max()
    assert error < {"float32": 1e-5, "float64": 1e-13, "bfloat16": 0.05}[dtype]
    loss_of(model.train(), images(dtype=kind)).backward()
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters())


def test_the_default_type_is_pytorchs() -> None:
    torch.set_default_dtype(torch.float64)
    try:
        assert build(CIFAR).classifier.weight.dtype == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    assert build(CIFAR).classifier.weight.dtype == torch.float32


def test_the_default_device_is_pytorchs() -> None:
    with torch.device("meta"):
        model = build(CIFAR)
    assert {value.device.type for value in model.state_dict().values()} == {"meta"}


@pytest.mark.parametrize("dtype", ["int32", "float33", "relu"])
def test_other_types_are_refused_by_name(dtype: str) -> None:
    with pytest.raises(ValueError, match=f"dtype = '{dtype}', but should be a floating-point"):
        build(CIFAR, dtype=dtype)


def test_channels_last_input_is_refused_and_the_memory_layout_named() -> None:
    with pytest.raises(ValueError, match=r"model\.to\(memory_format=torch\.channels_last\)"):
        build(CIFAR, data_format="channels_last")


# Training and inference mode


@every_network
def test_inference_mode_leaves_every_array_as_it_is(spec: DenseNetSpec) -> None:
    model = randomised(build(spec)).eval()
    before = copy.deepcopy(model)
    model(images())
    assert_same_state(model, before)


def test_a_frozen_norm_keeps_its_statistics_while_the_rest_trains() -> None:
    for spec in (TORCHVISION, KERAS):
        model = build(spec)
        frozen = model.features.denseblock1.eval()
        loss_of(model, images()).backward()
        assert not bool(frozen.denselayer1.norm1.running_mean.any())
        assert bool(model.features.norm5.running_mean.any())


@pytest.mark.parametrize("running_variance", ["unbiased", "biased"])
def test_running_statistics_move_by_the_formula(running_variance: str) -> None:
    spec = PREACTIVATION.replace(running_variance=running_variance, batch_norm_momentum=0.3)
    model = build(spec, dtype="float64")
    x = images(3, 16, dtype=torch.float64) * 2 + 1
    mean, variance = np.zeros(3), np.ones(3)
    count = x.numel() / 3
    values = x.numpy()
    for step in (1, 2):
        model(x)
        divisor = count - 1 if running_variance == "unbiased" else count
        spread = ((values - values.mean((0, 2, 3), keepdims=True)) ** 2).sum((0, 2, 3)) / divisor
        mean = 0.7 * mean + 0.3 * values.mean((0, 2, 3))
        variance = 0.7 * variance + 0.3 * spread
        norm = model.features.norm0
        np.testing.assert_allclose(norm.running_mean.numpy(), mean, rtol=1e-13)
        np.testing.assert_allclose(norm.running_var.numpy(), variance, rtol=1e-13)
        assert norm.num_batches_tracked == step


def test_biased_running_variance_changes_nothing_else() -> None:
    one, other = build(KERAS), build(KERAS.replace(running_variance="unbiased"))
    for model in (one, other):
        loss_of(model, images()).backward()
    for name, parameter in one.named_parameters():
        assert torch.equal(parameter.grad, other.get_parameter(name).grad), name


@pytest.mark.parametrize("spec", [TORCHVISION, KERAS], ids=["unbiased", "biased"])
def test_training_on_one_value_per_channel_is_an_error(spec: DenseNetSpec) -> None:
    model = build(spec)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        model(images(1, 8))


@training_or_inference
def test_running_and_training_through_the_backend_leave_modes_alone(training: bool) -> None:
    model = build(CIFAR).train(training)
    model.features.denseblock1.train(not training)
    before = {name: module.training for name, module in model.named_modules()}
    backend, graph = get_backend("torch.nn"), model.densespec.graph
    x = images(2, 8).numpy()
    backend.forward(model, graph, x, [graph.output.name])
    trainer = backend.trainer(model, graph, densespec.TrainingRecipe())
    trainer.step(x, np.array([0, 1]), learning_rate=0.1)
    assert {name: module.training for name, module in model.named_modules()} == before


# Sizes


def test_too_small_an_input_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="too small"):
        build(TORCHVISION).eval()(images(1, 4))


def test_any_size_goes_unless_one_was_asked_for() -> None:
    model = build(KERAS).eval()
    assert model(images(1, 32)).shape == model(images(1, 47)).shape == (1, 5)
    model = build(KERAS, input_shape=(3, 32, None)).eval()
    assert model(torch.zeros(1, 3, 32, 40)).shape == (1, 5)
    with pytest.raises(ValueError, match=r"\(33, 40\), but this network was built for \(32, any\)"):
        model(torch.zeros(1, 3, 33, 40))


def test_a_network_for_one_size_computes_what_one_for_any_size_does() -> None:
    anything, fixed = build(KERAS), build(KERAS, input_shape=(3, 33, 40))
    x = images(1, 40)[:, :, :33]
    assert torch.equal(anything.eval()(x), fixed.eval()(x))


# Without PyTorch


def test_without_pytorch_the_error_names_the_extra() -> None:
    code = """
import sys
sys.modules["torch"] = None
import densespec
try:
    densespec.build("densenet121", backend="torch.nn")
except densespec.errors.PackageMissing as error:
    print(error)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "backend 'torch.nn' needs the package 'torch'" in run.stdout
    assert "pip install 'densespec[torch]'" in run.stdout
