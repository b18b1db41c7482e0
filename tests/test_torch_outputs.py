"""Feature maps, heads and slices of PyTorch networks, as users of timm and torchvision type."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import densespec
from densespec.errors import UnknownName
from tests.strategies import tiny

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from torch import nn  # noqa: E402

SPEC = tiny(
    blocks=(2, 1, 2),
    stem_kind="conv-norm-relu",
    stem_kernel=7,
    stem_stride=2,
    stem_pool=3,
    bottleneck_width=2,
    compression=0.5,
)
OUTPUTS = ("block2", "stem", "block1", "transition1", "final")
MODES = ("layers", "fast", "efficient", "inference")


def _built(mode: str = "layers", **options: Any) -> Any:
    return densespec.build(SPEC, backend="torch.nn", mode=mode, dtype="float64", **options)


def _images(batch: int = 2) -> Any:
    drawn = torch.Generator().manual_seed(1)
    return torch.randn(batch, 3, 48, 40, dtype=torch.float64, generator=drawn)


def _assert_close(ours: Any, theirs: Any) -> None:
    for own, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(own.detach(), other.detach(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("mode", MODES)
def test_outputs_are_the_references(mode: str) -> None:
    expected = densespec.build(SPEC, backend="numpy", outputs=OUTPUTS)(_images(9).numpy())
    given = _built(mode, outputs=OUTPUTS).eval()(_images(9))
    assert isinstance(given, tuple)
    _assert_close(given, map(torch.from_numpy, expected))


@pytest.mark.parametrize("outputs", [OUTPUTS, ("stem", "block3"), ("stem_pool", "final")])
@pytest.mark.parametrize("mode", ["fast", "efficient"])
def test_gradients_of_all_outputs_are_those_of_the_modules(
    mode: str, outputs: tuple[str, ...]
) -> None:
    found = []
    for each in (mode, "layers"):
        model = _built(each, outputs=outputs).train()
        x = _images().requires_grad_()
        sum((value**2).mean() for value in model(x)).backward()
        statistics = [b for b in model.buffers() if b.is_floating_point()]
        found.append([x.grad, *statistics, *(p.grad for p in model.parameters())])
    _assert_close(*found)


def test_a_part_of_a_batch_at_a_time_gives_every_output_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = _built("inference", outputs=OUTPUTS)
    expected = model(_images(6))
    monkeypatch.setattr("densespec_torch.program._cache", lambda: 1)
    _assert_close(_built("inference", outputs=OUTPUTS)(_images(6)), expected)


@pytest.mark.parametrize("mode", ["layers", "fast", "inference"])
def test_networks_with_outputs_are_scripted_traced_and_turned(mode: str) -> None:
    model = _built(mode, outputs=OUTPUTS).eval()
    expected = model(_images())
    _assert_close(torch.jit.script(model)(_images()), expected)
    _assert_close(torch.jit.trace(model, _images())(_images()), expected)
    _assert_close(densespec.optimize(model)(_images()), expected)
    _assert_close(densespec.in_mode(model, "layers")(_images()), expected)


def test_a_program_of_torch_export_gives_every_output(tmp_path: Any) -> None:
    done = densespec.export(_built(outputs=OUTPUTS), tmp_path / "net.pt2")
    assert done.measured is not None
    assert done.measured.difference < 1e-5


# As users of timm type


@pytest.mark.parametrize("mode", MODES)
def test_features_and_head_make_the_network(mode: str) -> None:
    model = _built(mode).eval()
    features = model.forward_features(_images())
    assert features.shape[1] == model.num_features
    _assert_close([model.forward_head(features)], [model(_images())])
    pooled = model.forward_head(features, pre_logits=True)
    _assert_close([pooled], [features.mean((2, 3))])


def test_pre_logits_are_behind_the_hidden_layers_of_a_head() -> None:
    model = densespec.build(SPEC.replace(head_units=(6,)), backend="torch.nn").eval()
    features = model.forward_features(_images().float())
    before = model.forward_head(features, pre_logits=True)
    _assert_close([model.classifier(before)], [model(_images().float())])


@pytest.mark.parametrize("units", [(), (6,)])
def test_a_new_classifier_is_part_of_the_network(units: tuple[int, ...], tmp_path: Any) -> None:
    model = densespec.build(SPEC.replace(head_units=units), backend="torch.nn", dtype="float64")
    model.reset_classifier(11)
    assert model.get_classifier().out_features == 11
    assert model(_images()).shape == (2, 11)
    densespec.save(model, tmp_path / "net.safetensors")
    again = densespec.build(backend="numpy", weights=tmp_path / "net.safetensors")
    expected = again(_images().numpy())
    np.testing.assert_allclose(model.eval()(_images()).detach(), expected, rtol=1e-9, atol=1e-9)


def test_no_classes_leave_pooled_features() -> None:
    model = _built().eval()
    model.reset_classifier(0)
    assert model(_images()).shape == (2, model.num_features)
    assert densespec.read_weights(model).keys().isdisjoint({"classifier.kernel"})


@pytest.mark.parametrize(
    ("options", "arguments", "message"),
    [
        ({}, (5, "max"), "should be 'avg' or None"),
        ({"include_top": False}, (5,), "has no classifier: densespec.build"),
    ],
)
def test_what_no_classifier_can_be_is_refused(
    options: Any, arguments: tuple[Any, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        _built(**options).reset_classifier(*arguments)


def test_a_prepared_network_refuses_another_classifier() -> None:
    with pytest.raises(AttributeError, match="can't be changed"):
        _built("inference").reset_classifier(5)


def test_networks_with_outputs_have_no_one_feature_map() -> None:
    with pytest.raises(ValueError, match="call it, and it gives them"):
        _built(outputs=OUTPUTS).forward_features(_images())


# As users of nn.Sequential type


@pytest.mark.parametrize("mode", ["layers", "fast"])
def test_features_are_a_sequence_of_modules(mode: str) -> None:
    features = _built(mode).eval().features
    children = list(features.children())
    assert list(features) == children
    assert len(features) == len(children)
    assert features[-1] is features.norm5
    assert features[0] is features.conv0
    with pytest.raises(IndexError):
        features[len(children)]


@pytest.mark.parametrize("mode", ["layers", "fast"])
def test_a_slice_runs_the_same_modules(mode: str) -> None:
    model = _built(mode).eval()
    body = model.features[:-1]
    assert isinstance(body, nn.Sequential)
    assert body.denseblock1 is model.features.denseblock1
    _assert_close([model.features[-1](body(_images()))], [model.features(_images())])
    _assert_close([model.features[4:](model.features[:4](_images()))], [model.features(_images())])


def test_a_slice_of_what_does_not_run_in_turn_is_refused() -> None:
    with pytest.raises(TypeError, match="take one by its number"):
        _built().features.denseblock1[:2]


def test_an_unknown_output_is_refused() -> None:
    with pytest.raises(UnknownName, match="unknown output of the network"):
        _built(outputs=("layer4",))
