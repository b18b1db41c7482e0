"""Names arrays as MONAI: like torchvision, with dense layers and the head wrapped once more."""

from __future__ import annotations

from densespec.weights.layouts import Layout, torch_names


def _key(weight: str) -> str:
    key = torch_names.state_key(weight)
    if key.startswith("classifier."):
        return key.replace("classifier.", "class_layers.out.")
    if key.startswith("relu."):
        return f"class_layers.{key}"
    head, mark, tail = key.partition(".denselayer")
    number, _, leaf = tail.partition(".")
    return f"{head}{mark}{number}.layers.{leaf}" if mark else key


ARGUMENTS = {
    "activation": "relu",
    "activation_slope": 0.01,
    "norm": None,
    "norm_groups": 32,
    "norm_affine": True,
    "batch_norm_epsilon": 1e-5,
}
"""Maps the values of ``act=`` and ``norm=`` to fields of the spec."""

LAYOUT = Layout(
    name="monai",
    about="monai.networks.nets.DenseNet*, in one to three dimensions",
    containers=("torch", "safetensors"),
    keys=torch_names.keys(_key),
    axes="out_in_window",
    claims=torch_names.claims("monai"),
    evidence=torch_names.evidence(_key),
    implements={n: value for n, value in torch_names.IMPLEMENTS.items() if n not in ARGUMENTS},
    usual=ARGUMENTS,
    parts=torch_names.parts,
    normalise=torch_names.normalise,
    constants=torch_names.counters(_key),
    ignored=torch_names.is_counter,
)
