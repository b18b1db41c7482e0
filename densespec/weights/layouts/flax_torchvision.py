"""Names arrays as Flax's ports of torchvision's network do: ``params/features/denseblock1/...``."""

from __future__ import annotations

import re
from collections.abc import Mapping

from densespec.weights.layouts import Layout, flax_names, renamed, torch_names
from densespec.weights.tensors import Tensor, Tensors

_key = flax_names.key_of(torch_names.module_path)
_STEM = re.compile(r"params/((?:.+/)?)(features|backbone)/conv0/kernel")


def _claims(tensors: Tensors, metadata: Mapping[str, str]) -> bool:
    return any(_STEM.fullmatch(name) for name in tensors)


def _normalise(tensors: Tensors) -> dict[str, Tensor]:
    """Strip what stands between the collection and ``features``, or flaxvision's name for it."""
    stem = next((stem for name in tensors if (stem := _STEM.fullmatch(name))), None)
    outer, features = stem.groups() if stem else ("", "features")

    def bare(name: str) -> str:
        collection, _, path = name.partition("/")
        path = path.removeprefix(outer)
        if path.startswith(f"{features}/"):
            path = "features/" + path.removeprefix(f"{features}/")
        return f"{collection}/{path}"

    return renamed(tensors, bare)


LAYOUT = Layout(
    name="flax-torchvision",
    about="Flax's ports of torchvision's network, such as flaxvision",
    containers=("msgpack", "orbax", "safetensors"),
    keys=flax_names.keys(_key),
    axes="window_in_out",
    claims=_claims,
    evidence=flax_names.evidence(_key),
    implements={
        **torch_names.IMPLEMENTS,
        "batch_norm_momentum": 0.01,
        "running_variance": "biased",
        "spatial_dims": 2,
    },
    normalise=_normalise,
)
