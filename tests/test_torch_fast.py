"""The modes of native PyTorch that train faster or in less memory, against its plain modules."""

from __future__ import annotations

import contextlib
import copy
import math
import subprocess
import sys
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import densespec
from densespec import DenseNetSpec
from densespec.errors import SpecError
from densespec.network.graph import lower
from tests.strategies import specs

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
from densespec_torch.as_built import GivenMask  # noqa: E402

nn = torch.nn

SPEC = DenseNetSpec(
    blocks=(2, 3),
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
SPECS = {
    "torchvision-like": SPEC,
    "without bottleneck": SPEC.replace(bottleneck_width=None),
    "with biases": SPEC.replace(conv_bias=True, running_variance="biased"),
    "without ReLU and norm after blocks": SPEC.replace(transition_relu=False, final_norm=False),
    "one dimension": SPEC.replace(spatial_dims=1),
    "three dimensions": SPEC.replace(spatial_dims=3),
    "preactivation": SPEC.replace(stem_kind="norm-relu-conv", padding="same"),
    "one wide layer": SPEC.replace(blocks=(1,), growth_rate=1, bottleneck_width=9),
}
MODES = ("fast", "efficient")

every_mode = pytest.mark.parametrize("mode", MODES)
every_spec = pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)


@pytest.fixture
def fused(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the fused functions that are applied from here on."""
    from densespec_torch import fused as functions

    applied: list[str] = []

    def noting(function: Any) -> Any:
        class Noting:
            @staticmethod
            def apply(*arguments: Any) -> Any:
                applied.append(function.__name__)
                return function.apply(*arguments)

        return Noting

    for name in ("FusedBlock", "FusedPool"):
        monkeypatch.setattr(functions, name, noting(getattr(functions, name)))
    return applied


PIECES = {
    "in one piece": ("CHUNK", 7 * 2**20),
    "sample by sample": ("CHUNK", 1),
    "as on other devices": ("on_cpu", lambda _tensor: False),
}


@pytest.fixture(params=PIECES.values(), ids=PIECES)
def chunk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    name, value = request.param
    monkeypatch.setattr(f"densespec_torch.primitives.{name}", value)


def build(spec: Any, mode: str | None = None, **options: Any) -> Any:
    options = {"dtype": "float64"} | options
    return densespec.build(spec, backend="torch.nn", mode=mode, **options).train()


def randomised(model: Any, spread: float = 0.5) -> Any:
    """Every trainable array random; gammas of either sign and exactly 0 among them."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.add_(spread * noise)
            if "norm" in name and name.endswith("weight"):
                parameter[::3] *= -1
                parameter[0] = 0
    return model


def twins(spec: Any, mode: str, **options: Any) -> tuple[Any, Any]:
    """The same network of plain modules and in a mode."""
    plain = randomised(build(spec, **options))
    other = build(spec, mode, **options)
    other.load_state_dict(copy.deepcopy(plain.state_dict()))
    return plain, other


def images(spec: DenseNetSpec, count: int = 3, size: int | None = None) -> Any:
    side = size or {1: 66, 2: 42, 3: 34}[spec.spatial_dims]
    shape = (count, spec.in_channels, *[side] * spec.spatial_dims)
    return torch.randn(shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64)


def step(model: Any, x: Any) -> Any:
    """The output, after the gradients of a random sum of it."""
    y = model(x)
    generator = torch.Generator().manual_seed(1)
    (y * torch.randn(y.shape, generator=generator, dtype=y.dtype)).sum().backward()
    return y.detach()


def give_masks(model: Any) -> None:
    """Dropouts with masks by name, as the trainer gives them."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Dropout):
            module.eval().register_forward_hook(MaskBySize(name))


class MaskBySize(GivenMask):
    """A mask drawn by a dropout's name, for values of whatever size come."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __call__(self, module: Any, inputs: Any, _output: Any) -> Any:
        draw = np.random.default_rng(zlib.crc32(self._name.encode()))
        mask = torch.from_numpy((draw.random(inputs[0].shape) > module.p) / (1 - module.p))
        return inputs[0] * mask


def assert_same_step(plain: Any, other: Any, x: Any, third: Any = None) -> None:
    """Equal outputs, gradients and running statistics; rounding is relative to the largest.

    Norms over few values amplify rounding. How much, a third network tells, equal to the plain one:
    it takes the step on an input that is rounded anew.
    """
    outputs = step(plain, x), step(other, x)
    slack = step(third, rounded_anew(x)) - outputs[0] if third else None
    close(*outputs, "output", outputs[0].abs().max(), slack)
    gradients = [{n: p.grad for n, p in net.named_parameters()} for net in (plain, other)]
    largest = max(g.abs().max() for g in gradients[0].values() if g is not None)
    for name, gradient in gradients[0].items():
        if gradient is None:
            assert gradients[1][name] is None, name
        else:
            slack = third.get_parameter(name).grad - gradient if third else None
            close(gradient, gradients[1][name], name, largest, slack)
    for (name, buffer), own in zip(plain.named_buffers(), other.buffers(), strict=True):
        close(buffer.double(), own.double(), name, 1 + buffer.abs().max())


def rounded_anew(x: Any) -> Any:
    """An array of other values in the last digits."""
    generator = torch.Generator().manual_seed(2)
    return x * (1 + 2**-50 * torch.randn(x.shape, generator=generator, dtype=x.dtype))


def close(expected: Any, actual: Any, name: str, scale: Any, slack: Any = None) -> None:
    allowed = 1e-12 * scale + (0 if slack is None else 4 * slack.abs().max())
    assert (actual - expected).abs().max() <= allowed, name


# The same network


@every_mode
@every_spec
@pytest.mark.usefixtures("chunk")
def test_a_step_is_that_of_plain_modules(spec: DenseNetSpec, mode: str, fused: list[str]) -> None:
    plain, other = twins(spec, mode)
    assert_same_step(plain, other, images(spec))
    assert fused.count("FusedBlock") == len(spec.blocks)
    pools = spec.spatial_dims == 2 and spec.stem_kind == "conv-norm-relu"
    assert fused.count("FusedPool") == pools


@every_mode
@pytest.mark.parametrize("place", ["conv", "every-conv", "layer"])
def test_given_dropout_masks_are_used(place: Any, mode: str, fused: list[str]) -> None:
    spec = SPEC.replace(dropout_rate=0.4, dropout_place=place)
    networks = twins(spec, mode)
    for network in networks:
        give_masks(network)
    assert_same_step(*networks, images(spec))
    assert fused.count("FusedBlock") == 2


@every_mode
@given(spec=specs(), size=st.integers(1, 20), count=st.integers(1, 3))
@settings(
    deadline=None,
    max_examples=25,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
def test_random_networks_take_the_same_step(
    mode: str, spec: DenseNetSpec, size: int, count: int
) -> None:
    epsilon = max(spec.batch_norm_epsilon, 0.1)
    spec = spec.replace(blocks=spec.blocks[:2], batch_norm_epsilon=epsilon)
    shape = (spec.in_channels, *[size] * spec.spatial_dims)
    try:
        networks = twins(spec, mode, input_shape=shape)
    except SpecError:
        return  # nothing is left of so small an image
    for network in networks:
        give_masks(network)
    x = images(spec, count, size)
    if refused(networks[0], x):
        assert refused(networks[1], x)
    else:
        assert_same_step(*networks, x, copy.deepcopy(networks[0]))


@pytest.mark.parametrize("mode", ["layers", "fast", "efficient"])
def test_group_norms_of_images_that_need_no_gradient(mode: str) -> None:
    """PyTorch's own end the process in channels_last, which these modes use."""
    spec = SPEC.replace(stem_kind="norm-relu-conv", norm="group", norm_groups=1)
    plain, other = twins(spec, mode)
    x = images(spec)
    assert_same_step(plain, other, x.to(memory_format=torch.channels_last))


def refused(network: Any, x: Any) -> bool:
    """Whether a norm has one value of each channel only, which is an error."""
    try:
        copy.deepcopy(network)(x)
    except ValueError as error:
        return "more than 1 value per channel" in str(error)
    return False


@every_mode
def test_training_goes_on_in_another_mode(mode: str) -> None:
    plain, other = twins(SPEC, mode)
    optimizers = [torch.optim.SGD(net.parameters(), 0.05, 0.9) for net in (plain, other)]
    for seed in range(3):
        for network, optimizer in zip((plain, other), optimizers, strict=True):
            optimizer.zero_grad()
            step(network, images(SPEC) + seed)
            optimizer.step()
    for (name, a), b in zip(plain.state_dict().items(), other.state_dict().values(), strict=True):
        close(a.double(), b.double(), name, 10 + a.abs().max())
    plain.load_state_dict(other.state_dict())
    close(plain.eval()(images(SPEC)), other.eval()(images(SPEC)), "inference", 10)


# Where blocks run as plain modules


def partly_frozen(network: Any) -> None:
    for parameter in network.features.denseblock1.parameters():
        parameter.requires_grad_(False)


def one_norm_in_inference(network: Any) -> None:
    network.features.denseblock1.denselayer2.norm1.eval()


def another_kind_of_norm(network: Any) -> None:
    from densespec_torch import synchronise_norms

    synchronise_norms(network)


def without_momentum(network: Any) -> None:
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None


def patched(network: Any) -> None:
    conv = network.features.denseblock2.denselayer1.conv1
    own = type(conv).forward
    conv.forward = lambda x: 2 * own(conv, x)


def another_stem_pool(network: Any) -> None:
    network.features.pool0 = nn.Identity()


def another_transition_pool(network: Any) -> None:
    network.features.transition1.pool = nn.MaxPool2d(2)


def another_stride_of_a_pool(network: Any) -> None:
    network.features.transition1.pool = nn.AvgPool2d(2, 3)


def another_relu(network: Any) -> None:
    network.features.denseblock2.denselayer1.relu1 = nn.ELU()


def another_epsilon(network: Any) -> None:
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 0.5


def another_layer(network: Any) -> None:
    network.features.denseblock1.denselayer1 = nn.Conv2d(8, 4, 1, dtype=torch.float64)
    torch.nn.init.ones_(network.features.denseblock1.denselayer1.weight)
    torch.nn.init.ones_(network.features.denseblock1.denselayer1.bias)


CHANGES = {
    another_stem_pool: 2,
    another_transition_pool: 2,
    another_stride_of_a_pool: 2,
    another_relu: 1,
    another_epsilon: 2,
    another_layer: 1,
    partly_frozen: 2,
    one_norm_in_inference: 1,
    another_kind_of_norm: 0,
    without_momentum: 2,
    patched: 1,
}


@every_mode
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_changed_network_computes_what_plain_modules_do(
    change: Any, mode: str, fused: list[str]
) -> None:
    networks = twins(SPEC, mode)
    for network in networks:
        change(network)
    assert_same_step(*networks, images(SPEC))
    assert fused.count("FusedBlock") == CHANGES[change]
    plain, other = (network.eval()(images(SPEC)) for network in networks)
    close(plain, other, "inference", plain.abs().max())


@every_mode
@pytest.mark.parametrize("start", ["block1.layer2", "block2", "block2.layer2", "classifier"])
def test_frozen_parts_stay_frozen(start: str, mode: str) -> None:
    assert_same_step(*twins(SPEC, mode, trainable_from=start), images(SPEC))


@every_mode
def test_hooks_see_what_they_see_in_plain_modules(mode: str, fused: list[str]) -> None:
    networks = twins(SPEC, mode)
    seen: list[Any] = []
    for network in networks:
        layer = network.features.denseblock1.denselayer1.relu1
        layer.register_forward_hook(lambda _module, _inputs, y: seen.append(y.detach()))
    assert_same_step(*networks, images(SPEC))
    close(*seen, "hook", 10)
    assert fused.count("FusedBlock") == 1


@every_mode
def test_function_transforms_give_the_same_gradients(mode: str, fused: list[str]) -> None:
    networks = twins(SPEC, mode)
    x, slopes = images(SPEC), []
    for network in networks:
        weights = {name: p.detach() for name, p in network.named_parameters()}
        buffers = dict(network.named_buffers())

        def loss(weights: Any, buffers: Any, network: Any = network) -> Any:
            return torch.func.functional_call(network, (weights, buffers), (x,)).square().sum()

        slopes.append(torch.func.grad(loss)(weights, buffers)["features.conv0.weight"])
    close(*slopes, "stem", slopes[0].abs().max())
    assert fused == []


@every_mode
def test_half_precision_runs(mode: str, fused: list[str]) -> None:
    network = build(SPEC, mode, dtype="float32").bfloat16()
    step(network, images(SPEC).bfloat16())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        step(network, images(SPEC).bfloat16())
    assert fused == []


# Under autocast

every_narrow_type = pytest.mark.parametrize("narrow", [torch.bfloat16, torch.float16], ids=str)


def cast_step(model: Any, x: Any, narrow: Any) -> Any:
    with torch.autocast("cpu", dtype=narrow):
        y = model(x)
    generator = torch.Generator().manual_seed(1)
    (y.to(x.dtype) * torch.randn(y.shape, generator=generator, dtype=x.dtype)).sum().backward()
    return y.detach()


def far_from_zero(model: Any) -> Any:
    """Shift what every ReLU reads so far that 16 bits don't change the side on which it is."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                signs = module.weight.sign() + (module.weight == 0)
                module.weight.copy_(signs * 0.3)
                module.bias.fill_(3)
                module.bias[1::3] = -3
    return model


@every_mode
@every_spec
@every_narrow_type
def test_a_step_under_autocast_is_as_exact_as_that_of_plain_modules(
    spec: DenseNetSpec, mode: str, narrow: Any, fused: list[str]
) -> None:
    plain = far_from_zero(randomised(build(spec, dtype="float32"), 0.1))
    other = build(spec, mode, dtype="float32")
    other.load_state_dict(copy.deepcopy(plain.state_dict()))
    exact, x = copy.deepcopy(plain).double(), images(spec).float()
    expected = step(exact, x.double())
    outputs = cast_step(plain, x, narrow), cast_step(other, x, narrow)
    assert fused.count("FusedBlock") == (len(spec.blocks) if mode == "efficient" else 0)
    unit = torch.finfo(narrow).eps
    as_exact(*outputs, expected, "output", unit * expected.norm())
    largest = max(p.grad.norm() for p in exact.parameters())
    for (name, p), a, b in zip(
        exact.named_parameters(), plain.parameters(), other.parameters(), strict=True
    ):
        assert b.grad.dtype == torch.float32
        as_exact(a.grad, b.grad, p.grad, name, unit * largest)
    for (name, s), a, b in zip(
        exact.named_buffers(), plain.buffers(), other.buffers(), strict=True
    ):
        assert b.dtype == a.dtype
        as_exact(a, b, s.double(), name, unit * (1 + s.double().norm()))


def as_exact(plain: Any, other: Any, expected: Any, name: str, slack: Any) -> None:
    errors = [(array.double() - expected).norm() for array in (plain, other)]
    assert errors[1] <= 2 * errors[0] + slack, name


@pytest.mark.usefixtures("chunk")
def test_no_module_of_a_block_is_called_under_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    convolved: list[str] = []
    network = build(SPEC, "efficient", dtype="float32")
    names = {module: name for name, module in network.named_modules()}
    own = nn.Conv2d.forward

    def noted(conv: Any, x: Any) -> Any:
        convolved.append(names[conv])
        return own(conv, x)

    monkeypatch.setattr(nn.Conv2d, "forward", noted)
    cast_step(network, images(SPEC).float(), torch.bfloat16)
    assert convolved == ["features.conv0", "features.transition1.conv"]


@every_narrow_type
def test_a_backward_pass_under_autocast_gives_the_same(narrow: Any) -> None:
    networks = twins(SPEC.replace(spatial_dims=3), "efficient", dtype="float32")
    networks[0].load_state_dict(networks[1].state_dict())
    networks = networks[1], copy.deepcopy(networks[1])
    x = images(SPEC.replace(spatial_dims=3)).float()
    cast_step(networks[0], x, narrow)
    with torch.autocast("cpu", dtype=narrow):
        cast_step(networks[1], x, narrow)
    for a, b in zip(*(network.parameters() for network in networks), strict=True):
        assert torch.equal(a.grad, b.grad)


def test_gradients_that_overflow_are_left_out_by_a_scaler(fused: list[str]) -> None:
    network = build(SPEC, "efficient", dtype="float32")
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40, growth_interval=1000)
    before = copy.deepcopy(list(network.parameters()))

    def train() -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.float16):
            loss = network(images(SPEC).float()).float().square().mean()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()

    train()
    assert all(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))
    assert scaler.get_scale() == 2.0**39
    scaler.update(2.0**8)
    train()
    assert scaler.get_scale() == 2.0**8
    assert not any(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))
    assert fused.count("FusedBlock") == 4


class Waiting(torch.utils._python_dispatch.TorchDispatchMode):
    """Refuses what waits for a device's values."""

    def __torch_dispatch__(self, op: Any, _types: Any, args: Any = (), options: Any = None) -> Any:
        assert op.overloadpacket.__name__ not in {"_local_scalar_dense", "nonzero", "equal"}
        return op(*args, **options or {})


@pytest.mark.parametrize("cast", [False, True])
def test_a_step_on_an_accelerator_waits_for_no_value(
    cast: bool, fused: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    network = build(SPEC, "efficient", dtype="float32")
    without_momentum(network)
    monkeypatch.setattr("densespec_torch.primitives.on_cpu", lambda _tensor: False)
    with Waiting(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=cast):
        network(images(SPEC).float()).float().sum().backward()
    assert fused == ["FusedPool", "FusedBlock", "FusedBlock"]


def test_a_block_runs_by_modules_where_its_input_was_not_cast(fused: list[str]) -> None:
    networks = twins(SPEC, "efficient", dtype="float64")
    outputs = [cast_step(network, images(SPEC), torch.bfloat16) for network in networks]
    assert fused == []  # autocast leaves float64 alone
    close(*outputs, "output", outputs[0].abs().max())


def test_transitions_pool_first_without_fused_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    network = build(SPEC, "fast", dtype="float32")
    transition, sizes = network.features.transition1, []
    own = nn.Conv2d.forward

    def noted(conv: Any, x: Any) -> Any:
        sizes.extend([x.shape[-1]] if conv is transition.conv else [])
        return own(conv, x)

    monkeypatch.setattr(nn.Conv2d, "forward", noted)
    cast_step(network, images(SPEC).float(), torch.bfloat16)
    transition.norm.register_forward_hook(lambda *_: None)
    cast_step(network, images(SPEC).float(), torch.bfloat16)
    assert sizes[1] // 2 == sizes[0]


# What is too small to gain by it


def test_small_blocks_run_by_their_modules_in_float32(fused: list[str]) -> None:
    plain, other = twins(SPEC, "fast", dtype="float32")
    x = images(SPEC).float()
    torch.testing.assert_close(step(other, x), step(plain, x))
    parts = ("norm0", "denseblock1", "denseblock2")
    assert (fused, other.features.taken) == ([], dict.fromkeys(parts, "modules"))
    other.features.fuses_from = 0
    torch.testing.assert_close(step(other, x), step(plain, x))
    assert fused == ["FusedPool", "FusedBlock", "FusedBlock"]
    assert other.features.taken == dict.fromkeys(parts, "fused")


def test_the_number_of_values_of_a_blocks_features_decides() -> None:
    network = build(SPEC, "fast", dtype="float32")
    x = images(SPEC).float()
    values = len(x) * math.prod(lower(SPEC, tuple(x.shape[2:]))["block1.concat2"].shape)
    for least, blocks in ((values, 1), (values + 1, 0)):
        network.features.fuses_from = least
        step(network, x)
        assert fused_children(network) == ["norm0", "denseblock1"][: 1 + blocks]
    network = build(SPEC, "fast", dtype="float32")
    step(network, images(SPEC, size=514).float())
    assert fused_children(network) == ["norm0", "denseblock1"]


def fused_children(network: Any) -> list[str]:
    return [name for name, way in network.features.taken.items() if way == "fused"]


@every_spec
def test_modules_with_relus_in_place_take_the_same_step(
    spec: DenseNetSpec, fused: list[str]
) -> None:
    plain, other = twins(spec.replace(dropout_rate=0.4), "fast")
    for network in (plain, other):
        give_masks(network)
    children = [turn.children[0] for turn in other.features.turns if turn.fuses]
    other.features.ways = dict.fromkeys(children, "modules")
    assert_same_step(plain, other, images(spec))
    assert not fused


# As PyTorch's users use it


def test_a_compiler_leaves_fused_blocks_as_they_are(fused: list[str]) -> None:
    plain, other = twins(SPEC, "fast")
    compiled = torch.compile(other, backend="aot_eager")
    outputs = step(plain, images(SPEC)), step(compiled, images(SPEC))
    close(*outputs, "output", outputs[0].abs().max())
    assert fused == ["FusedPool", "FusedBlock", "FusedBlock"]
    torch._dynamo.reset()
    with pytest.raises(Exception, match="compile a network of mode 'layers'"):
        torch.compile(other, backend="aot_eager", fullgraph=True)(images(SPEC))


@every_mode
def test_a_gradient_of_gradients_is_an_error(mode: str) -> None:
    network, x = build(SPEC, mode), images(SPEC).requires_grad_()
    (slope,) = torch.autograd.grad(network(x).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        slope.sum().backward()


@every_mode
def test_the_graph_can_be_kept_and_the_input_has_a_gradient(mode: str) -> None:
    plain, other = twins(SPEC, mode)
    slopes = []
    for network in (plain, other):
        x = images(SPEC).requires_grad_()
        y = network(x).square().sum()
        for _ in range(2):
            y.backward(retain_graph=True)
        slopes.append(x.grad)
    close(*slopes, "input", slopes[0].abs().max())


@every_mode
def test_changing_what_backward_needs_is_noticed(mode: str) -> None:
    network = build(SPEC, mode)
    loss = network(images(SPEC)).sum()
    with torch.no_grad():
        network.features.denseblock1.denselayer1.conv1.weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@every_mode
def test_names_and_inference_are_those_of_plain_modules(mode: str) -> None:
    plain, other = twins(SPEC, mode)
    assert list(plain.state_dict()) == list(other.state_dict())
    assert [name for name, _ in plain.named_modules()] == [n for n, _ in other.named_modules()]
    x = images(SPEC)
    close(plain.eval()(x), other.eval()(x), "output", plain(x).abs().max())


def kept(mode: str, depth: int = 24, narrow: Any = None) -> int:
    """Bytes that a step of one block keeps for the backward pass, beside the network."""
    sizes: dict[int, int] = {}

    def note(tensor: Any) -> Any:
        sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    dtype = "float64" if narrow is None else "float32"
    network = build(SPEC.replace(blocks=(depth,), bottleneck_width=4), mode, dtype=dtype)
    cast = torch.autocast("cpu", dtype=narrow or torch.bfloat16, enabled=narrow is not None)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor), cast:
        y = network(images(SPEC).to(getattr(torch, dtype)))
        own = {p.untyped_storage().data_ptr() for p in network.parameters()}
        del y
    return sum(size for place, size in sizes.items() if place not in own)


def test_the_efficient_mode_keeps_little_more_than_the_features() -> None:
    efficient, fast, layers = (kept(mode) for mode in ("efficient", "fast", "layers"))
    assert 2 * efficient < fast < layers / 2


@every_narrow_type
def test_what_is_kept_under_autocast_grows_linearly_and_has_16_bits(narrow: Any) -> None:
    shallow, deep = (kept("efficient", depth, narrow) for depth in (12, 24))
    assert deep < 2.5 * shallow
    assert deep < kept("layers", 24, narrow) / 8
    assert deep < kept("efficient", 24) / 2.5


MEMORY = """
import torch, densespec
from benchmarks.timing import peak_megabytes
torch.set_num_threads(1)
def peak(layers):
    spec = densespec.get("densenet-40-12").replace(blocks=(layers,))
    model = densespec.build(spec, backend="torch.nn", mode={mode!r}).train()
    return peak_megabytes(lambda: model(torch.randn(4, 3, 32, 32)).sum().backward())
peak(2)
print(*(peak(layers) for layers in (12, 24, 48)))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_grows_linearly_with_the_depth() -> None:
    def peaks(mode: str) -> list[float]:
        command = [sys.executable, "-c", MEMORY.replace("{mode!r}", repr(mode))]
        run = subprocess.run(command, capture_output=True, text=True, check=True)
        return [float(word) for word in run.stdout.split()]

    lean, plain = peaks("efficient"), peaks("layers")
    assert lean[2] < 3 * lean[1]
    assert plain[2] > 3 * plain[1]
    assert lean[2] < 0.25 * plain[2]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize(("mode", "fuses"), [("fast", False), ("efficient", True)])
def test_on_accelerators_blocks_are_fused_for_memory_alone(
    mode: str, fuses: bool, fused: list[str]
) -> None:
    with torch.device("meta"):
        model = build(SPEC, mode).train()
        with contextlib.suppress(NotImplementedError, RuntimeError):  # of a device without values
            model(torch.empty(2, SPEC.in_channels, 32, 32, dtype=torch.float64))
    assert bool(fused) == fuses
