"""Names arrays as in densespec's native PyTorch modules: torchvision's names, for any spec.

The names do not tell these files from torchvision's. This layout is for networks that torchvision's
program can't have.
"""

from __future__ import annotations

from densespec.weights.layouts import Layout, torch_names

LAYOUT = Layout(
    name="densespec-torch",
    about="PyTorch modules built by densespec",
    containers=("torch", "safetensors"),
    keys=torch_names.keys(),
    axes="out_in_window",
    claims=torch_names.claims(),
    evidence=torch_names.evidence(),
    parts=torch_names.parts,
    normalise=torch_names.normalise,
    constants=torch_names.counters(),
    ignored=torch_names.is_counter,
)
