"""Models that users change after they have built them: never the spec's network in silence."""

from __future__ import annotations

import copy
import random
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

import densespec  # noqa: E402
from densespec.errors import ModelChanged  # noqa: E402
from tests.strategies import tiny  # noqa: E402

nn = torch.nn
pytestmark = pytest.mark.usefixtures("small_blocks_are_fused")

SPEC = tiny(
    blocks=(2, 2),
    growth_rate=3,
    bottleneck_width=2,
    compression=0.5,
    stem_kind="conv-norm-relu",
    stem_pool=3,
    classes=4,
    dropout_rate=0.1,
)
TRAINING_MODES = ("layers", "fast", "efficient")

Change = Callable[[Any], object]


def norms(net: Any) -> list[Any]:
    return [module for module in net.modules() if hasattr(module, "eps")]


def first_negated(values: Mapping[str, Any]) -> Any:
    return -next(iter(values.values()))


def set_all(net: Any, attribute: str, value: float) -> None:
    for module in net.modules():
        if hasattr(module, attribute):
            setattr(module, attribute, value)


def replace_all(net: Any, kind: type, make: Callable[[Any], Any]) -> None:
    for parent in list(net.modules()):
        for name, child in parent.named_children():
            if type(child) is kind:
                setattr(parent, name, make(child))


def head(*layers: Any) -> Change:
    def change(net: Any) -> None:
        net.classifier = nn.Sequential(*copy.deepcopy(layers)) if len(layers) > 1 else layers[0]

    return change


def one_for_all(net: Any, kind: Any) -> None:
    """Let every module of a kind be one and the same."""
    shared = kind()
    for module in list(net.modules()):
        for name, child in module.named_children():
            if isinstance(child, kind):
                setattr(module, name, shared)


def in_inference_mode(change: Change) -> Change:
    def within(net: Any) -> None:
        with torch.inference_mode():
            change(net)

    return within


FEATURES = densespec.build(SPEC, backend="torch.nn").classifier.in_features

SAYABLE: Mapping[str, Change] = {
    "another number of classes": head(nn.Linear(FEATURES, 7)),
    "a hidden layer": head(nn.Linear(FEATURES, 5), nn.ReLU(), nn.Linear(5, 3)),
    "a softmax": head(nn.Linear(FEATURES, 5), nn.Softmax(1)),
    "a sigmoid": head(nn.Linear(FEATURES, 5), nn.Sigmoid()),
    "no bias": head(nn.Linear(FEATURES, 4, bias=False)),
    "dropout before the classifier": head(nn.Dropout(), nn.Linear(FEATURES, 4)),
    "another global pool": lambda net: setattr(net.global_pool, "kind", "max"),
    "no classifier": head(nn.Identity()),
    "another epsilon": lambda net: set_all(net, "eps", 0.01),
    "another momentum": lambda net: set_all(net, "momentum", 0.3),
    "another rate": lambda net: set_all(net, "p", 0.4),
    "no dropout": lambda net: set_all(net, "p", 0.0),
    "one ReLU for all": lambda net: one_for_all(net, nn.ReLU),
    "a shared convolution": lambda net: setattr(
        net.features.denseblock1.denselayer2,
        "conv2",
        net.features.denseblock1.denselayer1.conv2,
    ),
    "a shared parameter": lambda net: setattr(
        net.features.denseblock1.denselayer2.conv2,
        "weight",
        net.features.denseblock1.denselayer1.conv2.weight,
    ),
    "another activation": lambda net: replace_all(net, nn.ReLU, lambda _: nn.ELU()),
    "a slope": lambda net: replace_all(net, nn.ReLU, lambda _: nn.LeakyReLU(0.3)),
    "slopes that train": lambda net: replace_all(net, nn.ReLU, lambda _: nn.PReLU()),
    "norms of instances": lambda net: replace_all(
        net, nn.BatchNorm2d, lambda norm: nn.InstanceNorm2d(norm.num_features, affine=True)
    ),
    "norms of groups": lambda net: replace_all(
        net, nn.BatchNorm2d, lambda norm: nn.GroupNorm(1, norm.num_features, affine=False)
    ),
    "no norms": lambda net: replace_all(net, nn.BatchNorm2d, lambda _: nn.Identity()),
    "data in place": lambda net: next(net.parameters()).data.mul_(3),
    "a head made in inference mode": in_inference_mode(
        lambda net: setattr(net, "classifier", nn.Linear(FEATURES, 7, dtype=torch.float64))
    ),
    "other data": lambda net: setattr(net.classifier, "bias", nn.Parameter(torch.ones(4))),
    "a buffer": lambda net: norms(net)[1].running_var.data.add_(2),
    "all of them": lambda net: nn.utils.vector_to_parameters(
        nn.utils.parameters_to_vector(net.parameters()) * 1.1, net.parameters()
    ),
}
"""What a spec can say, by what the change is."""

