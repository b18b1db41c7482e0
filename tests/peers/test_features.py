"""Feature maps against timm's ``features_only`` and keras-hub's ``pyramid_outputs``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import densespec
from tests.peers.networks import PEERS, Peer, difference, import_torchvision

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

PYRAMID = ("stem", "block1", "block2", "block3", "final")
"""The parts whose values timm gives: the stem's before its pool, the last block's behind a norm."""
MODES = ("layers", "fast", "inference")
ROUNDING = 1e-5


def _peer(package: str, network: str) -> Peer:
    peer = next(peer for peer in PEERS if (peer.package, peer.network) == (package, network))
    if reason := peer.missing():
        pytest.skip(reason)
    return peer


@pytest.fixture(scope="module", params=["densenet121", "densenet161"])
def extractor(request: pytest.FixtureRequest) -> Any:
    """timm's feature extractor with random statistics."""
    _peer("timm", request.param)
    import_torchvision()
    import timm

    model = timm.create_model(request.param, features_only=True, pretrained=False).eval()
    drawn = torch.Generator().manual_seed(3)
    for key, tensor in model.state_dict().items():
        if key.endswith("running_var"):
            tensor.uniform_(0.5, 2, generator=drawn)
        elif tensor.ndim == 1:
            tensor.add_(torch.randn(tensor.shape, generator=drawn) / 4)
    return model


@pytest.mark.parametrize("mode", MODES)
def test_the_maps_are_those_of_timms_features_only(mode: str, extractor: Any) -> None:
    ours = densespec.build(
        weights=extractor, backend="torch.nn", mode=mode, include_top=False, outputs=PYRAMID
    ).eval()
    x = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        for own, theirs in zip(ours(x), extractor(x), strict=True):
            assert difference(own.numpy(), theirs.numpy()) < ROUNDING
    told = densespec.feature_maps(ours)
    assert [each.channels for each in told] == extractor.feature_info.channels()
    assert [each.stride for each in told] == extractor.feature_info.reduction()


@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_the_maps_are_keras_hubs_pyramid_outputs(backend: str, tmp_path: Path) -> None:
    peer = _peer("keras-hub", "DenseNetBackbone, small")
    network: Any = peer.make()
    network.randomise()
    network.save(tmp_path / "net.weights.h5")
    import keras

    backbone, x = network.backbone, peer.images(peer.spec)
    named = backbone.pyramid_outputs
    theirs = keras.Model(backbone.input, named)(np.moveaxis(x, 1, -1), training=False)
    outputs = tuple(f"block{int(name[1:]) - 1}" for name in named)
    model = densespec.build(
        backend=backend,
        weights=tmp_path / "net.weights.h5",
        outputs=outputs,
        data_format="channels_first",
    )
    for own, name in zip(model(x), named, strict=True):
        expected = np.moveaxis(keras.ops.convert_to_numpy(theirs[name]), -1, 1)
        assert difference(np.asarray(keras.ops.convert_to_numpy(own)), expected) < ROUNDING
