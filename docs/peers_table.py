"""Writes the table in ``docs/peers.md``: ``python -m docs.peers_table``, with the peers installed.

Each peer's network gets random weights and runs on seeded images in float32; densespec loads its
weight file, and runs twice in float64: with the spec that the file is found to have, and as
densespec's variant of that name.
"""

from __future__ import annotations

import platform
import tempfile
from collections.abc import Iterable, Sequence
from importlib import metadata
from pathlib import Path

import numpy as np

import densespec
from densespec.atomic import atomic_path
from densespec.backends import get_backend
from densespec.network.arrays import Arrays
from densespec.network.differences import TRAINING_ONLY, spec_differences
from densespec.network.spec import DenseNetSpec
from densespec.weights.opening import open_weights
from tests.peers.networks import FEATURES, PEERS, Peer, difference

PAGE = Path(__file__).with_name("peers.md")
START, END = "<!-- generated: peers -->\n", "<!-- end: peers -->\n"

SHAPES = (
    *("blocks", "growth_rate", "bottleneck_width", "compression", "stem_width"),
    *("in_channels", "classes", "spatial_dims"),
)
"""Fields that weights decide, whatever the variant."""

HEAD = (
    *("peer", "network", "layout", "variant", "differs in inference", "differs in training"),
    *("its own spec", "the variant"),
)


def table() -> str:
    rows = [_row(peer) for peer in PEERS]
    versions = [f"{name} {metadata.version(name)}" for name in ("torch", "numpy")]
    made = f"Measured with {' and '.join(versions)} on {platform.machine()}."
    return f"{markdown(HEAD, rows)}\n\n{made}"


def _row(peer: Peer) -> list[str]:
    if reason := peer.missing():
        raise SystemExit(f"{peer.name}: {reason}")
    network = peer.make()
    network.randomise()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"net{peer.suffixes[0]}"
        network.save(path)
        with open_weights(path) as found:
            spec, arrays, layout = found.spec, found.arrays(), found.layout.name
    images = peer.images(spec)
    expected = network.forward(images)[FEATURES]
    shapes = {field: getattr(spec, field) for field in SHAPES}
    variant = densespec.get(peer.variant).replace(**shapes)
    own, named = (difference(_features(each, arrays, images), expected) for each in (spec, variant))
    apart = spec_differences(spec, variant)
    inference = {name: ours for name, (ours, _) in apart.items() if name not in TRAINING_ONLY}
    training = {name: ours for name, (ours, _) in apart.items() if name in TRAINING_ONLY}
    return [
        f"{peer.package} {peer.version}",
        peer.network,
        f"`{layout}`",
        f"`{peer.variant}`",
        _fields(inference),
        _fields(training),
        f"{own:.1e}",
        f"{named:.1e}",
    ]


def _fields(values: dict[str, object]) -> str:
    return ", ".join(f"`{name} = {value!r}`" for name, value in values.items()) or "nothing"


def _features(spec: DenseNetSpec, arrays: Arrays, images: np.ndarray) -> np.ndarray:
    options = {"weights": arrays, "include_top": False, "dtype": "float64"}
    model = densespec.build(spec, backend="torch.nn", **options)
    backend = get_backend("torch.nn")
    return backend.forward(model, model.densespec.graph, images, [FEATURES])[FEATURES]


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def page() -> str:
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(START)
    return f"{before}{START}\n{table()}\n\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    text = page()
    with atomic_path(PAGE) as temporary:
        temporary.write_text(text, encoding="utf-8")