REFUSED: Mapping[str, tuple[str, Change]] = {
    "no pool": ("features.pool0", lambda net: setattr(net.features, "pool0", nn.Identity())),
    "another activation": ("features.relu0", lambda net: setattr(net.features, "relu0", nn.ELU())),
    "an average over 3": (
        "features.transition1.pool",
        lambda net: setattr(net.features.transition1, "pool", nn.AvgPool2d(3, 2, 1)),
    ),
    "a hook": (
        "features.denseblock1.denselayer2.conv1",
        lambda net: net.features.denseblock1.denselayer2.conv1.register_forward_hook(
            lambda _module, _inputs, y: y * 2
        ),
    ),
    "a hook of the input": (
        "features.norm5",
        lambda net: net.features.norm5.register_forward_pre_hook(lambda _module, x: (x[0] + 1,)),
    ),
    "a hook of everything": ("model", lambda net: net.register_forward_hook(lambda _m, _x, y: -y)),
    "one epsilon": ("features.norm5", lambda net: setattr(norms(net)[-1], "eps", 0.1)),
    "another stride": (
        "features.conv0",
        lambda net: setattr(net.features.conv0, "stride", (2, 2)),
    ),
    "weight norm": (
        "features.conv0",
        lambda net: nn.utils.parametrizations.weight_norm(net.features.conv0),
    ),
    "another forward": ("relu", lambda net: setattr(net.relu, "forward", lambda x: x)),
    "another convolution": (
        "features.denseblock1.denselayer1.conv1",
        lambda net: setattr(
            net.features.denseblock1.denselayer1.conv1,
            "_conv_forward",
            lambda x, weight, _bias: 2 * nn.functional.conv2d(x, weight),
        ),
    ),
    "another result": ("the model itself", lambda net: setattr(net, "_result", first_negated)),
    "a shared norm": (
        "features.denseblock1.denselayer2.norm2",
        lambda net: setattr(
            net.features.denseblock1.denselayer2,
            "norm2",
            net.features.denseblock1.denselayer1.norm2,
        ),
    ),
    "no running statistics": (
        "features.denseblock1.denselayer1.norm1",
        lambda net: [setattr(norms(net)[1], f"running_{name}", None) for name in ("mean", "var")],
    ),
    "a dropout that adds": (
        "features.denseblock1.denselayer1.dropout1",
        lambda net: net.features.denseblock1.denselayer1.dropout1.register_forward_hook(
            lambda _module, _inputs, y: y + 1
        ),
    ),
    "a dropout that squares": (
        "features.denseblock1.denselayer1.dropout1",
        lambda net: setattr(
            net.features.denseblock1.denselayer1.dropout1, "forward", lambda x: x * x
        ),
    ),
    "no bias in the head": (
        "classifier.0",
        head(nn.Linear(FEATURES, 5, bias=False), nn.ReLU(), nn.Linear(5, 4)),
    ),
    "dropout early in the head": (
        "classifier.0",
        head(nn.Dropout(), nn.Linear(FEATURES, 5), nn.ReLU(), nn.Linear(5, 4)),
    ),
    "a module more": ("more", lambda net: net.add_module("more", nn.ReLU())),
}
"""What none can say, by what the change is: the name that the refusal has, and the change."""


