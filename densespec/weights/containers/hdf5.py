"""HDF5 as Keras writes it: Keras 3's ``.weights.h5``, and the ``.h5`` of Keras 2.

Keras 3 keeps the variables of each layer in a group ``vars`` that notes the layer's name; a
tensor's name is the path of its dataset, such as ``layers/conv2d_1/vars/0``. The metadata
``layer_names`` hold the notes: JSON of names by path, such as ``layers/conv2d_1``.

Legacy files list their layers, and each layer the names of its weights, which are the tensors'
names: ``conv1/conv/kernel:0``. Order matters to Keras when it loads either kind.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from densespec.errors import shown
from densespec.weights.containers.base import (
    EXTENDED,
    ITEM_SIZES,
    Opened,
    Output,
    byte_size,
    numpy_dtype,
    plausible,
    require,
)

LAYER_NAMES = "layer_names"
WEIGHT_NAMES = "weight_names"
LONGEST_ATTRIBUTE = 64512
"""Bytes beyond which Keras cuts a list into several attributes."""

OLD_LAYERS = "_layer_checkpoint_dependencies"
"""What Keras 2.13 called ``layers``."""

LEGACY_TEXTS = {"backend": "tensorflow", "keras_version": "2.15.0"}

DEEPEST = 64

# The filters that h5py has built in, without those that lose precision.
FILTERS = {1: "gzip", 2: "shuffle", 3: "fletcher32", 32000: "lzf"}

TYPES = [name for name in ITEM_SIZES if name not in EXTENDED] + ["bfloat16"]


def read(opened: Opened) -> None:
    read_into(opened, opened.path)


def read_into(opened: Opened, source: Any) -> None:
    """Fill an open file from an HDF5 file: a path or a file object."""
    h5py = _h5py(opened.path)
    file = opened.resources.enter_context(h5py.File(source, "r"))
    _Reader(opened, file).read()


def _h5py(path: Path) -> Any:
    return require("h5py", path, "HDF5 and .keras files", "'densespec[hdf5]'")


class _Reader:
    """Reads one HDF5 file without following anything that leads out of it."""

    def __init__(self, opened: Opened, file: Any) -> None:
        self.opened, self.file = opened, file
        self.h5py = _h5py(opened.path)
        self.seen: set[tuple[int, int]] = set()

    def read(self) -> None:
        self._read_metadata(self.file)
        if "model_weights" in self.file:
            weights = self._member(self.file, "model_weights")
            self._read_metadata(weights)
        else:
            weights = self.file
        if weights is not self.file or self._names(weights, LAYER_NAMES) is not None:
            self.opened.container = "keras-legacy"
            self._read_layers(weights)
        else:
            layers = dict(self._walk(self.file, "", 0))
            self.opened.metadata[LAYER_NAMES] = json.dumps(layers, ensure_ascii=False)

    # Keras 3

    def _walk(self, group: Any, path: str, depth: int) -> Iterator[tuple[str, str]]:
        """Add all datasets below a group. Yields the noted names of layers by path."""
        self._visit(group, path, depth)
        for part in group:
            inner = f"{path}/{part}" if path else part
            member = self._member(group, part)
            if self._is_dataset(member):
                self._add(inner.replace(OLD_LAYERS, "layers"), member)
                continue
            name = self._attribute(member, "name") if part == "vars" else None
            if isinstance(name, str):
                yield path.replace(OLD_LAYERS, "layers"), name
            yield from self._walk(member, inner, depth + 1)

    def _visit(self, group: Any, path: str, depth: int) -> None:
        info = self.h5py.h5o.get_info(group.id)
        address = (info.fileno, info.addr)
        if address in self.seen or depth == DEEPEST:
            raise self.opened.error(
                f"the group {shown(path)} leads back to itself, or lies too deep"
            )
        self.seen.add(address)

    # Legacy

    def _read_layers(self, weights: Any) -> None:
        for layer in self._names(weights, LAYER_NAMES) or []:
            group = self._at(weights, layer)
            for name in self._names(group, WEIGHT_NAMES) or []:
                self._add(name, self._at(group, name))

    def _names(self, group: Any, key: str) -> list[str] | None:
        """A list of names, which Keras cuts up where it is long."""
        if key in group.attrs:
            return self._texts(group, key)
        if f"{key}0" not in group.attrs:
            return None
        names, number = [], 0
        while f"{key}{number}" in group.attrs:
            names += self._texts(group, f"{key}{number}")
            number += 1
        return names

    def _texts(self, group: Any, key: str) -> list[str]:
        texts = self._attribute(group, key)
        if isinstance(texts, str):
            raise self.opened.error(f"its attribute {key} should be a list of names")
        return texts or []

    # Both

    def _read_metadata(self, group: Any) -> None:
        for key in group.attrs:
            if isinstance(text := self._attribute(group, key), str):
                self.opened.metadata[key] = text

    def _attribute(self, thing: Any, key: str) -> str | list[str] | None:
        """A text or a list of texts; none for anything else."""
        if key not in thing.attrs:
            return None
        stored = thing.attrs.get_id(key)
        if stored.get_storage_size() > self.opened.size:
            raise self.opened.error(
                f"its attribute {shown(key)} claims more bytes than the file has"
            )
        if self.h5py.check_string_dtype(stored.dtype) is None and stored.shape != (0,):
            return None
        value = thing.attrs[key]
        if isinstance(value, np.ndarray):
            return [_text(entry) for entry in value.reshape(-1).tolist()]
        return _text(value) if isinstance(value, str | bytes) else None

    def _at(self, group: Any, path: str) -> Any:
        for part in path.split("/"):
            group = self._member(group, part)
        return group

    def _member(self, group: Any, name: str) -> Any:
        if self._is_dataset(group) or name in ("", ".") or name not in group:
            raise self.opened.error(f"there is no {shown(name)} in {shown(group.name)}")
        link = group.get(name, getlink=True)
        if not isinstance(link, self.h5py.HardLink):
            raise self.opened.error(
                f"{shown(name)} in {shown(group.name)} is a {type(link).__name__}, which can lead "
                "to other files; save the arrays themselves"
            )
        member = group[name]
        if not isinstance(member, self.h5py.Group | self.h5py.Dataset):
            raise self.opened.error(
                f"{shown(name)} in {shown(group.name)} should be a group or an array"
            )
        return member

    def _is_dataset(self, member: Any) -> bool:
        return isinstance(member, self.h5py.Dataset)

    def _add(self, name: str, dataset: Any) -> None:
        if not self._is_dataset(dataset) or dataset.shape is None:
            raise self.opened.error(f"{shown(name)} should be an array")
        dtype = "bfloat16" if dataset.dtype.str[1:] == "V2" else dataset.dtype.name
        self.opened.add(name, dataset.shape, dtype, _reader(self.opened.path, dataset))
        if problem := _problem(dataset, byte_size(dataset.shape, dtype), self.opened.size):
            raise self.opened.error(f"{shown(name)} {problem}")


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _problem(dataset: Any, claimed: int, size: int) -> str | None:
    """What is wrong with how a dataset is stored."""
    settings = dataset.id.get_create_plist()
    filters = [settings.get_filter(number)[0] for number in range(settings.get_nfilters())]
    if dataset.is_virtual or dataset.external:
        return "lies in another file; save the array itself"
    if unknown := [number for number in filters if number not in FILTERS]:
        return (
            f"is stored through filter {unknown[0]}, but should be stored through none or "
            f"{', '.join(FILTERS.values())}; save it anew"
        )
    stored = dataset.id.get_storage_size()
    chunk = math.prod(dataset.chunks or ()) * dataset.dtype.itemsize
    enough = plausible(max(claimed, chunk), stored) if dataset.chunks else claimed <= stored
    if (claimed and not stored) or stored > size or not enough:
        return (
            f"claims {claimed} bytes, of which {stored} are stored; the file is damaged or a trap"
        )
    return None


def _reader(path: Path, dataset: Any) -> Callable[[], np.ndarray]:
    def read() -> np.ndarray:
        array = np.asarray(dataset[()])
        if array.dtype.kind == "V":
            array = array.view(numpy_dtype("bfloat16", path))
        return array

    return read


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
            raise output.error(f"{shown(layer)} is a layer, but also an array")
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
    h5py = _h5py(output.path)
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
