"""Models of PyTorch that are there whole: what their modules say is read, or refused by name."""

from __future__ import annotations

import functools
import warnings
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from densespec.errors import WeightsError, WeightsWarning
from densespec.reference.model import ReferenceModel
from densespec.weights.given import opened
from densespec.weights.opening import IdentifiedWeights
from densespec.weights.reading import ReadingOptions

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
from torch import nn  # noqa: E402

OURS = "the program of tests.test_whole_modules.Network is in no file"


class Layer(nn.Module):
    def __init__(self, channels: int, growth: int, act: Any, norm: Any) -> None:
        super().__init__()
        self.norm1 = norm(channels)
        self.relu1 = act()
        self.conv1 = nn.Conv2d(channels, 4 * growth, 1, bias=False)
        self.norm2 = norm(4 * growth)
        self.relu2 = act()
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, x: Any) -> Any:
        inner = self.conv1(self.relu1(self.norm1(x)))
        return torch.cat([x, self.conv2(self.relu2(self.norm2(inner)))], 1)


class Network(nn.Module):
    """A network of somebody's own, with torchvision's names."""

    def __init__(self, act: Any = nn.ReLU, eps: float = 1e-5, norm: Any = nn.BatchNorm2d) -> None:
        super().__init__()
        norm = functools.partial(norm, eps=eps)
        self.features = nn.Sequential(
            OrderedDict(
                conv0=nn.Conv2d(3, 4, 7, 2, 3, bias=False),
                norm0=norm(4),
                relu0=act(),
                pool0=nn.MaxPool2d(3, 2, 1),
                denseblock1=nn.Sequential(OrderedDict(denselayer1=Layer(4, 4, act, norm))),
                transition1=nn.Sequential(
                    OrderedDict(
                        norm=norm(8),
                        relu=act(),
                        conv=nn.Conv2d(8, 4, 1, bias=False),
                        pool=nn.AvgPool2d(2, 2),
                    )
                ),
                denseblock2=nn.Sequential(OrderedDict(denselayer1=Layer(4, 4, act, norm))),
                norm5=norm(8),
            )
        )
        self.classifier: nn.Module = nn.Linear(8, 5)

    def forward(self, x: Any) -> Any:
        return self.classifier(torch.relu(self.features(x)).mean((2, 3)))


def network(change: Callable[[Any], object] = lambda model: None, **options: Any) -> Any:
    """A network whose arrays are random, changed afterwards."""
    torch.manual_seed(0)
    model = Network(**options)
    for name, buffer in model.named_buffers():
        if "running" in name:
            buffer.uniform_(0.01, 0.02)
    change(model)
    return model.eval()


def setting(path: str, name: str, value: Any) -> Callable[[Any], object]:
    """A change of one attribute of a module."""
    return lambda model: setattr(model.get_submodule(path), name, value)


def head(*modules: nn.Module) -> Callable[[Any], object]:
    return lambda model: setattr(model, "classifier", nn.Sequential(*modules))


def given(model: Any, kind: str, folder: Path) -> Any:
    """The model itself, or the path of a file that it is saved in."""
    if kind == "in memory":
        return model
    torch.save(model, folder / "net.pt")
    return folder / "net.pt"