def built(mode: str, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return densespec.build(SPEC, backend="torch.nn", mode=mode, dtype="float64", seed=seed)


def images(count: int = 2) -> Any:
    return torch.randn(
        count, 3, 24, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )


def outputs(net: Any) -> Any:
    with torch.no_grad():
        return net.eval()(images())


def changed(mode: str, *changes: Change, seed: int = 0) -> Any:
    net = built(mode, seed)
    torch.manual_seed(seed)
    for change in changes:
        change(net)
    return net.double()


every_mode = pytest.mark.parametrize("mode", TRAINING_MODES)


def everything(net: Any, folder: Path) -> dict[str, Any]:
    """What a network computes, and what all that is made of it computes."""
    results = {"optimize": outputs(densespec.optimize(net))}
    for mode in TRAINING_MODES:
        results[mode] = outputs(densespec.in_mode(net, mode))
    densespec.save(net, folder / "net.safetensors")
    origin = densespec.build(
        weights=folder / "net.safetensors",
        backend="torch.nn",
        dtype="float64",
        include_top=hasattr(net, "classifier") and not isinstance(net.classifier, nn.Identity),
    )
    results["save"] = origin
    return results


@every_mode
@pytest.mark.parametrize("change", SAYABLE.values(), ids=SAYABLE)
def test_what_a_spec_can_say_is_carried_over(mode: str, change: Change, tmp_path: Path) -> None:
    net = changed(mode, change)
    expected = outputs(changed("layers", change))
    results = everything(net, tmp_path)
    saved = results.pop("save")
    torch.testing.assert_close(outputs(net), expected)
    for result in results.values():
        torch.testing.assert_close(result, expected)
    weights = densespec.read_weights(net)
    for name, array in densespec.read_weights(saved).items():
        np.testing.assert_array_equal(array, weights[name])


@every_mode
@pytest.mark.parametrize(("part", "change"), REFUSED.values(), ids=REFUSED)
def test_the_rest_is_refused_by_name(
    mode: str, part: str, change: Change, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", ModuleType("huggingface_hub"))
    net = changed(mode, change)
    torch.testing.assert_close(outputs(net), outputs(changed("layers", change)))
    for make in (
        densespec.optimize,
        lambda net: densespec.in_mode(net, "layers"),
        lambda net: densespec.save(net, tmp_path / "net.safetensors"),
        lambda net: densespec.save_pretrained(net, tmp_path / "folder"),
        lambda net: densespec.export(net, tmp_path / "net.pt2"),
        lambda net: densespec.push_to_hub(net, "user/net"),
    ):
        with pytest.raises(ModelChanged, match=part.replace(".", r"\.")):
            make(net)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("seed", range(12))
def test_several_changes_at_random(seed: int) -> None:
    draw = random.Random(seed)
    names = draw.sample(sorted(SAYABLE), 2) + draw.sample(sorted(REFUSED), draw.randrange(2))
    draw.shuffle(names)
    changes = [SAYABLE[name] if name in SAYABLE else REFUSED[name][1] for name in names]
    mode = draw.choice(TRAINING_MODES)
    try:
        plain = changed("layers", *changes, seed=seed)
    except (AttributeError, RuntimeError):
        return  # one change leaves nothing for another to change
    net = changed(mode, *changes, seed=seed)
    torch.testing.assert_close(outputs(net), outputs(plain))
    try:
        made = densespec.optimize(net)
    except ModelChanged:
        assert set(names) & set(REFUSED)
        return
    torch.testing.assert_close(outputs(made), outputs(plain))  # one change may undo another


@every_mode
@pytest.mark.parametrize("kind", [nn.Dropout, nn.modules.batchnorm._BatchNorm])
def test_a_part_that_goes_on_training_is_kept_or_refused(mode: str, kind: Any) -> None:
    net = built(mode).eval()
    parts = [(name, part) for name, part in net.named_modules() if isinstance(part, kind)]
    for _, part in parts:
        part.train()
    with pytest.raises(ModelChanged, match=parts[0][0].replace(".", r"\.")):
        densespec.optimize(net)
    for other in TRAINING_MODES:
        turned = densespec.in_mode(net, other)
        if kind is nn.Dropout:
            assert (turned(images()) != turned(images())).any()
        else:
            torch.testing.assert_close(turned(images()), net(images()))
    densespec.optimize(net.train())


@every_mode
def test_training_sees_changes_too(mode: str) -> None:
    for name, (_, change) in REFUSED.items():
        if name in ("no pool", "weight norm", "dropout in the head"):
            continue
        nets = [changed(kind, change) for kind in ("layers", mode)]
        for net in nets:
            set_all(net, "p", 0.0)
        first, second = (net.train()(images(4)) for net in nets)
        torch.testing.assert_close(first, second, msg=name)


def test_an_export_is_of_the_changed_model(tmp_path: Path) -> None:
    net = changed("layers", SAYABLE["another epsilon"], SAYABLE["a hidden layer"]).float()
    result = densespec.export(net, tmp_path / "net.pt2")
    assert result.graph.spec.batch_norm_epsilon == 0.01
    module = torch.export.load(tmp_path / "net.pt2").module()
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(module(x), net.eval()(x), rtol=1e-4, atol=1e-5)


def test_an_export_is_checked_against_the_given_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = changed("layers", REFUSED["a hook of everything"][1]).float()
    from densespec_torch import backend

    monkeypatch.setattr(backend, "graph_of", lambda _model, graph, _kind: graph)
    with pytest.raises(densespec.DensespecError, match="given model differs"):
        densespec.export(net, tmp_path / "net.pt2")
    assert not list(tmp_path.iterdir())
