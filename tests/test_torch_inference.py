"""Networks of native PyTorch that are prepared for inference."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import densespec  # noqa: E402
from densespec import DenseNetSpec  # noqa: E402
from densespec.errors import UnknownName, Untrainable  # noqa: E402
from tests.strategies import tiny  # noqa: E402

SPEC = tiny(
    blocks=(3, 2), growth_rate=4, bottleneck_width=2, compression=0.5, stem_kind="conv-norm-relu"
)
SIZE = (24, 20)


def _pair(spec: DenseNetSpec = SPEC, **options: Any) -> tuple[Any, Any]:
    """A network as it is and prepared, of the same weights, which are those after some training."""
    model = densespec.build(spec, backend="torch.nn", **options)
    with torch.no_grad():
        for _ in range(3):
            model(_images(8))
    return model.eval(), densespec.optimize(model)


def _images(count: int, seed: int = 0) -> Any:
    return torch.randn(count, 3, *SIZE, generator=torch.Generator().manual_seed(seed))


def _assert_same(a: Any, b: Any, x: Any) -> None:
    with torch.no_grad():
        torch.testing.assert_close(a(x), b(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("count", [1, 2, 7])
def test_gives_what_the_network_gives(count: int) -> None:
    _assert_same(*_pair(), _images(count))


def test_gives_the_same_whatever_goes_through_a_block_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, prepared = _pair()
    program = prepared.program()
    for chunks in [(1, 1), (2, 1), (3, 5), (99, 2)]:
        monkeypatch.setattr(
            program,
            "_chunks",
            lambda *_, chunks=chunks: (*chunks, 1)[: len(program._segments)],
        )
        _assert_same(model, prepared, _images(7))


def test_large_maps_go_through_a_block_few_at_a_time() -> None:
    prepared = densespec.build("densenet121", backend="torch.nn", mode="inference")
    assert len(prepared.program()._segments) == 5
    chunks = prepared.program()._samples_at_a_time((224, 224), 4)
    assert list(chunks) == sorted(chunks)
    assert chunks[0] < prepared.program()._samples_at_a_time((112, 112), 4)[0]


def test_gives_results_that_later_calls_leave_alone() -> None:
    for options in ({}, {"include_top": False}):
        _, prepared = _pair(SPEC.replace(final_norm=False), **options)
        with torch.no_grad():
            first = prepared(_images(2))
            before = first.clone()
            prepared(_images(2, seed=1))
        assert torch.equal(first, before)


def test_runs_in_several_threads_at_once() -> None:
    _, prepared = _pair()
    inputs = [_images(2, seed) for seed in range(4)]
    with torch.no_grad():
        expected = [prepared(x) for x in inputs]
    found: list[Any] = [None] * len(inputs)

    def run(index: int) -> None:
        with torch.no_grad():
            for _ in range(20):
                found[index] = prepared(inputs[index])

    threads = [threading.Thread(target=run, args=(n,)) for n in range(len(inputs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for got, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(got, wanted)


def test_computes_what_was_loaded_last() -> None:
    model, prepared = _pair()
    x = _images(2)
    _assert_same(model, prepared, x)
    other, _ = _pair(SPEC, seed=5)
    prepared.load_state_dict(other.state_dict())
    _assert_same(other, prepared, x)
    prepared.load_state_dict(model.state_dict(), assign=True)
    _assert_same(model, prepared, x)
    around = torch.nn.Sequential(prepared)
    around.load_state_dict(torch.nn.Sequential(other).state_dict())
    _assert_same(other, around, x)
    with pytest.raises(RuntimeError, match="Unexpected key"):
        around.load_state_dict({**torch.nn.Sequential(other).state_dict(), "0.more": x})


CHANGES = {
    "data in place": lambda net: next(net.parameters()).data.mul_(2),
    "other data": lambda net: setattr(next(net.parameters()), "data", torch.zeros(1)),
    "a buffer": lambda net: next(net.buffers()).data.add_(1),
    "an item": lambda net: next(net.parameters()).__setitem__(0, 1),
    "an operator": lambda net: next(net.parameters()).data.__imul__(2),
    "a view": lambda net: next(net.parameters()).view(-1)[:3].zero_(),
    "an output": lambda net: torch.mul(torch.ones(1), 2, out=next(net.parameters()).data),
    "many at once": lambda net: torch._foreach_mul_(list(net.parameters()), 2.0),
    "an op": lambda net: torch.ops.aten.mul_(next(net.parameters()), 2),
    "by numpy": lambda net: next(net.parameters()).detach().numpy().__setitem__(0, 1),
    "the state": lambda net: net.state_dict()["features.conv0.weight"].copy_(torch.zeros(1)),
    "all of them": lambda net: torch.nn.utils.vector_to_parameters(
        torch.zeros(10**5), net.parameters()
    ),
    "a module": lambda net: setattr(net, "classifier", torch.nn.Identity()),
    "an inner module": lambda net: setattr(net.features, "pool0", torch.nn.Identity()),
    "a functional call": lambda net: torch.func.functional_call(net, net.state_dict(), _images(1)),
    "a hook": lambda net: net.get_submodule("features.conv0").register_forward_hook(print),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_refuses_to_be_changed(change: Any) -> None:
    model, prepared = _pair()
    with pytest.raises((RuntimeError, AttributeError, ValueError), match=r"prepared|read-only"):
        change(prepared)
    _assert_same(model, prepared, _images(2))


def test_shows_its_state_like_any_module(tmp_path: Path) -> None:
    model, prepared = _pair()
    assert [n for n, _ in prepared.named_parameters()] == [n for n, _ in model.named_parameters()]
    assert all(isinstance(p, torch.nn.Parameter) for p in prepared.parameters())
    torch.save(prepared.state_dict(), tmp_path / "net.pth")
    loaded = torch.load(tmp_path / "net.pth", weights_only=True)
    assert all(torch.equal(loaded[key], tensor) for key, tensor in model.state_dict().items())
    torch.testing.assert_close(dict(loaded), dict(model.state_dict()))


@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16"])
def test_keeps_types_what_trains_and_the_mode(dtype: str) -> None:
    model, _ = _pair()
    model.to(getattr(torch, dtype)).features.conv0.requires_grad_(False)
    prepared = densespec.optimize(model)
    turned = densespec.in_mode(prepared, "layers")
    for network in (prepared, turned):
        for name, parameter in network.named_parameters():
            assert parameter.dtype == getattr(torch, dtype)
            assert parameter.requires_grad == (name != "features.conv0.weight")
        assert not network.training
    state = model.state_dict()
    assert all(torch.equal(tensor, state[key]) for key, tensor in turned.state_dict().items())
    assert densespec.in_mode(model.train(), "fast").training


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_stays_so(value: float) -> None:
    for spec in (SPEC, SPEC.replace(stem_kind="conv", bottleneck_width=None)):
        model, prepared = _pair(spec)
        x = _images(2)
        x[1, 0, 3, 4] = value
        with torch.no_grad():
            assert torch.equal(prepared(x).isfinite(), model(x).isfinite())
        state = model.state_dict()
        for key in ("features.conv0.weight", "features.denseblock1.denselayer2.norm1.running_var"):
            damaged = {**state, key: state[key].clone()}
            damaged[key].view(-1)[0] = torch.nan
            prepared.load_state_dict(damaged)
            with torch.no_grad():
                assert prepared(_images(2)).isnan().all()


@pytest.mark.parametrize("mean", [1e2, 1e4])
def test_dead_channels_with_large_means_cost_no_digits(mean: float) -> None:
    model, _ = _pair()
    state = model.state_dict()
    for key in [key for key in state if key.endswith("running_mean")]:
        state[key][0] = mean
        state[key.replace("mean", "var")][0] = 1e-12
    _assert_same(model, densespec.optimize(model), _images(2))


TRANSFORMS = {
    "vmap": lambda net, x: torch.func.vmap(lambda one: net(one[None])[0])(x),
    "jvp": lambda net, x: torch.func.jvp(net, (x,), (x,))[1],
    "grad": lambda net, x: torch.func.grad(lambda x: net(x).sum())(x),
    "trace": lambda net, x: torch.jit.trace(net, x)(x[:1]),
    "script": lambda net, x: torch.jit.script(net)(x),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)
def test_can_be_transformed(transform: Any) -> None:
    model, prepared = _pair()
    x = _images(2)
    torch.testing.assert_close(transform(prepared, x), transform(model, x), rtol=1e-4, atol=1e-5)


def test_names_the_type_that_it_takes() -> None:
    _, prepared = _pair()
    with pytest.raises(RuntimeError, match=r"input is torch.float64 .* is torch.float32"):
        prepared(_images(1).double())


def test_takes_and_gives_the_canonical_checkpoint_and_turns_back(tmp_path: Path) -> None:
    model, prepared = _pair()
    other = densespec.build(SPEC, backend="torch.nn", seed=3)
    densespec.save(prepared, tmp_path / "net.safetensors")
    for name, array in densespec.read_weights(model).items():
        np.testing.assert_array_equal(densespec.read_weights(prepared)[name], array)
    back = densespec.build(SPEC, backend="torch.nn", weights=tmp_path / "net.safetensors").eval()
    turned = densespec.in_mode(prepared, "layers").eval()
    with torch.no_grad():
        assert torch.equal(back(_images(2)), model(_images(2)))
        assert torch.equal(turned(_images(2)), model(_images(2)))
    densespec.load_weights(prepared, densespec.read_weights(other))
    _assert_same(other.eval(), prepared, _images(2))
    assert turned.densespec.backend == "torch.nn"
    assert prepared.densespec.backend == "torch.nn+inference"


def test_can_be_copied_pickled_and_moved_to_another_dtype() -> None:
    model, prepared = _pair()
    _assert_same(model, prepared, _images(2))
    _assert_same(model, copy.deepcopy(prepared), _images(2))
    _assert_same(model, pickle.loads(pickle.dumps(prepared)), _images(2))
    _assert_same(model.double(), prepared.double(), _images(2).double())


def test_gives_gradients_of_its_input() -> None:
    model, prepared = _pair()
    slopes = []
    for network in (model, prepared):
        x = _images(2).requires_grad_()
        network(x).sum().backward()
        slopes.append(x.grad)
    torch.testing.assert_close(*slopes)


def test_can_be_exported_for_any_batch() -> None:
    model, prepared = _pair()
    dynamic = ({0: torch.export.Dim("batch", min=2)},)
    program = torch.export.export(prepared.folded(), (_images(4),), dynamic_shapes=dynamic)
    _assert_same(model, program.module(), _images(3))


def test_can_be_built_where_nothing_is_tracked() -> None:
    with torch.inference_mode():
        prepared = densespec.build(SPEC, backend="torch.nn", mode="inference")
        model = densespec.build(SPEC, backend="torch.nn").eval()
        x = _images(2)
        torch.testing.assert_close(model(x), prepared(x), rtol=1e-4, atol=1e-5)
        again = densespec.in_mode(prepared, "layers")
    for network in (model, again, densespec.in_mode(prepared, "layers")):
        network.train()(_images(2)).sum().backward()
        assert all(parameter.grad is not None for parameter in network.parameters())


def test_refuses_to_be_trained() -> None:
    _, prepared = _pair()
    with pytest.raises(RuntimeError, match="in_mode"):
        prepared.train()
    recipe = densespec.TrainingRecipe()
    engine = densespec.get_backend("torch.nn+inference")
    with pytest.raises(Untrainable, match="layers"):
        engine.trainer(prepared, prepared.densespec.graph, recipe)


def test_says_where_bfloat16_is_imitated(monkeypatch: pytest.MonkeyPatch) -> None:
    from densespec_torch import program

    monkeypatch.setattr(program, "lacks_bfloat16", lambda: True)
    prepared = densespec.build(SPEC, backend="torch.nn", mode="inference", dtype="bfloat16")
    with pytest.warns(UserWarning, match="no bfloat16 arithmetic"):
        prepared(_images(1).bfloat16())


@pytest.mark.parametrize("name", ["numpy+inference", "torch.nn+quick"])
def test_modes_that_a_backend_lacks_are_refused(name: str) -> None:
    with pytest.raises(UnknownName, match="mode of backend"):
        densespec.get_backend(name)


def test_modes_that_do_not_exist_are_refused() -> None:
    with pytest.raises(UnknownName, match="unknown mode 'quick'"):
        densespec.build(SPEC, backend="torch.nn", mode="quick")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that runs CUDA")
def test_recorded_calls_give_what_the_network_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    network, _ = _pair()
    network.to("cuda")
    prepared = densespec.optimize(network)
    for scale in (1.0, 1.1):
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.mul_(scale)
        prepared.load_state_dict(network.state_dict())
        for inference in (False, True, False, True):
            for x in map(_on_gpu, (1, 3, 2)):
                with torch.inference_mode(inference):
                    _assert_same(network, prepared, x)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that runs CUDA")
def test_a_recorded_call_leaves_earlier_answers_alone() -> None:
    _, prepared = _pair()
    prepared.to("cuda")
    with torch.no_grad():
        answers = [prepared(_on_gpu(2, seed)) for seed in range(4)]
        again = [prepared(_on_gpu(2, seed)) for seed in range(4)]
    torch.testing.assert_close(answers, again)
    assert not torch.equal(answers[2], answers[3])


def _on_gpu(count: int, seed: int = 0) -> Any:
    return _images(count, seed).to("cuda")


FIRST_CALL = """
import torch, densespec
from benchmarks.timing import peak_megabytes
torch.set_num_threads(1)
spec = densespec.DenseNetSpec(blocks=(120,), growth_rate=1, stem_width=256)
model = densespec.build(spec, backend="torch.nn", mode="inference")
x = torch.zeros(1, 3, 64, 64)
features = x[0, 0].nbytes * (256 + 120) / 2**20
with torch.inference_mode():
    print(peak_megabytes(lambda: model(x)) / features)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_first_call_keeps_no_values_of_layers_that_are_done() -> None:
    """Each of 120 layers clips up to 6 MB of features, and what it gives is small."""
    command = [sys.executable, "-c", FIRST_CALL]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert float(run.stdout) < 20
