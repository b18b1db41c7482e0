"""Networks side by side in one flat Keras model, told apart by the names of their layers.

Keras 3 numbers layers by their class alone, so the arrays of such networks alternate in a file.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from densespec.errors import DensespecError, bare
from densespec.weights.stated.keras_layers import read_config
from densespec.weights.stated.keras_network import CONFIG_KEYS
from densespec.weights.stated.keras_parts import LAYER_NAMES, names_noted
from densespec.weights.tensors import Tensors
from densespec.weights.without import without_layers

MOST_TRIED = 6
"""At most this many starts of names are tried: those that most layers have."""

_STEM = re.compile(r"layers/(conv[123]d)(?:_\d+)?/vars/0")


def of_names(
    tensors: Tensors, metadata: Mapping[str, str], start: str
) -> tuple[Tensors, Mapping[str, str]] | None:
    """Take the layers of a flat Keras 3 model whose names start alike, as a model of their own.

    Returns:
        Their arrays, as if the other layers had never been there, and what is noted of them; None
        if no layer has such a name, or all have.
    """
    names = {
        path: str(name) for path, name in names_noted(metadata).items() if path.count("/") == 1
    }
    others = [name for name in names.values() if not name.startswith(start)]
    if not start or len(others) in (0, len(names)):
        return None
    kept, noted = without_layers(tensors, metadata, others)
    own = {
        path: name.removeprefix(start)
        for path, name in names_noted(noted).items()
        if name.startswith(start)
    }
    return kept, {**_narrowed(metadata, start), LAYER_NAMES: json.dumps(own)}


def _narrowed(metadata: Mapping[str, str], start: str) -> dict[str, str]:
    """Narrow a model's config to some layers; without one of their outputs, it states nothing."""
    found = {key: text for key, text in metadata.items() if key not in CONFIG_KEYS}
    for key in CONFIG_KEYS:
        if key in metadata and (entry := _of_layers(read_config(metadata[key]), start)):
            found[key] = json.dumps(entry)
    return found


def _of_layers(entry: Mapping[str, Any], start: str) -> dict[str, Any] | None:
    match entry:
        case {"config": {"layers": [*layers], "input_layers": [*begins], "output_layers": [*ends]}}:
            own = [layer for layer in layers if _name(layer).startswith(start)]
            read = json.dumps([layer.get("inbound_nodes") for layer in own])
            inputs = [
                layer
                for layer in layers
                if layer.get("class_name") == "InputLayer" and json.dumps(_name(layer)) in read
            ]
            names = {_name(layer) for layer in (*inputs, *own)}
            config = {
                **entry["config"],
                "layers": [layer for layer in layers if _name(layer) in names],
                "input_layers": [each for each in begins if each and each[0] in names],
                "output_layers": [each for each in ends if each and each[0] in names],
            }
            return {**entry, "config": config} if config["output_layers"] else None
    return None


def _name(layer: Any) -> str:
    match layer:
        case {"name": str(name)} | {"config": {"name": str(name)}}:
            return name
    return ""


def told_of_networks(
    tensors: Tensors, metadata: Mapping[str, str], read: Callable[[str], object]
) -> str:
    """Say how to choose one of several networks in a flat model; empty if there is but one.

    Args:
        read: Reads those layers whose names have a start; each start is tried.
    """
    stems = _stems(tensors)
    if stems < 2:
        return ""
    starts = [start for start in _starts(metadata) if _can(read, start)]
    if starts:
        choices = " or ".join(f"--prefix {bare(start)}" for start in starts)
        return (
            f"; it has {stems} networks side by side: choose one by how the names of its layers "
            f"start ({choices})"
        )
    return (
        f"; {stems} of its convolutions read images alike, so there may be as many networks side "
        "by side, and how names start does not tell which arrays are whose: load the file into the "
        "Keras model that saved it, and save each network by itself, such as by "
        "keras.Model(its_input, its_output).save_weights"
    )


def _stems(tensors: Tensors) -> int:
    """Count the convolutions that have the shape of the first one."""
    shapes = {
        (match[1], tensor.shape): name
        for name, tensor in tensors.items()
        if (match := _STEM.fullmatch(name)) and name == f"layers/{match[1]}/vars/0"
    }
    kernels = Counter(
        (match[1], tensor.shape)
        for name, tensor in tensors.items()
        if (match := _STEM.fullmatch(name))
    )
    return max((kernels[key] for key in shapes), default=0)


def _starts(metadata: Mapping[str, str]) -> list[str]:
    """List how names of layers start, up to a separator, the commonest first."""
    found = Counter(
        match[0]
        for name in names_noted(metadata).values()
        if (match := re.match(r"[^\W_]+[_.\-/]", str(name)))
    )
    return [start for start, _ in found.most_common(MOST_TRIED)]


def _can(read: Callable[[str], object], start: str) -> bool:
    try:
        read(start)
    except DensespecError:
        return False
    return True
