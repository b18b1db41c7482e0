"""MONAI's ``state_dict``: torchvision's names, with dense layers and the head wrapped once more."""

from __future__ import annotations

from densespec.weights.layouts import Layout, torch_names


def _key(weight: str) -> str:
    key = torch_names.state_key(weight)
    if key.startswith("classifier."):
        return key.replace("classifier.", "class_layers.out.")
    head, mark, tail = key.partition(".denselayer")
    number, _, leaf = tail.partition(".")
    return f"{head}{mark}{number}.layers.{leaf}" if mark else key


LAYOUT = Layout(
    name="monai",
    about="monai.networks.nets.DenseNet*, in one to three dimensions",
    containers=("torch", "safetensors"),
    keys=torch_names.keys(_key),
    axes="out_in_window",
    claims=torch_names.claims("monai"),
    evidence=torch_names.evidence(_key),
    implements=torch_names.IMPLEMENTS,
    parts=torch_names.parts,
    normalise=torch_names.normalise,
    constants=torch_names.counters(_key),
    ignored=torch_names.is_counter,
    notes=lambda metadata: (
        "ReLUs, batch norms of epsilon 1e-05 and an average pool are assumed: no array tells what "
        "act= and norm= chose",
    ),
)
