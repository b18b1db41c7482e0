"""HDF5 as Keras writes it: Keras 3's ``.weights.h5``, and the ``.h5`` of Keras 2.

Keras 3 keeps the variables of each layer in a group ``vars`` that notes the layer's name; a
tensor's name is the path of its dataset, such as ``layers/conv2d_1/vars/0``. The metadata
``layer_names`` hold the notes: JSON of names by path, such as ``layers/conv2d_1``.

Legacy files list their layers, and each layer the names of its weights, which are the tensors'
names: ``conv1/conv/kernel:0``. Order matters to Keras when it loads either kind.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import count, takewhile
from typing import Any

import numpy as np

from densespec.errors import shown
from densespec.weights.containers.base import (
    ITEM_SIZES,
    Damaged,
    MappedFile,
    Opened,
    Output,
    Refused,
    require,
)
from densespec.weights.containers.hdf5_format import HDF5File, Node

LAYER_NAMES = "layer_names"
WEIGHT_NAMES = "weight_names"
LONGEST_ATTRIBUTE = 64512
"""Bytes beyond which Keras cuts a list into several attributes."""

OLD_LAYERS = "_layer_checkpoint_dependencies"
"""What Keras 2.13 called ``layers``."""

LEGACY_TEXTS = {"backend": "tensorflow", "keras_version": "2.15.0"}

DEEPEST = 64

TYPES = [name for name in ITEM_SIZES if not name.startswith(("complex", "float8"))]


def read(opened: Opened) -> None:
    read_from(opened, MappedFile.at(opened.path))


def read_from(opened: Opened, file: MappedFile) -> None:
    """Fill an open file from the bytes of an HDF5 file."""
    root = HDF5File(file).root
    weights = root["model_weights"] if "model_weights" in root.links else root
    for node in (root, weights):
        opened.metadata.update(_texts(node))
    layers = _names(weights, LAYER_NAMES)
    if layers is None and weights is root:
        opened.container = "keras-weights"
        noted = dict(_walk(opened, file, root, "", set()))
        opened.metadata[LAYER_NAMES] = json.dumps(noted, ensure_ascii=False)
    else:
        opened.container = "keras-legacy"
        for layer in layers or []:
            group = _at(weights, layer)
            for name in _names(group, WEIGHT_NAMES) or []:
                _add(opened, file, name, _at(group, name))


def _texts(node: Node) -> dict[str, str]:
    texts = node.attributes.items()
    return {key: text for key, text in texts if isinstance(text, str) and key != LAYER_NAMES}


def _walk(
    opened: Opened, file: MappedFile, group: Node, path: str, seen: set[int]
) -> Iterator[tuple[str, str]]:
    """Add every array below a group. Yields the noted names of layers, by path."""
    if group.address in seen or path.count("/") >= DEEPEST:
        raise Damaged(f"the group {shown(path)} leads back to itself, or lies too deep")
    seen.add(group.address)
    for part in group.links:
        member = group[part]
        inner = f"{path}/{part}" if path else part.replace(OLD_LAYERS, "layers")
        if member.is_array:
            _add(opened, file, inner, member)
            continue
        name = member.attributes.get("name") if part == "vars" else None
        if isinstance(name, str):
            yield path, name
        yield from _walk(opened, file, member, inner, seen)


def _names(group: Node, key: str) -> list[str] | None:
    """A list of names, which Keras cuts up where it is long."""
    if key in group.attributes:
        return _list(group, key)
    if f"{key}0" not in group.attributes:
        return None
    keys = takewhile(group.attributes.__contains__, (f"{key}{n}" for n in count()))
    return [name for part in keys for name in _list(group, part)]


def _list(group: Node, key: str) -> list[str]:
    names = group.attributes[key]
    if not isinstance(names, list):
        raise Damaged(f"its attribute {key} should be a list of names")
    return names


def _at(group: Node, path: str) -> Node:
    for part in path.split("/"):
        group = group[part]
    return group


def _add(opened: Opened, file: MappedFile, name: str, node: Node) -> None:
    try:
        array = node.array()
    except Refused as error:
        raise Refused(f"{shown(name)}: {error}") from error
    opened.add(
        name,
        array.shape,
        array.dtype,
        lambda dtype: file.array(array.start, array.shape, dtype, array.order),
    )


# Writing


def write_weights(output: Output) -> None:
    """Write a ``.weights.h5`` of Keras 3."""
    names = _layer_names(output)
    with _new_file(output) as file:
        _write_texts(file, output.metadata)
        for name, array in output.arrays():
            dataset = file.create_dataset(name, data=array)
            if array.dtype.name == "bfloat16":
                dataset.attrs["dtype"] = "bfloat16"
        for layer, text in names.items():
            file.require_group(f"{layer}/vars".lstrip("/")).attrs["name"] = text


def _layer_names(output: Output) -> dict[str, str]:
    names = json.loads(output.metadata.get(LAYER_NAMES, "{}"))
    for layer in names:
        if layer in output.tensors or f"{layer}/vars".lstrip("/") in output.tensors:
            raise Refused(f"{shown(layer)} is a layer, but also an array")
    return names


def write_legacy(output: Output) -> None:
    """Write an ``.h5`` of Keras 2: the weights alone, or below a ``model_config`` if there is one.

    A tensor's layer is its name up to the last ``/``.
    """
    layers: dict[str, list[str]] = {}
    for name in output.tensors:
        layers.setdefault(name.rpartition("/")[0] or name, []).append(name)
    with _new_file(output) as file:
        _write_texts(file, {**LEGACY_TEXTS, **output.metadata})
        weights = file.create_group("model_weights") if "model_config" in output.metadata else file
        _write_names(weights, LAYER_NAMES, list(layers))
        for layer, names in layers.items():
            group = weights.require_group(layer)
            _write_names(group, WEIGHT_NAMES, names)
            for name, array in output.arrays(names):
                group.create_dataset(name, data=array)


def _new_file(output: Output) -> Any:
    h5py: Any = require("h5py", "HDF5 files", "'densespec[hdf5]'")
    output.check_types(TYPES, "HDF5 files")
    output.check_tree()
    return h5py.File(output.temporary, "w")


def _write_texts(group: Any, texts: Mapping[str, str]) -> None:
    for key, text in texts.items():
        if key != LAYER_NAMES:
            group.attrs[key] = text


def _write_names(group: Any, key: str, names: list[str]) -> None:
    """Write a list of names as Keras does, cut into as many parts as it needs."""
    texts = np.array([name.encode() for name in names])
    count = 1
    while any(part.nbytes > LONGEST_ATTRIBUTE for part in np.array_split(texts, count)):
        count += 1
    if count == 1:
        group.attrs[key] = texts
    else:
        for number, part in enumerate(np.array_split(texts, count)):
            group.attrs[f"{key}{number}"] = part
