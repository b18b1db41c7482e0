"""MONAI's ``state_dict``: torchvision's names, with dense layers and the head wrapped once more."""

from __future__ import annotations

from densespec.weights.layouts import Layout, torch_names
from densespec.weights.layouts.torchvision import MONAI_MARK


def _rename(key: str) -> str:
    if key.startswith("classifier."):
        return key.replace("classifier.", "class_layers.out.")
    head, mark, tail = key.partition(".denselayer")
    number, _, leaf = tail.partition(".")
    return f"{head}{mark}{number}.layers.{leaf}" if mark else key


LAYOUT = Layout(
    name="monai",
    about="monai.networks.nets.DenseNet*, in one to three dimensions",
    containers=("torch", "safetensors"),
    keys=torch_names.keys(_rename),
    axes="out_in_window",
    claims=lambda tensors, metadata: (
        torch_names.has_stem(tensors) and any(MONAI_MARK in name for name in tensors)
    ),
    evidence=torch_names.evidence(_rename),
    implements=torch_names.IMPLEMENTS,
    normalise=torch_names.normalise,
    constants=torch_names.counters(_rename),
    ignored=torch_names.is_counter,
)
