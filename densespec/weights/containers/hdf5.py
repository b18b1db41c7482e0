"""Reads and writes HDF5 as Keras does: Keras 3's ``.weights.h5``, and the ``.h5`` of Keras 2.

Keras 3 keeps the variables of each layer in a group ``vars`` that notes the layer's name; a
tensor's name is the path of its dataset, such as ``layers/conv2d_1/vars/0``. The metadata
``layer_names`` hold the notes: JSON of names by path, such as ``layers/conv2d_1``.

Legacy files list their layers, and each layer the names of its weights, which are the tensors'
names: ``conv1/conv/kernel:0``. A tensor's layer is its name up to the last ``/``. Where it is not,
as in models within models, the metadata ``layers`` hold JSON of lists of names by layer. Keras
loads both kinds by the order of layers and weights, not by names.
"""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterator, Mapping
from itertools import count, takewhile
from typing import Any

import numpy as np

from densespec.errors import shown
from densespec.installed import require
from densespec.texts import parsed_json
from densespec.weights.containers.base import (
    ITEM_SIZES,
    MAX_DEPTH,
    MOST_TEXT,
    BytesOfFile,
    Damaged,
    Opened,
    Output,
    Refused,
    StoredBytes,
)
from densespec.weights.containers.hdf5_format import HDF5File, HDF5Object

LAYER_NAMES = "layer_names"
WEIGHT_NAMES = "weight_names"
LAYERS = "layers"
LONGEST_ATTRIBUTE = 64512
"""Keras cuts a list with more bytes than this into several attributes."""

UNLISTED = ("top_level_model_weights",)
"""No layer has these groups of weights, which Keras 2 doesn't list among the layers."""

OPTIMIZER = "optimizer_weights"
"""The group with this name holds an optimizer's state."""

DESCRIPTIONS = ("model_config", "training_config")
"""Texts with these names describe a model as JSON."""

OLD_LAYERS = "_layer_checkpoint_dependencies"
"""Keras 2.13 used this name for ``layers``."""

LEGACY_TEXTS = {"backend": "tensorflow", "keras_version": "2.15.0"}

TYPES = [name for name in ITEM_SIZES if not name.startswith(("complex", "float8"))]
LEGACY_TYPES = [name for name in TYPES if name != "bfloat16"]  # which Keras can't read from there


def read(opened: Opened) -> None:
    read_from(opened, BytesOfFile(opened.path))


def read_from(opened: Opened, file: StoredBytes) -> None:
    """Fill an open file from the bytes of an HDF5 file."""
    root = HDF5File(file).root
    weights = root["model_weights"] if "model_weights" in root.links else root
    for node in (root, weights):
        opened.metadata.update(_texts(node))
    layers = _names(weights, LAYER_NAMES)
    if layers is None and weights is root:
        opened.container = "keras-weights"
        noted = dict(_walk(opened, file, root))
        opened.metadata[LAYER_NAMES] = json.dumps(noted, ensure_ascii=False)
    else:
        opened.container = "keras-legacy"
        _read_layers(opened, file, weights, layers or [])
    for key in DESCRIPTIONS:
        if key in opened.metadata:
            parsed_json(opened.metadata[key], f"its {key}")


def _texts(node: HDF5Object) -> dict[str, str]:
    texts = node.attributes.items()
    return {key: text for key, text in texts if isinstance(text, str) and key != LAYER_NAMES}


def _walk(opened: Opened, file: StoredBytes, group: HDF5Object) -> Iterator[tuple[str, str]]:
    """Add every array below a group. Yields the noted names of layers, by path."""
    for path, member in _below(group):
        inner = "/".join("layers" if part == OLD_LAYERS else part for part in path.split("/"))
        name = member.attributes.get("name") if path.endswith("vars") else None
        if member.is_array:
            _add(opened, file, inner, member)
        elif isinstance(name, str):
            yield inner.removesuffix("vars").removesuffix("/"), name


def _below(group: HDF5Object) -> Iterator[tuple[str, HDF5Object]]:
    """Yield every group and array below a group, with its path.

    Raises:
        Damaged: a group leads back to itself, or lies too deep.
    """
    seen, room = {group.address}, MOST_TEXT
    open_groups = [("", group, iter(group.links))]
    while open_groups:
        above, parent, parts = open_groups[-1]
        part = next(parts, None)
        if part is None:
            open_groups.pop()
            continue
        path, node = f"{above}{part}", parent[part]
        room -= len(path)
        yield path, node
        if node.is_array:
            continue
        if node.address in seen or len(open_groups) > MAX_DEPTH or room < 0:
            raise Damaged(f"the group {shown(path)} leads back to itself, or lies too deep")
        seen.add(node.address)
        open_groups.append((f"{path}/", node, iter(node.links)))


def _read_layers(opened: Opened, file: StoredBytes, weights: HDF5Object, layers: list[str]) -> None:
    listed: dict[str, list[str]] = {}
    nodes: dict[str, HDF5Object] = {}
    for layer in [*layers, *(name for name in UNLISTED if name in weights.links)]:
        group = _at(weights, layer)
        names = _names(group, WEIGHT_NAMES) or []
        is_another = layer not in listed and not nodes.keys().isdisjoint(names)
        prefix = f"{layer}/" if is_another else ""
        listed[layer] = [f"{prefix}{name}" for name in names]
        for name in names:
            node = nodes[f"{prefix}{name}"] = _at(group, name)
            _add(opened, file, f"{prefix}{name}", node)
    named = {node.address for node in nodes.values()}
    for path, node in _below(weights):
        if node.is_array and node.address not in named and not path.startswith(OPTIMIZER):
            raise Damaged(f"it has an array {shown(path)} that none of its lists of names has")
    if any(_layer_of(name) != layer for layer, names in listed.items() for name in names):
        listed = {layer: names for layer, names in listed.items() if names}
        opened.metadata[LAYERS] = json.dumps(listed, ensure_ascii=False)


