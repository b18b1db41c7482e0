"""Networks of more packages, saved as their users save them: a state dict, or the whole module."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import densespec
from densespec.weights.convert import convert
from densespec.weights.opening import open_weights
from tests.peers.apart import folder_of
from tests.peers.networks import TOLERANCE, difference, import_torchvision, randomise

torch = pytest.importorskip("torch", reason="PyTorch is not installed")


@dataclass(frozen=True)
class Program:
    """A network of a package.

    Attributes:
        package: The module that is imported.
        make: Builds the network, with random weights.
        layout: The one that its files are found to be of.
        channels: The number that it takes.
        size: The side of the images to run it on.
    """

    package: str
    make: Callable[[Any], Any]
    layout: str
    channels: int = 3
    size: int = 64

    def network(self) -> Any:
        if importlib.util.find_spec(self.package.partition(".")[0]) is None:
            pytest.skip(f"{self.package} is not installed")
        import_torchvision()
        network = self.make(importlib.import_module(self.package)).eval()
        randomise(network)
        return network

    def images(self) -> Any:
        shape = (2, self.channels, self.size, self.size)
        return torch.randn(shape, generator=torch.Generator().manual_seed(4))


def _pytorchcv(name: str, package: Any) -> Any:
    return package.get_model(name, pretrained=False)


PROGRAMS = {
    "torchxrayvision": Program(
        "torchxrayvision",
        lambda xrv: xrv.models.DenseNet(
            growth_rate=8, block_config=(1, 2, 1), num_init_features=16, num_classes=18
        ),
        "torchvision",
        channels=1,
    ),
    "pytorchcv for ImageNet": Program(
        "pytorchcv.model_provider",
        functools.partial(_pytorchcv, "densenet121"),
        "pytorchcv",
        size=224,
    ),
    "pytorchcv for CIFAR": Program(
        "pytorchcv.model_provider",
        functools.partial(_pytorchcv, "densenet40_k12_cifar10"),
        "pytorchcv-cifar",
        size=32,
    ),
    "pytorchcv for SVHN, with bottlenecks": Program(
        "pytorchcv.model_provider",
        functools.partial(_pytorchcv, "densenet40_k36_bc_svhn"),
        "pytorchcv-cifar",
        size=32,
    ),
}


@pytest.fixture(scope="module", params=PROGRAMS.values(), ids=PROGRAMS)
def program(request: pytest.FixtureRequest) -> Program:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def network(program: Program) -> Any:
    return program.network()


@pytest.fixture(params=["state dict", "whole module", "legacy whole module"])
def saved(request: pytest.FixtureRequest, network: Any, tmp_path: Path) -> Path:
    path = tmp_path / "net.pth"
    zipped = not request.param.startswith("legacy")
    value = network if "module" in request.param else network.state_dict()
    torch.save(value, path, _use_new_zipfile_serialization=zipped)
    return path


def test_it_computes_what_its_program_computes(program: Program, network: Any, saved: Path) -> None:
    with open_weights(saved) as found:
        assert found.layout.name == program.layout
    ours = densespec.build(None, weights=saved, backend="torch.nn").eval()
    x = program.images()
    with torch.no_grad():
        assert difference(ours(x).numpy(), network(x).numpy()) < TOLERANCE


def test_its_program_loads_what_comes_back(network: Any, saved: Path, tmp_path: Path) -> None:
    with open_weights(saved) as found:
        layout = found.layout.name
    between, back = tmp_path / "between.safetensors", tmp_path / "back.pth"
    convert(saved, between)
    convert(between, back, to_layout=layout)
    state, expected = torch.load(back, weights_only=True), network.state_dict()
    _assert_same(state, expected)
    network.load_state_dict(state, strict=True)


def _assert_same(state: Any, expected: Any) -> None:
    assert state.keys() == expected.keys()
    for name, tensor in expected.items():
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(state[name], tensor), name


# Encoders


@pytest.mark.parametrize("whole", [False, True], ids=["state dict", "whole module"])
@pytest.mark.parametrize("prefix", [None, "encoder."])
def test_an_encoder_of_segmentation_models(whole: bool, prefix: str | None, tmp_path: Path) -> None:
    program = Program(
        "segmentation_models_pytorch",
        lambda package: package.Unet("densenet121", encoder_weights=None),
        "torchvision",
    )
    unet, path = program.network(), tmp_path / "unet.pth"
    torch.save(unet if whole else unet.state_dict(), path)
    ours = densespec.build(
        None, weights=path, backend="torch.nn", include_top=False, prefix=prefix
    ).eval()
    x = program.images()
    with torch.no_grad():
        expected = unet.encoder(x)[-1].clamp(min=0)
        assert difference(ours(x).numpy(), expected.numpy()) < TOLERANCE
    back = tmp_path / "back.pth"
    convert(path, back, to_layout="torchvision", prefix=prefix)
    state = torch.load(back, weights_only=True)
    _assert_same(state, {k: v for k, v in unet.encoder.state_dict().items() if k in state})
    assert len(state) == len(unet.encoder.state_dict())


# MONAI of old, each in a process of its own


OLD = ("0.2.0", "0.3.0")

SAVE = """
import sys
from tests.peers.networks import import_torchvision, randomise
import_torchvision()
import numpy as np, torch, monai
from monai.networks.nets.densenet import DenseNet
torch.manual_seed(0)
dims = int(sys.argv[1])
network = DenseNet(dims, 1, 3, init_features=16, growth_rate=8, block_config=(1, 2)).eval()
randomise(network)
x = torch.randn(2, 1, *(32,) * dims)
torch.save(network.state_dict(), "state.pth")
torch.save(network, "whole.pth")
np.savez("io.npz", x=x, y=network(x).detach())
print(monai.__version__)
"""


@pytest.fixture(scope="module", params=OLD)
def version(request: pytest.FixtureRequest) -> str:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(scope="module", params=[1, 2, 3], ids="in {} dimensions".format)
def old_files(
    version: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("old")
    path = [folder_of(f"monai-{version}"), *sys.path]
    command = f"import sys\nsys.path[:0] = {path!r}\n{SAVE}"
    arguments = [sys.executable, "-c", command, str(request.param)]
    done = subprocess.run(arguments, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == version
    return folder


@pytest.mark.parametrize("name", ["state.pth", "whole.pth"])
def test_an_old_monai(old_files: Path, name: str, tmp_path: Path) -> None:
    with open_weights(old_files / name) as found:
        assert found.layout.name == "monai-0.3"
    ours = densespec.build(None, weights=old_files / name, backend="torch.nn").eval()
    with np.load(old_files / "io.npz") as stored, torch.no_grad():
        assert difference(ours(torch.from_numpy(stored["x"])).numpy(), stored["y"]) < TOLERANCE
    convert(old_files / name, tmp_path / "between.safetensors")
    back = tmp_path / "back.pth"
    convert(tmp_path / "between.safetensors", back, to_layout="monai-0.3")
    state = torch.load(old_files / "state.pth", weights_only=True)
    _assert_same(torch.load(back, weights_only=True), state)
