"""Writes a network as timm keeps it on the Hub: with torchvision's names and timm's config."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from densespec.atomic import atomic_path
from densespec.errors import WeightsError, in_words
from densespec.network.arrays import Arrays
from densespec.network.differences import TRAINING_ONLY
from densespec.network.graph import Graph
from densespec.weights.beside import CONFIG, WEIGHTS
from densespec.weights.comparing import effect_of
from densespec.weights.containers import write_file
from densespec.weights.layouts import get_layout
from densespec.weights.naming import layout_tensors
from densespec.weights.stated.timm import timm_config
from densespec.weights.tensors import Tensor

TEXTS = {"format": "pt"}
"""Transformers looks for this entry in a file with PyTorch's names."""


def write_timm_folder(
    folder: Path,
    graph: Graph,
    arrays: Arrays,
    pretrained_cfg: Mapping[str, Any],
    labels: Sequence[str] | None,
) -> tuple[str, ...]:
    """Write the weights and the config of a network into a folder, each whole or not at all.

    Args:
        arrays: By canonical name, with canonical axes.
        pretrained_cfg: What timm calls so: how images are prepared.
        labels: The names of the classes; None to say nothing of them.

    Returns:
        What timm's network does otherwise: in training, by less than float32 rounds, or behind
        the classifier; in sentences.

    Raises:
        WeightsError: Timm's architecture can't be this network, which names the fields, or a file
            can't be written.
    """
    config = timm_config(graph)
    notes = _differences(graph, arrays)
    tensors = {name: Tensor.of(array) for name, array in arrays.items()}
    named = layout_tensors(get_layout("timm"), "safetensors", graph, tensors)
    write_file(folder / WEIGHTS, named, TEXTS, container="safetensors")
    config["pretrained_cfg"] = {
        **pretrained_cfg,
        "num_classes": config["num_classes"],
        "first_conv": "features.conv0",
        "classifier": "classifier",
    }
    if labels is not None:
        config["label_names"] = list(labels)
    with atomic_path(folder / CONFIG) as temporary:
        temporary.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return notes


def _differences(graph: Graph, arrays: Arrays) -> tuple[str, ...]:
    """Say where timm's implementation differs; see :func:`write_timm_folder`."""
    apart = get_layout("timm").differences(graph.spec)
    training = {name: apart[name] for name in apart if name in TRAINING_ONLY}
    lasting = {name: apart[name] for name in apart if name not in TRAINING_ONLY}
    notes = [f"only training differs: {line}" for line in in_words(training, "here", "in timm's")]
    if activation := graph.classifier_activation:
        notes.append(f"a {activation} follows the classifier here: timm's network gives logits")
    if not lasting:
        return tuple(notes)
    said = "; ".join(in_words(lasting, "here", "in timm's"))
    exact = {name: array.astype(np.float64) for name, array in arrays.items()}
    effect = effect_of({name: theirs for name, (_, theirs) in lasting.items()}, graph.spec, exact)
    if effect is None or not effect.is_rounding:
        raise WeightsError(f"timm's architecture computes another network: {said}")
    return (
        *notes,
        f"{said}: the feature map differs by {effect.difference:.1e} of its largest value, which "
        f"is below float32's own rounding of this network, {effect.rounding:.1e}",
    )
