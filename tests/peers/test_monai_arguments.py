"""MONAI's networks with each of its activations and norms that a spec has, in one to three
dimensions, read from a state dict and from the module itself, and given back."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

import densespec
from densespec import DenseNetSpec
from densespec.errors import WeightsError
from densespec.weights.convert import convert
from tests.peers.networks import TOLERANCE, difference, randomise

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
nets = pytest.importorskip("monai.networks.nets", reason="MONAI is not installed")

ACTIVATIONS: dict[str, tuple[Any, dict[str, Any]]] = {
    "relu": ("relu", {"activation": "relu"}),
    "leakyrelu": ("leakyrelu", {"activation": "leaky-relu"}),
    "leakyrelu of 0.2": (
        ("leakyrelu", {"negative_slope": 0.2}),
        {"activation": "leaky-relu", "activation_slope": 0.2},
    ),
    "elu": ("elu", {"activation": "elu"}),
    "swish": ("swish", {"activation": "silu"}),
    "memswish": ("memswish", {"activation": "silu"}),
    "gelu": ("gelu", {"activation": "gelu"}),
    "gelu by the tangent": (("gelu", {"approximate": "tanh"}), {"activation": "gelu-tanh"}),
    "relu6": ("relu6", {"activation": "relu6"}),
    "prelu": ("prelu", {"activation": "prelu"}),
}
"""What ``act=`` takes, and what it is in a spec."""

NORMS: dict[str, tuple[Any, dict[str, Any]]] = {
    "batch": ("batch", {"norm": "batch"}),
    "instance": ("instance", {"norm": "instance", "norm_affine": False}),
    "instance, affine": (("instance", {"affine": True}), {"norm": "instance"}),
    "group": (("group", {"num_groups": 4}), {"norm": "group", "norm_groups": 4}),
    "group, not affine": (
        ("group", {"num_groups": 2, "affine": False, "eps": 1e-3}),
        {"norm": "group", "norm_groups": 2, "norm_affine": False, "batch_norm_epsilon": 1e-3},
    ),
    "none": ("", {"norm": "none"}),
}
"""What ``norm=`` takes, likewise."""

PAIRS = [*((act, "batch") for act in ACTIVATIONS), *(("elu", norm) for norm in NORMS)]
CHOSEN = sorted({*((a, n, 2) for a, n in PAIRS), *itertools.product(["prelu"], NORMS, [1, 3])})
"""Each activation and each norm in two dimensions, and each norm in one and three."""

combinations = pytest.mark.parametrize(("act", "norm", "dims"), CHOSEN, ids=str)


def network(act: str, norm: str, dims: int, *, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    made = nets.DenseNet(
        spatial_dims=dims,
        in_channels=2,
        out_channels=3,
        init_features=8,
        growth_rate=4,
        block_config=(2, 1),
        bn_size=2,
        act=ACTIVATIONS[act][0],
        norm=NORMS[norm][0],
    )
    randomise(made)
    return made.eval()


def wanted(act: str, norm: str, dims: int) -> DenseNetSpec:
    return DenseNetSpec(
        blocks=(2, 1),
        growth_rate=4,
        bottleneck_width=2,
        compression=0.5,
        in_channels=2,
        classes=3,
        spatial_dims=dims,
        stem_kind="conv-norm-relu",
        stem_width=8,
        stem_kernel=7,
        stem_stride=2,
        stem_pool=3,
        dropout_place="layer",
    ).replace(**ACTIVATIONS[act][1], **NORMS[norm][1])


def images(dims: int) -> Any:
    return torch.randn((2, 2, *(24,) * dims), generator=torch.Generator().manual_seed(4))


def outputs(model: Any, dims: int) -> Any:
    with torch.no_grad():
        return model.eval()(images(dims)).numpy()


@combinations
def test_a_state_dict_is_read_as_it_is_told_and_given_back(
    act: str, norm: str, dims: int, tmp_path: Path
) -> None:
    theirs, spec = network(act, norm, dims), wanted(act, norm, dims)
    expected = outputs(theirs, dims)
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    told = {**ACTIVATIONS[act][1], **NORMS[norm][1]}
    ours = densespec.build(weights=tmp_path / "theirs.pth", backend="torch.nn", assume=told)
    assert ours.densespec.graph.spec == spec
    assert difference(outputs(ours, dims), expected) <= TOLERANCE

    densespec.save(ours, tmp_path / "ours.safetensors")
    convert(tmp_path / "ours.safetensors", tmp_path / "back.pth", to_layout="monai")
    again = network(act, norm, dims, seed=1)
    again.load_state_dict(torch.load(tmp_path / "back.pth"), strict=True)
    assert difference(outputs(again, dims), expected) <= TOLERANCE


@combinations
def test_a_module_tells_by_itself(act: str, norm: str, dims: int) -> None:
    theirs = network(act, norm, dims)
    ours = densespec.build(weights=theirs, backend="torch.nn")
    assert ours.densespec.graph.spec == wanted(act, norm, dims)
    assert difference(outputs(ours, dims), outputs(theirs, dims)) <= TOLERANCE


@pytest.mark.parametrize("act", ["selu", "mish", "tanh"])
def test_what_no_spec_says_is_refused_by_name(act: str) -> None:
    torch.manual_seed(0)
    theirs = nets.DenseNet(2, 1, 2, block_config=(1, 1), growth_rate=4, act=act)
    with pytest.raises(WeightsError, match="which no spec says"):
        densespec.build(weights=theirs, backend="torch.nn")
