"""Names arrays as pytorchcv's networks for large images do."""

from __future__ import annotations

from densespec.weights.layouts import Layout, torch_names
from densespec.weights.layouts.parts import Parts, under
from densespec.weights.layouts.places import UNIT, by_place

key = torch_names.key_of(
    by_place(
        stem=lambda kind: f"features.init_block.{UNIT[kind]}",
        layer=lambda block, layer, kind, number: (
            f"features.stage{block}.unit{layer}.conv{number}.{UNIT[kind]}"
        ),
        transition=lambda number, kind: (
            f"features.stage{number + 1}.trans{number + 1}.conv.{UNIT[kind]}"
        ),
        others={"final.norm": "features.post_activ.bn", "classifier": "output"},
    )
)


def parts(stem: str) -> Parts:
    """Make the function that finds networks whose stem's kernel has this name."""
    return under(
        stem, root="features.", first="stage1.unit1.", body=r"init_block|stage\d+|post_activ"
    )


LAYOUT = Layout(
    name="pytorchcv",
    about="pytorchcv's densenet121 to densenet201",
    containers=("torch", "safetensors"),
    keys=torch_names.keys(key),
    axes="out_in_window",
    claims=lambda tensors, metadata: key("stem.conv.kernel") in tensors,
    evidence=torch_names.evidence(key),
    implements={**torch_names.IMPLEMENTS, "bottleneck_width": 4, "spatial_dims": 2},
    parts=parts(key("stem.conv.kernel")),
    constants=torch_names.counters(key),
    ignored=torch_names.is_counter,
)