def _names(group: HDF5Object, key: str) -> list[str] | None:
    """Read a list of names, which Keras cuts up if it is long."""
    if key in group.attributes:
        return _list(group, key)
    if f"{key}0" not in group.attributes:
        return None
    keys = takewhile(group.attributes.__contains__, (f"{key}{n}" for n in count()))
    return [name for part in keys for name in _list(group, part)]


def _list(group: HDF5Object, key: str) -> list[str]:
    names = group.attributes[key]
    if not isinstance(names, list):
        raise Damaged(f"its attribute {key} should be a list of names")
    return names


def _at(group: HDF5Object, path: str) -> HDF5Object:
    for part in path.split("/"):
        group = group[part]
    return group


def _add(opened: Opened, file: StoredBytes, name: str, node: HDF5Object) -> None:
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
    with _new_file(output, TYPES) as file:
        _write_texts(file, output.metadata)
        groups = {"": file}  # finding a group by its path is slow
        for name, array in output.arrays():
            path, _, leaf = name.rpartition("/")
            if path not in groups:
                groups[path] = file.require_group(path)
            dataset = _create(groups[path], leaf, array)
            if array.dtype.name == "bfloat16":
                dataset.attrs["dtype"] = "bfloat16"
        for layer, text in names.items():
            path = f"{layer}/vars".lstrip("/")
            group = groups[path] if path in groups else file.require_group(path)
            group.attrs["name"] = text


def _layer_names(output: Output) -> dict[str, str]:
    """Read the names of layers by path.

    Raises:
        Refused: the metadata do not hold them as JSON, or a path is an array's.
    """
    names = _json(output, LAYER_NAMES)
    if not all(isinstance(name, str) for name in names.values()):
        raise Refused(f"the metadata {LAYER_NAMES} should be JSON of names by path")
    for layer in names:
        parts = [*layer.split("/"), "vars"]
        if any(
            "/".join(parts[:end]).lstrip("/") in output.tensors for end in range(len(parts) + 1)
        ):
            raise Refused(f"{shown(layer)} is a layer, but also an array, or below one")
    return names


def _json(output: Output, key: str) -> dict[str, Any]:
    try:
        value = json.loads(output.metadata.get(key, "{}"))
    except ValueError as error:
        raise Refused(f"the metadata {key} should be JSON") from error
    if not isinstance(value, dict):
        raise Refused(f"the metadata {key} should be a JSON object")
    return value


def write_legacy(output: Output) -> None:
    """Write an ``.h5`` of Keras 2: weights alone, or a model's if there is a ``model_config``."""
    layers = _layers(output)
    with _new_file(output, LEGACY_TYPES) as file:
        _write_texts(file, {**LEGACY_TEXTS, **output.metadata})
        weights = file.create_group("model_weights") if "model_config" in output.metadata else file
        _write_names(weights, LAYER_NAMES, list(layers))
        for layer, names in layers.items():
            for name, array in output.arrays(names):
                _create(weights, f"{layer}/{name}", array)
            _write_names(weights[layer], WEIGHT_NAMES, names)


def _layers(output: Output) -> dict[str, list[str]]:
    """Read the names of tensors by layer.

    Raises:
        Refused: the metadata name others.
    """
    layers = _json(output, LAYERS)
    if not layers:
        for name in output.tensors:
            layers.setdefault(_layer_of(name), []).append(name)
    elif not all(isinstance(names, list) for names in layers.values()) or (
        sorted(str(name) for names in layers.values() for name in names) != sorted(output.tensors)
    ):
        raise Refused(f"the metadata {LAYERS} should have every tensor in the list of one layer")
    return layers


def _layer_of(name: str) -> str:
    """Return the layer of a tensor of this name, if nothing else is said."""
    return name.rpartition("/")[0] or name


def _create(group: Any, path: str, array: np.ndarray) -> Any:
    try:
        return group.create_dataset(path, data=array)
    except (ValueError, TypeError) as error:
        raise Refused(f"there can't be an array {shown(path)} beside the others") from error


@contextlib.contextmanager
def _new_file(output: Output, types: list[str]) -> Iterator[Any]:
    require("writing HDF5 files", "h5py", extra="hdf5")
    import h5py  # type: ignore[import-untyped]

    output.check_types(types, "HDF5 files of this kind")
    output.check_tree()
    with _Patient(output.temporary, "w+") as file:
        with h5py.File(file, "w") as written:
            yield written
        if file.error:
            raise file.error


class _Patient(io.FileIO):
    """Accepts all data that it is given, whatever happens, and keeps the first error.

    The HDF5 library crashes if writing fails.
    """

    error: OSError | None = None

    def write(self, data: Any) -> int:
        rest = memoryview(data)
        with self._kept():
            while rest and not self.error:
                rest = rest[super().write(rest) :]
        return len(data)

    def truncate(self, size: int | None = None) -> int:
        with self._kept():
            return super().truncate(size)
        return size or 0

    @contextlib.contextmanager
    def _kept(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.error = self.error or error


def _write_texts(group: Any, texts: Mapping[str, str]) -> None:
    for key, text in texts.items():
        if key not in (LAYER_NAMES, LAYERS):
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
