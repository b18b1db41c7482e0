"""Reads and writes folders of Orbax, which hold checkpoints of JAX programs.

A folder's ``_METADATA`` lists the leaves of the tree. A manager of several steps keeps a folder for
each step, and in it a folder for each saved item. Names of arrays are the keys of the tree, joined
by "/".

Orbax keeps arrays in one store for all of them (OCDBT), or as zarr keeps them, each in a folder of
its own; tensorstore reads both. The latter is written here: an array is its elements and a line of
JSON, so writing needs no package, and the same arrays give the same bytes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from densespec.errors import shown
from densespec.installed import imported
from densespec.texts import parsed_json
from densespec.weights.containers.base import (
    EXTENDED,
    ITEM_SIZES,
    Damaged,
    Opened,
    Output,
    Refused,
    little_endian_bytes,
    numpy_dtype,
)

METADATA = "_METADATA"
TEXTS = "_CHECKPOINT_METADATA"
"""This file holds texts that a user adds to a checkpoint. It may be absent."""
LARGEST_METADATA = 64 * 2**20
ARRAYS = ("jax.Array", "np.ndarray")
"""Leaves that are arrays have these types."""
MAP = 2
"""Orbax gives this number to a key of a map."""
LONGEST_FOLDER = 255
"""A folder's name has at most so many bytes."""

_NAME = re.compile(r"(?!\.\.?$)[^/\\]+")
"""Matches a key, which must not lead to another folder."""


def files_of(path: Path) -> list[Path]:
    """List the files of the checkpoint that a path leads to; the list is empty if there is none."""
    folder = _item_in(path)
    return [] if folder is None else [one for one in folder.rglob("*") if one.is_file()]


def read(opened: Opened) -> None:
    folder = _item_in(opened.path)
    if folder is None:
        raise Refused(f"no folder with a {METADATA}, as Orbax writes it")
    store = _Store(folder, tree := _tree(folder))
    for keys, kind in _leaves(tree):
        name = "/".join(keys)
        if kind in ARRAYS:
            store.add_to(opened, name, ".".join(keys))
        else:
            opened.skip(name)
    opened.metadata.update(_texts(folder))


def _item_in(path: Path) -> Path | None:
    """Find the folder of the tree: the path, or one in it, of the newest step."""
    if not path.is_dir():
        return None
    if (path / METADATA).is_file():
        return path
    folders = [one for one in path.iterdir() if one.is_dir()]
    steps = [one for one in folders if one.name.isdecimal()]
    if steps:
        return _item_in(max(steps, key=lambda one: int(one.name)))
    items = [one for one in folders if (one / METADATA).is_file()]
    return items[0] if len(items) == 1 else None


def _tree(folder: Path) -> dict[str, Any]:
    tree = _json(folder / METADATA)
    if not isinstance(tree, dict) or not isinstance(tree.get("tree_metadata"), dict):
        raise Damaged(f"its {METADATA} lists no tree")
    return tree


def _texts(folder: Path) -> dict[str, str]:
    """Return the texts that were saved beside the tree."""
    said = _json(folder / TEXTS) if (folder / TEXTS).is_file() else {}
    custom = said.get("custom_metadata") if isinstance(said, dict) else None
    entries = custom.items() if isinstance(custom, dict) else ()
    return {key: text for key, text in entries if isinstance(text, str)}


def _json(path: Path) -> Any:
    if path.stat().st_size > LARGEST_METADATA:
        raise Refused(f"its {path.name} has more than {LARGEST_METADATA} bytes; it is a trap")
    return parsed_json(path.read_bytes(), path.name)


def _leaves(tree: dict[str, Any]) -> Iterator[tuple[list[str], str]]:
    """Yield the keys to each leaf, and what kind of value it is."""
    for entry in tree["tree_metadata"].values():
        keys = [str(key["key"]) for key in entry["key_metadata"]]
        if not all(map(_NAME.fullmatch, keys)):
            raise Refused(f"{shown(keys)} can't be the keys to a leaf of a tree")
        yield keys, str(entry["value_metadata"]["value_type"])


