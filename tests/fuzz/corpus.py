"""The right files that are damaged: one of each container, as it is written here and by others,

and networks, which are not read alone but recognised too.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from densespec import get
from densespec.network.graph import lower
from densespec.network.initial import initial_weights
from densespec.weights.checkpoint import write_checkpoint
from densespec.weights.convert import convert
from densespec.weights.opening import open_weights
from tests import test_whole_modules as whole_models
from tests.containers.samples import SAMPLES, network, sample
from tests.fuzz.share import ANOTHER_CONFIG

KINDS = {
    "zip.pth": "torch-zip",
    "net.pth": "torch-zip",
    "wrapped.pt": "torch-zip, wrapped",
    "legacy.pth": "torch-legacy",
    "net.npz": "npz",
    "plain.npz": "npz by numpy",
    "packed.npz": "npz, packed",
    "archive.keras": "keras",
    "packed.keras": "keras, packed",
}
"""What a sample is called in the table, where its name does not say it."""


@dataclass(frozen=True)
class Seed:
    """A right file.

    Attributes:
        kind: a line of the table.
        arrays: what it holds, by name.
        is_network: whether it is opened as a network, whose arrays have canonical names.
    """

    kind: str
    name: str
    content: bytes
    arrays: Mapping[str, np.ndarray]
    is_network: bool = False


def seeds(folder: Path) -> list[Seed]:
    """Write every sample into a folder and give it with what it holds."""
    arrays = network()
    samples = [
        Seed(KINDS.get(name, name), name, sample(folder, name, arrays).read_bytes(), arrays)
        for name in SAMPLES
    ]
    return [*samples, *(_network(folder, kind, *NETWORKS[kind]) for kind in NETWORKS)]


SPEC = get("densenet121").replace(blocks=(1, 1), growth_rate=2, stem_width=4, classes=3)
CASES = Path(__file__).parents[1] / "cases"


def _checkpoint(path: Path) -> None:
    graph = lower(SPEC)
    write_checkpoint(path, graph, initial_weights(graph))


def _converted(layout: str) -> Callable[[Path], object]:
    def write(path: Path) -> None:
        source = path.with_name("source.safetensors")
        _checkpoint(source)
        convert(source, path, to_layout=layout)

    return write


def _case(name: str) -> Callable[[Path], object]:
    """A file that Keras wrote."""
    return lambda path: shutil.copy(CASES / name / path.name, path)


NETWORKS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "a checkpoint": ("checkpoint.safetensors", _checkpoint),
    "torch-zip, torchvision's": ("torchvision.pth", _converted("torchvision")),
    "torch-zip, a whole model": (
        "model.pt",
        lambda path: torch.save(whole_models.network(), path),
    ),
    "Flax's msgpack": ("flax.msgpack", _converted("flax-torchvision")),
    "a whole .h5": ("model.h5", _case("keras_flat_hidden_h5")),
    "keras, a whole model": ("model.keras", _case("keras_nested_functional_keras")),
    ANOTHER_CONFIG: ("model.keras", _case("keras_softmax")),
}
"""What a network is called in the table, its file name, and what writes it."""


def _network(folder: Path, kind: str, name: str, write: Callable[[Path], None]) -> Seed:
    path = folder / name
    write(path)
    with open_weights(path) as found:
        return Seed(kind, name, path.read_bytes(), found.arrays(), is_network=True)
