"""Weight files of other implementations, both ways: theirs read here, and ours read there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import densespec
from densespec import DenseNetSpec
from densespec.backends import get_backend
from densespec.network.differences import spec_differences
from densespec.weights.convert import DifferentNetwork, convert
from densespec.weights.opening import open_weights
from tests.peers.networks import (
    FEATURES,
    KERAS_HUB_121,
    LOGITS,
    PEERS,
    TOLERANCE,
    Arrays,
    Network,
    Peer,
    difference,
)

SHAPES = (
    *("blocks", "growth_rate", "compression", "stem_width", "spatial_dims"),
    *("in_channels", "classes"),
)
"""Fields that the arrays' shapes follow."""


@pytest.fixture(scope="module", params=PEERS, ids=lambda peer: peer.name)
def peer(request: pytest.FixtureRequest) -> Peer:
    chosen: Peer = request.param
    if reason := chosen.missing():
        pytest.skip(reason)
    return chosen


@pytest.fixture(scope="module")
def network(peer: Peer) -> Network:
    """The peer's network, every array random."""
    made = peer.make()
    made.randomise()
    return made


@pytest.fixture(scope="module")
def files(peer: Peer, network: Network, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Its weights, saved by itself in every kind of file that it has."""
    folder = tmp_path_factory.mktemp("theirs")
    paths = [folder / f"net{suffix}" for suffix in peer.suffixes]
    for path in paths:
        network.save(path)
    return paths


def _run(spec: DenseNetSpec, weights: Any, x: np.ndarray, backend: str = "torch.nn") -> Arrays:
    """Feature map and logits of densespec's network."""
    top = LOGITS + ".kernel" in weights
    model = densespec.build(spec, backend=backend, weights=weights, include_top=top)
    taps = (FEATURES, LOGITS) if top else (FEATURES,)
    return get_backend(backend).forward(model, model.densespec.graph, x, taps)


def _assert_equal(actual: Arrays, expected: Arrays) -> None:
    assert actual.keys() == expected.keys()
    for name in expected:
        assert np.abs(expected[name]).max() > 1e-3, f"{name} is all but zero: nothing is compared"
        assert difference(actual[name], expected[name]) < TOLERANCE, name


def test_layout_spec_and_variant_are_found_by_inspection(peer: Peer, files: list[Path]) -> None:
    for path in files:
        with open_weights(path) as found:
            assert found.layout.name == peer.layout
            assert spec_differences(found.spec, peer.spec) == {}
            assert found.variant == peer.named
            assert found.notes == found.assumptions
            assert bool(found.assumptions) == (peer.layout in ("monai", "densespec-torch"))


def test_every_kind_of_file_gives_the_same_arrays(peer: Peer, files: list[Path]) -> None:
    with open_weights(files[0]) as found:
        first = found.arrays()
    for path in files[1:]:
        with open_weights(path) as found:
            other = found.arrays()
        assert first.keys() == other.keys()
        for name, array in first.items():
            np.testing.assert_array_equal(other[name], array, err_msg=f"{path.name}: {name}")


@pytest.mark.parametrize("backend", ["numpy", "torch.nn"])
def test_densespec_computes_what_the_peer_computes(
    peer: Peer, network: Network, files: list[Path], backend: str
) -> None:
    if backend == "numpy" and peer.spec.spatial_dims == 3:
        pytest.skip("the reference takes minutes in three dimensions")
    with open_weights(files[0]) as found:
        spec, weights = found.spec, found.arrays()
    x = peer.images(spec)
    _assert_equal(_run(spec, weights, x, backend), network.forward(x))


@pytest.fixture
def ours(peer: Peer, network: Network, tmp_path: Path) -> Path:
    """A canonical checkpoint of densespec's variant of that name, with weights of its own."""
    like = peer.spec
    spec = densespec.get(peer.variant).replace(
        **{name: getattr(like, name) for name in SHAPES}, dropout_rate=like.dropout_rate
    )
    top = LOGITS in network.forward(peer.images(spec, count=1))
    model = densespec.build(spec, backend="torch.nn", seed=11, include_top=top)
    random = np.random.default_rng(12)
    weights = densespec.read_weights(model)
    for name, array in weights.items():
        if name.endswith("variance"):
            weights[name] = random.uniform(0.5, 2, array.shape).astype("float32")
        elif array.ndim == 1:
            weights[name] = (array + random.standard_normal(array.shape) / 4).astype("float32")
    densespec.load_weights(model, weights)
    path = tmp_path / "ours.safetensors"
    densespec.save(model, path)
    return path


UNMEASURABLE = {"batch_norm_epsilon"}
"""What peers have otherwise with an effect that float32's own rounding hides: it is written."""


def test_the_peer_loads_what_densespec_writes_and_computes_its_own_network(
    peer: Peer, ours: Path, tmp_path: Path
) -> None:
    """Its own network: densespec's with the peer's spec, which may not be the checkpoint's."""
    with open_weights(ours) as found:
        weights, lasting = found.arrays(), _lasting(found.spec, peer.spec)
    other = peer.make()
    for suffix in peer.loads:
        target = tmp_path / f"theirs{suffix}"
        if lasting.keys() - UNMEASURABLE:
            with pytest.raises(DifferentNetwork) as refusal:
                convert(ours, target, to_layout=peer.writes)
            for name, (here, there) in lasting.items():
                assert f"{name} is {there!r} there, but {here!r} here" in str(refusal.value)
            assert re.search(r"feature map differs by \d\.\de-\d\d", str(refusal.value))
            assert not target.exists()
        done = convert(ours, target, to_layout=peer.writes, allow_different=bool(lasting))
        assert done.differences == lasting
        other.randomise()  # so that nothing stays of what was loaded before
        other.load(target)
        x = peer.images(peer.spec)
        _assert_equal(other.forward(x), _run(peer.spec, weights, x))


def _lasting(first: DenseNetSpec, second: DenseNetSpec) -> dict[str, Any]:
    """Differences that count in inference."""
    apart = spec_differences(first, second)
    fields = ("padding", "batch_norm_epsilon")
    assert apart.keys() <= {*fields, "batch_norm_momentum", "running_variance"}
    return {name: apart[name] for name in fields if name in apart}


# One peer's own


@pytest.mark.parametrize(
    ("weights", "least"),
    [
        pytest.param("initial", 0.05, id="with initial weights by more than 5 percent"),
        pytest.param("random", 0.01, id="with random norms by more than 1 percent"),
    ],
)
def test_keras_hubs_weights_compute_something_else_in_torchvisions_network(
    tmp_path: Path, weights: str, least: float
) -> None:
    """How much, depends on the weights: large biases of norms hide it."""
    if reason := KERAS_HUB_121.missing():
        pytest.skip(reason)
    network = KERAS_HUB_121.make()
    if weights == "random":
        network.randomise()
    network.save(tmp_path / "net.weights.h5")
    with open_weights(tmp_path / "net.weights.h5") as found:
        arrays = found.arrays()
    x = KERAS_HUB_121.images(KERAS_HUB_121.spec)
    expected = network.forward(x)[FEATURES]
    torchvisions = difference(_run(densespec.get("densenet121"), arrays, x)[FEATURES], expected)
    own = difference(_run(KERAS_HUB_121.spec, arrays, x)[FEATURES], expected)
    print(f"with keras-hub's spec {own:.1e}, with torchvision's {torchvisions:.1%}")
    assert own < TOLERANCE
    assert torchvisions > least


def test_a_preset_of_keras_hub_is_read(tmp_path: Path) -> None:
    """``save_to_preset`` keeps the backbone's weights in a file of their own."""
    if reason := KERAS_HUB_121.missing():
        pytest.skip(reason)
    small = next(peer for peer in PEERS if peer.network == "DenseNetBackbone, small")
    network: Any = small.make()
    network.randomise()
    network.backbone.save_to_preset(str(tmp_path / "preset"))
    with open_weights(tmp_path / "preset" / "model.weights.h5") as found:
        assert spec_differences(found.spec, small.spec) == {}
        x = small.images(small.spec)
        _assert_equal(_run(found.spec, found.arrays(), x), network.forward(x))


@pytest.fixture
def timm() -> Any:
    peer = next(peer for peer in PEERS if peer.package == "timm")
    if reason := peer.missing():
        pytest.skip(reason)
    from tests.peers.networks import import_torchvision

    import_torchvision()
    import timm

    return timm


def test_every_densenet_of_timm_is_compared(timm: Any) -> None:
    compared = {peer.network for peer in PEERS if peer.package == "timm"}
    assert set(timm.list_models("densenet*")) == compared


def test_a_training_checkpoint_of_timm_is_read(timm: Any, tmp_path: Path) -> None:
    """It has the weights under ``state_dict``, beside the optimizer's state and more."""
    import torch
    from timm.utils import CheckpointSaver

    model = timm.create_model("densenet121", pretrained=False, num_classes=3)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    model(torch.zeros(2, 3, 64, 64)).sum().backward()
    optimizer.step()
    saver = CheckpointSaver(model, optimizer, checkpoint_dir=str(tmp_path))
    saver.save_checkpoint(0, metric=0.5)
    with open_weights(tmp_path / "last.pth.tar") as found:
        assert (found.variant, found.spec.classes) == ("densenet121", 3)
        assert found.notes == ("read from under 'state_dict'",)