def read(source: Any, **options: Any) -> tuple[IdentifiedWeights, np.ndarray]:
    """What was made of a model, and what that computes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", WeightsWarning)
        with opened(source, None, ReadingOptions(**options)) as found:
            assert isinstance(found, IdentifiedWeights)
            return found, ReferenceModel(found.graph, found.arrays())(images().numpy())


def images() -> Any:
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1)).double()


both = pytest.mark.parametrize("kind", ["in memory", "in a file"])


def groups(channels: int, eps: float, *, affine: bool = True) -> nn.Module:
    return nn.GroupNorm(2, channels, eps, affine)


READ: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "as it is": (network, {}),
    "another epsilon": (lambda: network(eps=1e-2), {"batch_norm_epsilon": 1e-2}),
    "a sigmoid": (lambda: network(head(nn.Linear(8, 5), nn.Sigmoid())), {}),
    "a softmax": (lambda: network(head(nn.Linear(8, 5), nn.Softmax(1))), {}),
    "a ReLU in the head": (
        lambda: network(head(nn.Linear(8, 7), nn.ReLU(), nn.Dropout(), nn.Linear(7, 5))),
        {"head_units": (7,)},
    ),
    "nothing in the head": (
        lambda: network(head(nn.Linear(8, 7), nn.Dropout(), nn.Linear(7, 5))),
        {"head_units": ()},
    ),
    "norms of groups": (
        lambda: network(norm=groups, eps=1e-2),
        {"norm": "group", "norm_groups": 2, "norm_affine": True, "batch_norm_epsilon": 1e-2},
    ),
    "norms of groups that scale nothing": (
        lambda: network(norm=functools.partial(groups, affine=False)),
        {"norm": "group", "norm_groups": 2, "norm_affine": False},
    ),
    "norms of instances": (
        lambda: network(norm=functools.partial(nn.InstanceNorm2d, affine=True)),
        {"norm": "instance", "norm_affine": True},
    ),
    "norms that scale nothing": (
        lambda: network(norm=functools.partial(nn.BatchNorm2d, affine=False)),
        {"norm": "batch", "norm_affine": False},
    ),
    "no norms": (lambda: network(norm=nn.Identity), {"norm": "none"}),
    "on several devices": (
        lambda: nn.DataParallel(network(eps=1e-2)),
        {"batch_norm_epsilon": 1e-2},
    ),
}


@both
@pytest.mark.parametrize("name", READ)
def test_what_modules_say_is_read(tmp_path: Path, name: str, kind: str) -> None:
    model = READ[name][0]()
    found, outputs = read(given(model, kind, tmp_path))
    expected = model.double()(images()).detach().numpy()
    assert outputs == pytest.approx(expected, rel=1e-6, abs=1e-6)
    fields = READ[name][1]
    assert {field: getattr(found.spec, field) for field in fields} == fields
    assert [note for note in found.assumptions if not note.startswith(OURS)] == []


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "another activation": (
        lambda: network(act=nn.GELU),
        "6 of its modules compute gelu, but the network has 7 activations",
    ),
    "one other activation": (
        lambda: network(
            lambda m: setattr(m.features.denseblock1.denselayer1, "relu2", nn.LeakyReLU(0.2))
        ),
        "features.denseblock1.denselayer1.relu2 is a LeakyReLU",
    ),
    "no running statistics": (
        lambda: network(norm=functools.partial(nn.BatchNorm2d, track_running_stats=False)),
        "features.norm0 is a batch norm without running statistics",
    ),
    "one norm less": (
        lambda: network(
            lambda m: setattr(m.features.denseblock1.denselayer1, "norm2", nn.Identity())
        ),
        "features.denseblock1.denselayer1.norm2.weight is missing",
    ),
    "several epsilons": (
        lambda: network(setting("features.norm0", "eps", 0.1)),
        "its norms have several epsilons: features.norm0 has 0.1 and ",
    ),
    "no pool": (
        lambda: network(lambda m: setattr(m.features, "pool0", nn.Identity())),
        "features.pool0 is an Identity within the network",
    ),
    "another pool": (
        lambda: network(lambda m: setattr(m.features, "pool0", nn.AvgPool2d(3, 2, 1))),
        "features.pool0 has kernel_size = 3, but",
    ),
    "a maximum pool between blocks": (
        lambda: network(lambda m: setattr(m.features.transition1, "pool", nn.MaxPool2d(2))),
        "features.transition1.pool has kernel_size = 2, but",
    ),
    "a pool that rounds up": (
        lambda: network(setting("features.pool0", "ceil_mode", True)),
        "features.pool0 has ceil_mode = True, but",
    ),
    "another stride": (
        lambda: network(setting("features.conv0", "stride", (1, 1))),
        r"features.conv0 has stride = \[1, 1\], but in the network of these names it is 2: give "
        r"the spec that says so \(--spec FILE\)",
    ),
    "other pads": (
        lambda: network(setting("features.conv0", "padding", (0, 0))),
        r"features.conv0 has padding = \[0, 0\], but",
    ),
    "reflections": (
        lambda: network(setting("features.conv0", "padding_mode", "reflect")),
        "features.conv0 has padding_mode = 'reflect', but",
    ),
    "another end": (
        lambda: network(head(nn.Linear(8, 5), nn.LogSoftmax(1))),
        "classifier.1 is a LogSoftmax",
    ),
    "another activation in the head": (
        lambda: network(head(nn.Linear(8, 7), nn.Tanh(), nn.Linear(7, 5))),
        "classifier.1 is a Tanh",
    ),
    "a hook": (
        lambda: network(lambda m: m.features.norm0.register_forward_hook(print)),
        "features.norm0 has hooks, or a forward of its own",
    ),
}


@both
@pytest.mark.parametrize("name", REFUSED)
def test_what_no_spec_says_is_refused_by_name(tmp_path: Path, name: str, kind: str) -> None:
    model = REFUSED[name][0]()
    with pytest.raises(WeightsError, match=REFUSED[name][1]):
        read(given(model, kind, tmp_path))


@both
def test_the_spec_that_an_error_asks_for_is_taken(tmp_path: Path, kind: str) -> None:
    model = network(setting("features.conv0", "stride", (1, 1)))
    spec = read(network())[0].spec.replace(stem_stride=1)
    _, outputs = read(given(model, kind, tmp_path), spec=spec)
    assert outputs == pytest.approx(model.double()(images()).detach().numpy(), rel=1e-6, abs=1e-6)


def test_the_weights_alone_are_read_as_an_error_says(tmp_path: Path) -> None:
    model = network(lambda m: m.features.norm0.register_forward_hook(lambda *given: None))
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    _, outputs = read(tmp_path / "weights.pth")
    assert outputs == pytest.approx(model.double()(images()).detach().numpy(), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize(
    ("norm", "options"),
    [
        (groups, {"norm": "group", "norm_groups": 2}),
        (nn.InstanceNorm2d, {"norm": "instance", "norm_affine": False}),
        (nn.Identity, {"norm": "none"}),
    ],
    ids=["groups", "instances", "none"],
)
def test_norms_without_statistics_are_asked_for(
    norm: Any, options: dict[str, Any], tmp_path: Path
) -> None:
    model = network(norm=norm)
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    wanted = "--set norm=" + ("instance" if norm is groups else "none")
    with pytest.raises(WeightsError, match=wanted):
        read(tmp_path / "weights.pth")
    _, outputs = read(tmp_path / "weights.pth", assume=options)
    assert outputs == pytest.approx(model.double()(images()).detach().numpy(), rel=1e-6, abs=1e-6)


def test_a_given_spec_has_the_epsilon_of_the_modules(tmp_path: Path) -> None:
    source, spec = given(network(eps=1e-2), "in a file", tmp_path), read(network())[0].spec
    with pytest.raises(WeightsError, match=r"have the epsilon 0\.01, but the spec says 1e-05"):
        read(source, spec=spec)
    assert read(source, spec=spec.replace(batch_norm_epsilon=1e-2))[0].spec.batch_norm_epsilon


def test_what_modules_do_not_tell_is_said(tmp_path: Path) -> None:
    source = given(nn.Sequential(network(), nn.Sigmoid()), "in a file", tmp_path)
    with pytest.warns(WeightsWarning), opened(source) as found:
        assert isinstance(found, IdentifiedWeights)
    program, around = found.assumptions
    assert program.startswith(OURS)
    assert around == "left out, as they lie around the network: 1 (Sigmoid)"
