"""Layers of a file that are no part of the network, left out by their names."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping

from densespec.errors import UnknownName, WeightsError
from densespec.weights.stated.keras_network import CONFIG_KEYS
from densespec.weights.stated.keras_parts import LAYER_NAMES, arrays_of, names_noted
from densespec.weights.tensors import Tensors

VARIABLES = "/vars/"
FEW = 4
"""Fewer linear layers than these are each tried by themselves."""

_NUMBERED = re.compile(r"((?:.*/)?)([^/]*?)(?:_(\d+))?")
"""The path of a layer in one of Keras 3's files: what it is in, its class, and its number."""


def without_layers(
    tensors: Tensors, metadata: Mapping[str, str], layers: Collection[str]
) -> tuple[Tensors, Mapping[str, str]]:
    """Leave layers out of named arrays and of what is noted of their names.

    Args:
        layers: What layers are called in the file, or what the names of their arrays start with.
            Those without arrays stay as long as there are linear layers, which may read them.

    Raises:
        WeightsError: There is no such layer; suggests near names.
    """
    noted = names_noted(metadata)
    of_layer = {layer: _arrays(layer, tensors, metadata) for layer in layers}
    for layer, arrays in of_layer.items():
        if not arrays and layer not in noted.values() and not _is_stated(layer, metadata):
            known = {_path(name).partition("/")[0] for name in tensors} | {*noted.values()}
            raise WeightsError(str(UnknownName("layer", layer, known)))
    dropped = set[str]().union(*of_layer.values())
    gone = {path for path, name in noted.items() if name in layers} | {*map(_path, dropped)}
    renamed = _renumbered([*dict.fromkeys([*map(_path, tensors), *noted])], gone)
    kept = {
        renamed.get(_path(name), _path(name)) + name.removeprefix(_path(name)): tensor
        for name, tensor in tensors.items()
        if name not in dropped
    }
    if not noted:
        return kept, metadata
    left = {renamed.get(path, path): name for path, name in noted.items() if path not in gone}
    if any(_class_of(path) == "dense" for path in left):
        silent = gone - {*map(_path, dropped)}
        left |= {path: noted[path] for path in silent if path in noted}
    return kept, {**metadata, LAYER_NAMES: json.dumps(left)}


def by_every_name(layers: Collection[str], metadata: Mapping[str, str]) -> tuple[str, ...]:
    """Name layers as their model does, too, where they are named by their paths in the file."""
    noted = names_noted(metadata)
    return tuple(dict.fromkeys([*layers, *(str(noted[name]) for name in layers if name in noted)]))


def likely_apart(metadata: Mapping[str, str], layer: str | None) -> list[list[str]]:
    """Guess which layers of a Keras file are no part of its network, such as a head.

    Args:
        layer: The one that is known to be none; otherwise they are the last ones of each class.
    """
    of_class: defaultdict[str, list[str]] = defaultdict(list)
    for path, name in sorted(names_noted(metadata).items(), key=lambda pair: _number(pair[0])):
        of_class[_class_of(path)].append(str(name))
    dense, convs, norms = (of_class[kind] for kind in ("dense", "conv", "batch_normalization"))
    if layer is not None:
        return [[layer], [*dense, layer]]
    alone = [[name] for name in (*dense[:-FEW:-1], *convs[-1:])]
    return [*alone, dense, [*dense, *norms[-1:]]] if dense else alone


def _class_of(path: str) -> str:
    """Return the class of a layer of a Keras 3 file, without the number of its dimensions."""
    match = _NUMBERED.fullmatch(path)
    return re.sub(r"\dd$", "", match[2]) if match else ""


def _number(path: str) -> int:
    match = _NUMBERED.fullmatch(path)
    return int(match[3] or 0) if match else 0


def _arrays(layer: str, tensors: Tensors, metadata: Mapping[str, str]) -> set[str]:
    starts = tuple(f"{layer.rstrip('./')}{separator}" for separator in "./")
    named = {name for name in tensors if name == layer or name.startswith(starts)}
    return named | arrays_of([layer], tensors, metadata)


def _is_stated(layer: str, metadata: Mapping[str, str]) -> bool:
    """Say whether the config of a model names a layer, which may have no arrays."""
    last = json.dumps(layer.rpartition("/")[2])
    return any(last in metadata.get(key, "") for key in CONFIG_KEYS)


def _path(name: str) -> str:
    """Return the path of an array's layer."""
    return name.rpartition(VARIABLES)[0] or name.rpartition("/" if "/" in name else ".")[0]


def _renumbered(paths: Iterable[str], gone: set[str]) -> dict[str, str]:
    """Return the paths that Keras 3 would give to layers, if some layers had never been there."""
    numbered: defaultdict[tuple[str, str], dict[int, str]] = defaultdict(dict)
    for path in paths:
        if "layers/" in path and (match := _NUMBERED.fullmatch(path)):
            numbered[match[1], match[2]][int(match[3] or 0)] = path
    found = {}
    for (place, kind), layers in numbered.items():
        if gone.isdisjoint(layers.values()):
            continue
        kept = [layers[number] for number in sorted(layers) if layers[number] not in gone]
        for rank, path in enumerate(kept):
            found[path] = f"{place}{kind}_{rank}" if rank else f"{place}{kind}"
    return found
