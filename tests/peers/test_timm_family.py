"""Networks that timm's arguments make of its DenseNet: deep stems, blurred pools, other heads."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import densespec
from densespec.hub import from_pretrained, save_pretrained
from densespec.network.catalogue import catalogue
from densespec.network.differences import spec_differences
from densespec.network.graph import lower
from densespec.weights.layouts import get_layout
from tests.peers.networks import difference, import_torchvision

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

SPEC = densespec.get("densenet121").replace(
    blocks=(1, 2, 1), growth_rate=8, stem_width="2k", in_channels=2, classes=4
)
OF_32 = {"blocks": (2, 2), "growth_rate": 32}
"""A network of which all norms have channels by the 32."""
DEEP = {"stem_kind": "deep", "stem_kernel": 3}
BLURRED = DEEP | {"stem_pool_kind": "max-blur"}

TOLERANCE = 1e-5
"""Relative, in float32: a few hundred roundings of 6e-8 each, in another order."""


@dataclasses.dataclass(frozen=True)
class Row:
    """Fields of a spec, and the arguments of timm's that mean the same."""

    changes: Mapping[str, Any]
    arguments: Mapping[str, Any]
    blurs: bool = False


ROWS = {
    "deep stem": Row(DEEP, {"stem_type": "deep"}),
    "blurred stem": Row(BLURRED, {"stem_type": "deep"}, blurs=True),
    "blurred plain stem": Row({"stem_pool_kind": "max-blur"}, {}, blurs=True),
    "blurred transitions": Row(
        BLURRED | {"transition_pool_kind": "blur"},
        {"stem_type": "deep", "aa_stem_only": False},
        blurs=True,
    ),
    "maximum": Row({"global_pool": "max"}, {"global_pool": "max"}),
    "mean of both": Row({"global_pool": "avgmax"}, {"global_pool": "fastavgmax"}),
    "means and maxima": Row({"global_pool": "catavgmax"}, {"global_pool": "catavgmax"}),
    "dropout before the classifier": Row({"head_dropout_rate": 0.25}, {"drop_rate": 0.25}),
    **{
        name: Row({"activation": name}, {"act_layer": theirs})
        for name, theirs in (
            ("leaky-relu", "leaky_relu"),
            ("gelu-tanh", "gelu_tanh"),
            *((same, same) for same in ("elu", "silu", "gelu", "relu6", "prelu")),
        )
    },
    "norms of one group": Row({"norm": "group", "norm_groups": 1}, {"norm_layer": "groupnorm1"}),
    "norms of groups": Row(
        OF_32 | {"norm": "group"}, {"norm_layer": "groupnorm", "act_layer": "relu"}
    ),
    "norms of groups in a deep stem": Row(
        OF_32 | DEEP | {"norm": "group", "activation": "silu"},
        {"stem_type": "deep", "norm_layer": "groupnorm", "act_layer": "silu"},
    ),
}

rows = pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)


@pytest.fixture(scope="module")
def timm() -> Any:
    if importlib.util.find_spec("timm") is None:
        pytest.skip("timm is not installed")
    import_torchvision()
    import timm

    return timm


def _theirs(timm: Any, row: Row) -> Any:
    from timm.models.densenet import DenseNet

    spec = SPEC.replace(**row.changes)
    blur = {"aa_layer": timm.layers.BlurPool2d} if row.blurs else {}
    torch.manual_seed(3)
    network = DenseNet(
        growth_rate=spec.growth_rate,
        block_config=spec.blocks,
        num_classes=4,
        in_chans=2,
        **(dict(row.arguments) | blur),
    )
    return _randomised(network)


def _randomised(model: Any) -> Any:
    generator = torch.Generator().manual_seed(5)
    for name, tensor in model.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 2, generator=generator)
        elif tensor.ndim == 1:
            tensor.add_(torch.randn(tensor.shape, generator=generator) / 4)
    return model.eval()


def _apart(ours: Any, theirs: Any, size: int = 75) -> float:
    channels = next(ours.parameters()).shape[1]
    x = torch.randn(2, channels, size, size + 6, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        return difference(theirs(x).numpy(), ours(x).numpy())


@rows
def test_weights_of_timm_compute_the_same(timm: Any, row: Row) -> None:
    theirs, spec = _theirs(timm, row), SPEC.replace(**row.changes)
    ours = densespec.build(spec, backend="torch.nn", weights=theirs.state_dict(), layout="timm")
    assert _apart(ours.eval(), theirs) < TOLERANCE


@rows
def test_a_whole_model_tells_by_itself(timm: Any, row: Row) -> None:
    theirs, spec = _theirs(timm, row), SPEC.replace(**row.changes)
    ours = densespec.build(weights=theirs, backend="torch.nn").eval()
    apart = spec_differences(ours.densespec.graph.spec, spec)
    assert not apart.keys() - {"head_dropout_rate"}
    assert _apart(ours, theirs) < TOLERANCE


@rows
def test_weights_of_ours_compute_the_same_in_timm(timm: Any, row: Row) -> None:
    theirs, spec = _theirs(timm, row), SPEC.replace(**row.changes)
    ours = _randomised(densespec.build(spec, backend="torch.nn", seed=7))
    keys = get_layout("timm").keys(lower(spec), "torch")
    arrays = densespec.read_weights(ours)
    state = {keys[name]: torch.from_numpy(array) for name, array in arrays.items()}
    counters = theirs.load_state_dict(state, strict=False)
    assert not counters.unexpected_keys
    assert all(key.endswith("num_batches_tracked") for key in counters.missing_keys)
    assert _apart(ours, theirs) < TOLERANCE


@rows
def test_timm_builds_the_same_network_from_a_folder(timm: Any, tmp_path: Path, row: Row) -> None:
    spec = SPEC.replace(**row.changes)
    ours = _randomised(densespec.build(spec, backend="torch.nn", seed=7))
    save_pretrained(ours, tmp_path, format="timm")
    theirs = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    assert theirs.head_drop.p == spec.head_dropout_rate
    assert _apart(ours, theirs) < TOLERANCE
    again = from_pretrained(tmp_path, backend="torch.nn").eval()
    assert again.densespec.graph.spec == spec
    assert _apart(ours, again) == 0


@pytest.mark.parametrize("name", ["densenetblur121d", "densenet264d"])
def test_the_named_networks_have_the_arrays_of_timm(timm: Any, name: str) -> None:
    with torch.device("meta"):
        theirs = timm.create_model(name)
    wanted = {key: tuple(tensor.shape) for key, tensor in theirs.state_dict().items()}
    graph = lower(densespec.get(name))
    keys = get_layout("timm").keys(graph, "torch")
    found = {keys[weight.name]: weight.shape for weight in graph.weights}
    assert found == {key: shape for key, shape in wanted.items() if "num_batches" not in key}
    parameters = sum(one.numel() for one in theirs.parameters())
    assert graph.parameters.trainable == parameters == catalogue()[name].parameters


def test_the_named_network_with_blurred_pools_is_known_by_its_arrays(timm: Any) -> None:
    theirs = _randomised(timm.create_model("densenetblur121d"))
    ours = densespec.build(weights=theirs.state_dict(), backend="torch.nn").eval()
    assert ours.densespec.graph.spec == densespec.get("densenetblur121d")
    assert _apart(ours, theirs) < TOLERANCE
