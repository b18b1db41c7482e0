"""Chooses one of the models in a Keras file, by its name or by the path of its arrays."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from densespec.texts import JsonError, parsed_json
from densespec.weights.stated.keras_layers import read_config
from densespec.weights.stated.keras_network import CONFIG_KEYS
from densespec.weights.tensors import Tensors

MODELS = ("Functional", "Model", "Sequential")
LAYER_NAMES, LAYERS = "layer_names", "layers"
"""The metadata keys for names by path in Keras 3's files, and for arrays by layer in legacy ones.
"""

DEEPEST = 16
"""At most this many models within models are looked into."""


def of_model(
    tensors: Tensors, metadata: Mapping[str, str], name: str
) -> tuple[Tensors, dict[str, str], str]:
    """Narrow a file down to one of its models.

    Args:
        name: The name of the model, or the text that the names of its arrays start with.

    Returns:
        The arrays, the metadata of that part, and the text that the names of the wanted arrays
            start with; empty if all of them are wanted.
    """
    given = name.rstrip("./")
    names, listed = (_dict(metadata, key) for key in (LAYER_NAMES, LAYERS))
    if given in listed:
        start = f"{given}/"
        own = {key.removeprefix(start): tensors[key] for key in listed[given] if key in tensors}
        return own, _stated(metadata, given), ""
    paths = [path for path, noted in names.items() if noted == given and path]
    prefix = f"{paths[0]}/" if len(paths) == 1 else name
    model = names.get(prefix.rstrip("/"), given.rpartition("/")[2])
    inner = {
        path.removeprefix(prefix): noted
        for path, noted in names.items()
        if path.startswith(prefix.rstrip("/") + "/")
    }
    narrowed = _stated(metadata, model) | ({LAYER_NAMES: json.dumps(inner)} if names else {})
    return tensors, narrowed, prefix


def arrays_of(
    layers: Collection[str], names: Iterable[str], metadata: Mapping[str, str]
) -> set[str]:
    """Choose the arrays of some layers, among the names of arrays.

    Args:
        layers: Their names; of those in models within the model, with the models' before them.
    """
    noted = names_noted(metadata)

    def is_of(name: str) -> bool:
        parts = name.rpartition("/vars/")[0].split("/") if noted else name.split("/")
        starts = ["/".join(parts[: end + 1]) for end in range(len(parts))]
        if noted:
            own = [str(noted[start]) for start in starts if noted.get(start)]
            starts = ["/".join(own[: end + 1]) for end in range(len(own))]
        return any(start in layers for start in starts)

    return {name for name in names if is_of(name)}


def names_noted(metadata: Mapping[str, str]) -> dict[str, Any]:
    """Return what layers are called, by their paths in one of Keras 3's files."""
    return _dict(metadata, LAYER_NAMES)


def models_in(metadata: Mapping[str, str]) -> list[str]:
    """Name the models with convolutions that lie within the model of a file."""
    names = _dict(metadata, LAYER_NAMES)
    inner = [
        noted
        for path, noted in names.items()
        if path and any(f"{path}/layers/conv{dims}d" in names for dims in (1, 2, 3))
    ]
    return (
        inner
        or [
            str(entry["config"]["name"])
            for key in CONFIG_KEYS
            if key in metadata
            for entry in _entries(read_config(metadata[key]), 0)
        ][1:]
    )


def _stated(metadata: Mapping[str, str], model: str) -> dict[str, str]:
    """Return the metadata with an inner model's config, or with none if there is no such model."""
    found = {key: text for key, text in metadata.items() if key not in (*CONFIG_KEYS, LAYERS)}
    for key in CONFIG_KEYS:
        if key in metadata:
            entries = _entries(read_config(metadata[key]), 0)
            own = [entry for entry in entries if entry["config"]["name"] == model]
            found |= {key: json.dumps(own[0])} if own else {}
    return found


def _entries(entry: Any, depth: int) -> Iterator[Mapping[str, Any]]:
    """Yield a model and those within it, from the outermost."""
    match entry:
        case {"class_name": str(kind), "config": {"name": str(), "layers": list(layers)}}:
            if kind in MODELS and depth < DEEPEST:
                yield entry
                for layer in layers:
                    yield from _entries(layer, depth + 1)


def _dict(metadata: Mapping[str, str], key: str) -> dict[str, Any]:
    try:
        found = parsed_json(metadata.get(key, "{}"), key)
    except JsonError:
        return {}
    return found if isinstance(found, dict) else {}
