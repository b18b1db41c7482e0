"""In which way blocks train in mode ``fast``: by the rule, as it is set, or as it was measured."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

import densespec
from densespec_conformance.cases.forward import SMALL

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
from densespec_torch import choose_ways, choosing  # noqa: E402
from densespec_torch.fused import BlockModules, PoolModules  # noqa: E402

SPEC = SMALL.replace(blocks=(2, 2), dropout_rate=0.2)
PARTS = ("norm0", "denseblock1", "denseblock2")


def build(mode: str = "fast") -> Any:
    return densespec.build(SPEC, backend="torch.nn", mode=mode).train()


def images() -> Any:
    return torch.randn(3, 3, 42, 42, generator=torch.Generator().manual_seed(1))


def test_what_is_set_is_taken() -> None:
    model = build()
    ways = dict(zip(PARTS, ("modules", "fused", "modules"), strict=True))
    model.features.ways = ways
    model(images())
    assert model.features.taken == model.features.ways == ways
    model.features.ways = {}
    model(images())
    assert model.features.taken == dict.fromkeys(PARTS, "modules")


@pytest.mark.parametrize(
    ("ways", "message"),
    [
        ({"denseblock9": "fused"}, "no choice for 'denseblock9': there is one for norm0, denseb"),
        ({"denseblock1": "fast"}, "unknown way 'fast': should be one of fused, modules, triton"),
    ],
)
def test_ways_that_are_none_are_refused(ways: dict[str, str], message: str) -> None:
    model = build()
    with pytest.raises(ValueError, match=message):
        model.features.ways = ways
    assert model.features.ways == {}


@pytest.mark.parametrize("mode", ["fast", "efficient"])
def test_a_network_is_saved_however_it_was_trained(mode: str, tmp_path: Path) -> None:
    model = build(mode)
    model.features.fuses_from = 0
    model(images()).sum().backward()
    assert model.features.taken == dict.fromkeys(PARTS, "fused")
    model.features.ways = {"denseblock1": "modules"}
    densespec.save(model, tmp_path / "net.safetensors")
    same = densespec.build(weights=tmp_path / "net.safetensors", backend="torch.nn", mode=mode)
    arrays = (dict(network.named_parameters()) for network in (same, model))
    torch.testing.assert_close(*arrays, rtol=0, atol=0)


def test_triton_is_refused_where_it_does_not_compute() -> None:
    model = build()
    model.features.ways = {"denseblock1": "triton"}
    with pytest.raises(ValueError, match=r"does not compute on cpu.* Set model\.features\.ways"):
        model(images())


def test_a_block_that_is_watched_runs_by_its_modules_whatever_is_set() -> None:
    model = build()
    model.features.ways = {"denseblock1": "fused"}
    seen: list[Any] = []
    model.features.denseblock1.denselayer1.norm1.register_forward_hook(
        lambda _module, _inputs, y: seen.append(y.min())
    )
    model(images())
    assert model.features.taken["denseblock1"] == "modules"
    assert seen[0] < 0  # the norm's output, which a ReLU in place would have clipped


# By measuring


def test_measuring_leaves_the_model_as_it_was() -> None:
    model, x = build(), images()
    model(x).sum().backward()
    before, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    gradients = [parameter.grad.clone() for parameter in model.parameters()]
    choice = choose_ways(model, x)
    assert model.features.ways == choice.ways
    assert tuple(choice.ways) == PARTS
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    kept = [parameter.grad for parameter in model.parameters()]
    torch.testing.assert_close(kept, gradients, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), random)


def test_the_faster_way_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that runs only while blocks are fused."""
    now = [0.0]
    monkeypatch.setattr(choosing.time, "perf_counter", lambda: now[0])
    for kind in (BlockModules, PoolModules):
        monkeypatch.setattr(kind, "run", slowly(kind.run, now))
    model = build()
    model.features.fuses_from = 0  # so that the rule says "fused"
    choice = choose_ways(model, images())
    assert choice.ways == dict.fromkeys(PARTS, "modules")
    assert "denseblock1: modules (fused 1000.0 ms, modules 0.0 ms)" in str(choice)
    assert str(choice).startswith("(3, 3, 42, 42) on cpu, ")


def slowly(method: Any, now: list[float]) -> Any:
    def run(*arguments: Any) -> Any:
        now[0] += 1
        return method(*arguments)

    return run


def test_what_fails_leaves_ways_as_they_were() -> None:
    model = build()
    model.features.ways = {"denseblock1": "modules"}
    with pytest.raises(RuntimeError, match="channels"):
        choose_ways(model, images()[:, :2])
    assert model.features.ways == {"denseblock1": "modules"}


def test_the_rule_holds_where_little_is_gained() -> None:
    assert choosing._best({"fused": 1.0, "modules": 0.98}) == "fused"
    assert choosing._best({"fused": 1.0, "modules": 0.96}) == "modules"


def test_what_has_no_ways_is_refused() -> None:
    for mode in ("layers", "efficient", "inference"):
        model = densespec.build(SPEC, backend="torch.nn", mode=mode)
        with pytest.raises(TypeError, match="build it in mode 'fast', which is for speed"):
            choose_ways(model, images())
    with pytest.raises(ValueError, match=r"in inference mode: call model\.train\(\) first"):
        choose_ways(build().eval(), images())
