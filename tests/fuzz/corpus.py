"""The right files that are damaged: one of each container, as it is written here and by others,

and networks, which are not read alone but recognised too.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from densespec import get
from densespec.installed import is_installed
from densespec.network.graph import lower
from densespec.network.initial import initial_weights
from densespec.weights.checkpoint import write_checkpoint
from densespec.weights.convert import convert
from densespec.weights.opening import open_weights
from tests import test_whole_modules as whole_models
from tests.containers.samples import FILES, content, network, sample
from tests.fuzz.child import contents
from tests.fuzz.share import ANOTHER_CONFIG, ORBAX

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
        beside: the other files of its folder, by their paths there.
        opened: the path there that is opened; its own name if it is empty.
    """

    kind: str
    name: str
    content: bytes
    arrays: Mapping[str, np.ndarray]
    is_network: bool = False
    beside: Mapping[str, bytes] = field(default_factory=dict)
    opened: str = ""


def seeds(folder: Path) -> list[Seed]:
    """Write every sample into a folder and give it with what it holds."""
    arrays = network()
    samples = [
        Seed(KINDS.get(name, name), name, sample(folder, name, arrays).read_bytes(), arrays)
        for name in FILES
    ]
    networks = [_network(folder, kind, *NETWORKS[kind]) for kind in NETWORKS]
    return [*samples, *networks, *_folders(folder)]


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
    "torch-zip, Lightning's": ("lightning.ckpt", _converted("torchvision")),
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


TIMM, CHECKPOINT = CASES / "timm_folder", CASES / "original_keras2_checkpoint"
SAVED_MODEL = CASES / "keras2_nested_saved_model"
TENSORFLOW = "TensorFlow's"
FOLDERS: dict[str, tuple[Path, str, str]] = {
    "timm's config": (TIMM, "folder/config.json", "folder"),
    "timm's weights": (TIMM, "folder/model.safetensors", "folder"),
    f"{TENSORFLOW} index": (CHECKPOINT, "net.index", "net.index"),
    f"{TENSORFLOW} data": (CHECKPOINT, "net.data-00000-of-00001", "net.index"),
    f"{TENSORFLOW} SavedModel, its index": (SAVED_MODEL, "net/variables/variables.index", "net"),
    f"{TENSORFLOW} SavedModel, its metadata": (SAVED_MODEL, "net/keras_metadata.pb", "net"),
}
"""Folders of several files: what one of them is called in the table, and what is opened."""

ORBAXES = {
    f"{ORBAX} tree": "net/_METADATA",
    f"{ORBAX} description of an array": "net/params.classifier.kernel/.zarray",
    f"{ORBAX} array": "net/params.classifier.kernel/0.0",
}
"""Files of a checkpoint that is written here."""

NEEDED = {TENSORFLOW: "tensorflow", ORBAX: "tensorstore"}
"""The package that reads such a folder, by the first word of what it is called."""


def _folders(folder: Path) -> list[Seed]:
    found = [_in_folder(kind, *FOLDERS[kind]) for kind in FOLDERS if _can_be_read(kind)]
    return [*found, *(_orbaxes(folder) if _can_be_read(ORBAX) else ())]


def _orbaxes(folder: Path) -> list[Seed]:
    """Write a checkpoint. It is not read here, since tensorstore ends processes that fork then."""
    _converted("flax-torchvision")(folder / "net.orbax")
    with open_weights(folder / "source.safetensors") as source:
        arrays = source.arrays()
    files = {f"net/{name}": written for name, written in content(folder / "net.orbax").items()}
    return [
        Seed(
            kind, name, files[name], arrays, True, {n: files[n] for n in files if n != name}, "net"
        )
        for kind, name in ORBAXES.items()
    ]


def _can_be_read(kind: str) -> bool:
    package = NEEDED.get(kind.partition(" ")[0])
    return package is None or is_installed(package)


def _in_folder(kind: str, folder: Path, name: str, opened: str) -> Seed:
    files = {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }
    content, arrays = files.pop(name), contents(folder / opened, is_network=True)
    return Seed(kind, name, content, arrays, is_network=True, beside=files, opened=opened)