class _Store:
    """Finds the arrays of a folder by their names, through tensorstore."""

    def __init__(self, folder: Path, tree: dict[str, Any]) -> None:
        what = "reading an Orbax checkpoint"
        self._tensorstore: Any = imported(what, "tensorstore", extra="flax")
        self._context = self._tensorstore.Context()
        self._driver = "zarr3" if tree.get("use_zarr3") else "zarr"
        self._folder, self._together = folder, tree.get("use_ocdbt", True)
        self._may_lack = not tree.get("store_array_data_equal_to_fill_value")

    def add_to(self, opened: Opened, name: str, key: str) -> None:
        how = {"driver": self._driver, "fill_missing_data_reads": self._may_lack}
        spec = how | {"kvstore": self._place(key)}
        array = self._tensorstore.open(spec, context=self._context, open=True).result()
        shape, kind = tuple(array.domain.shape), array.dtype.name
        opened.add(name, shape, kind, lambda dtype: array.read().result())

    def _place(self, key: str) -> dict[str, Any]:
        if self._together:
            return {"driver": "ocdbt", "base": f"file://{self._folder.absolute()}/", "path": key}
        return {"driver": "file", "path": f"{(self._folder / key).absolute()}/"}


# Writing


def write(output: Output) -> None:
    output.check_types(ITEM_SIZES, "Orbax checkpoints")
    output.check_tree()
    trees = {name: name.split("/") for name in output.tensors}
    _check_folders(trees)
    for name, array in output.arrays():
        folder = output.temporary / ".".join(trees[name])
        folder.mkdir()
        _write_json(folder / ".zarray", _zarr(array.shape, array.dtype.name))
        if array.size:
            place = ".".join("0" * array.ndim) or "0"
            (folder / place).write_bytes(little_endian_bytes(array))
    _write_json(output.temporary / TEXTS, {"custom_metadata": dict(output.metadata)})
    _write_json(output.temporary / METADATA, _metadata(trees.values()))


def _check_folders(trees: Mapping[str, Sequence[str]]) -> None:
    """Check that every array has a folder of its own, and none leads out of the checkpoint.

    Raises:
        Refused: Two have the same, or one can't be; names the array.
    """
    owners: dict[str, str] = {}
    for name, keys in trees.items():
        folder = ".".join(keys)
        is_no_name = folder in (METADATA, TEXTS) or not all(map(_NAME.fullmatch, keys))
        if is_no_name or len(folder.encode()) > LONGEST_FOLDER:
            raise Refused(
                f"{shown(name)} can't be the name of a folder, which each array of an Orbax "
                f"checkpoint has: it should have at most {LONGEST_FOLDER} bytes, no part '..' and "
                f"not be {METADATA} or {TEXTS}"
            )
        if (other := owners.setdefault(folder, name)) != name:
            raise Refused(
                f"{shown(name)} can't lie beside the others in an Orbax checkpoint: it would have "
                f"the same folder as {shown(other)}"
            )


def _zarr(shape: tuple[int, ...], dtype: str) -> dict[str, Any]:
    """Describe an array that lies in one piece, as zarr does."""
    kind = dtype if dtype in EXTENDED else numpy_dtype(dtype).newbyteorder("<").str
    return {
        "chunks": [max(1, size) for size in shape],
        "compressor": None,
        "dimension_separator": ".",
        "dtype": kind,
        "fill_value": None,
        "filters": None,
        "order": "C",
        "shape": shape,
        "zarr_format": 2,
    }


def _metadata(trees: Iterable[Sequence[str]]) -> dict[str, Any]:
    """List the leaves of a tree, whose keys are those of maps."""
    leaf = {"value_type": "np.ndarray", "skip_deserialize": False}
    return {
        "tree_metadata": {
            str(tuple(keys)): {
                "key_metadata": [{"key": key, "key_type": MAP} for key in keys],
                "value_metadata": leaf,
            }
            for keys in trees
        },
        "use_ocdbt": False,
        "use_zarr3": False,
        "store_array_data_equal_to_fill_value": True,
        "custom_metadata": None,
    }


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")
