"""Names arrays as MONAI 0.1 to 0.3 does: like torchvision, except for the head."""

from __future__ import annotations

from densespec.weights.layouts import Layout, torch_names


def _key(weight: str) -> str:
    return torch_names.state_key(weight).replace("classifier.", "class_layers.class.")


LAYOUT = Layout(
    name="monai-0.3",
    about="the DenseNets of MONAI 0.1 to 0.3, in one to three dimensions",
    containers=("torch", "safetensors"),
    keys=torch_names.keys(_key),
    axes="out_in_window",
    claims=torch_names.claims("monai-0.3"),
    evidence=torch_names.evidence(_key),
    implements=torch_names.IMPLEMENTS,
    parts=torch_names.parts,
    normalise=torch_names.normalise,
    constants=torch_names.counters(_key),
    ignored=torch_names.is_counter,
)
