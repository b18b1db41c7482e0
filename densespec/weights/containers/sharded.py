"""Reads arrays in several files, which an index lists: ``model.safetensors.index.json``."""

from __future__ import annotations

import glob
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from densespec.errors import shown
from densespec.texts import parsed_json
from densespec.weights.containers import safetensors, torch_pickle
from densespec.weights.containers.base import Damaged, Opened, Refused
from densespec.weights.tensors import Tensor

INDEX = ".index.json"
LARGEST_INDEX = 64 * 2**20
MOST_FILES = 1000

KINDS: Mapping[str, tuple[str, Callable[[Opened], None]]] = {
    ".safetensors": ("safetensors", safetensors.read),
    ".bin": ("torch", torch_pickle.read),
}
"""Maps the ends of names to the container of the files and to the function that reads it."""

_SHARD = re.compile(r"(.+)-\d{5}-of-\d{5}(\.safetensors|\.bin)")
_NAME = re.compile(r"(?!\.\.?$)[^/\\\0]+")
"""Matches the name of a file, which must not lead to another folder."""


def index_of(path: Path) -> Path | None:
    """Find the index that a path leads to: itself, one in a folder, or the one of its file."""
    if path.is_dir():
        found = [one for suffix in KINDS for one in sorted(path.glob(f"*{suffix}{INDEX}"))]
        return found[0] if found else None
    if match := _SHARD.fullmatch(path.name):
        path = path.with_name(f"{match[1]}{match[2]}{INDEX}")
    return path if path.name.endswith(INDEX) and path.is_file() else None


def read(opened: Opened, index: Path) -> None:
    """Add the arrays of every file that an index lists.

    Raises:
        Refused: A file is missing, or does not hold what the index says.
    """
    listed = _listed(index)
    for name in dict.fromkeys(listed.values()):
        path = index.with_name(name)
        if not path.is_file():
            raise Refused(f"{index.name} lists {shown(name)}, which is not beside it: get it too")
        container, read_file = _kind_of(name)
        part = Opened(path, container, size=path.stat().st_size)
        opened.resources.callback(part.close)
        read_file(part)
        for wanted in (array for array, file in listed.items() if file == name):
            if wanted not in part.tensors:
                raise Refused(
                    f"{index.name} lists {shown(wanted)} in {shown(name)}, which lacks it"
                )
            _add(opened, wanted, part.tensors[wanted])
    opened.name_as("safetensors")


def size_of(index: Path) -> int:
    """Count the bytes of the files beside an index that belong to it."""
    start = index.name.removesuffix(INDEX)
    stem, suffix = Path(start).stem, Path(start).suffix
    parts = index.parent.glob(f"{glob.escape(stem)}-?????-of-?????{suffix}")
    return sum(part.stat().st_size for part in parts if part.is_file())


def _add(opened: Opened, name: str, tensor: Tensor) -> None:
    def read(dtype: np.dtype[Any]) -> np.ndarray:
        return tensor.read()

    opened.add(name, tensor.shape, tensor.dtype, read)


def _listed(index: Path) -> dict[str, str]:
    """Return the file of each array.

    Raises:
        Damaged: The value is no index.
    """
    if index.stat().st_size > LARGEST_INDEX:
        raise Refused(f"{index.name} is larger than any index")
    entries = parsed_json(index.read_text(encoding="utf-8"), index.name)
    listed = entries.get("weight_map") if isinstance(entries, dict) else None
    if not isinstance(listed, dict) or not listed:
        raise Damaged(f"{index.name} has no weight_map, which says in which file each array is")
    files = set(map(str, listed.values()))
    if len(files) > MOST_FILES or not all(map(_NAME.fullmatch, files)):
        raise Damaged(f"{index.name} lists files that can't be beside it")
    return {name: str(file) for name, file in listed.items()}


def _kind_of(name: str) -> tuple[str, Callable[[Opened], None]]:
    for suffix, kind in KINDS.items():
        if name.endswith(suffix):
            return kind
    raise Damaged(f"its index lists {shown(name)}, but files end in {' or '.join(KINDS)}")
