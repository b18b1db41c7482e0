"""The torch.nn backend against torchvision itself, where that is installed."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest

import densespec
from tests.peers.networks import import_torchvision

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

if importlib.util.find_spec("torchvision") is None:
    pytest.skip("torchvision is not installed", allow_module_level=True)

NAMES = ("densenet121", "densenet161", "densenet169", "densenet201")


torchvision = import_torchvision()


@pytest.fixture(scope="module", params=NAMES)
def pair(request: pytest.FixtureRequest) -> tuple[Any, Any]:
    """torchvision's network with random weights and statistics, and ours with the same."""
    theirs = getattr(torchvision.models, request.param)(weights=None)
    generator = torch.Generator().manual_seed(3)
    for key, tensor in theirs.state_dict().items():
        if key.endswith("running_var"):
            tensor.uniform_(0.5, 2, generator=generator)
        elif key.endswith("num_batches_tracked"):
            tensor.fill_(5)
        elif tensor.ndim == 1:
            noise = torch.randn(tensor.shape, generator=generator)
            tensor.add_(noise / 4)
    ours = densespec.build(request.param, backend="torch.nn", seed=1)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    return theirs, ours


def _images(dtype: Any) -> Any:
    return torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(4)).to(dtype)


def _difference(actual: Any, expected: Any) -> float:
    return float((actual - expected).abs().max() / expected.abs().max().clamp(min=1e-30))


def test_state_dicts_have_the_same_keys_shapes_and_types_in_the_same_order(
    pair: tuple[Any, Any],
) -> None:
    theirs, ours = (
        [(key, tensor.shape, tensor.dtype) for key, tensor in model.state_dict().items()]
        for model in pair
    )
    assert ours == theirs


def test_our_state_dict_loads_strictly_into_theirs(pair: tuple[Any, Any]) -> None:
    theirs, ours = pair
    theirs.load_state_dict(ours.state_dict(), strict=True)


def test_every_module_of_theirs_has_ours_of_its_name(pair: tuple[Any, Any]) -> None:
    theirs, ours = (dict(model.named_modules()) for model in pair)
    assert theirs.keys() <= ours.keys()


@pytest.mark.parametrize(("dtype", "bound"), [("float32", 1e-6), ("float64", 1e-12)])
def test_outputs_are_equal(pair: tuple[Any, Any], dtype: str, bound: float) -> None:
    kind = getattr(torch, dtype)
    theirs, ours = (model.to(kind).eval() for model in pair)
    with torch.no_grad():
        assert _difference(ours(_images(kind)), theirs(_images(kind))) < bound
        features = theirs.features(_images(kind))
        assert _difference(ours.features(_images(kind)), features) < bound


def test_one_training_step_is_equal(pair: tuple[Any, Any]) -> None:
    """Gradients, and weights and running statistics after it, in float64."""
    for model in pair:
        model.to(torch.float64).train().zero_grad()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, nesterov=True)
        logits = model(_images(torch.float64))
        torch.nn.functional.cross_entropy(logits, torch.tensor([7, 600])).backward()
        optimizer.step()
    theirs, ours = pair
    for key, parameter in theirs.named_parameters():
        assert _difference(ours.get_parameter(key).grad, parameter.grad) < 1e-9, key
    state = ours.state_dict()
    for key, tensor in theirs.state_dict().items():
        assert _difference(state[key], tensor) < 1e-9, key
