"""Reads folders of Orbax, which hold the checkpoints of JAX programs. Tensorstore reads arrays.

A folder's ``_METADATA`` lists the leaves of the tree. A manager of several steps keeps a folder for
each step, and in it a folder for each saved item. Names of arrays are the keys of the tree, joined
by "/".
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from densespec.errors import shown
from densespec.installed import imported
from densespec.texts import parsed_json
from densespec.weights.containers.base import Damaged, Opened, Refused

METADATA = "_METADATA"
LARGEST_METADATA = 64 * 2**20
ARRAYS = ("jax.Array", "np.ndarray")
"""Leaves that are arrays have these types."""

_NAME = re.compile(r"(?!\.\.?$)[^/\\]+")
"""Matches a key, which must not lead to another folder."""


class OrbaxReader:
    """Reads Orbax; see :class:`densespec.weights.containers.other_packages.ContainerReader`."""

    def files(self, path: Path) -> list[Path]:
        folder = _item_in(path)
        return [] if folder is None else [one for one in folder.rglob("*") if one.is_file()]

    def read(self, opened: Opened) -> None:
        folder = _item_in(opened.path)
        if folder is None:
            raise Refused(f"it has no {METADATA} any more")
        store = _Store(folder, tree := _tree(folder))
        for keys, kind in _leaves(tree):
            name = "/".join(keys)
            if kind in ARRAYS:
                store.add_to(opened, name, ".".join(keys))
            else:
                opened.skip(name)
        if not opened.tensors:
            raise Refused("its tree has no arrays")


READER = OrbaxReader()


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
    path = folder / METADATA
    if path.stat().st_size > LARGEST_METADATA:
        raise Refused(f"its {METADATA} has more than {LARGEST_METADATA} bytes; it is a trap")
    tree = parsed_json(path.read_bytes(), METADATA)
    if not isinstance(tree, dict) or not isinstance(tree.get("tree_metadata"), dict):
        raise Damaged(f"its {METADATA} lists no tree")
    return tree


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

    def add_to(self, opened: Opened, name: str, key: str) -> None:
        spec = {"driver": self._driver, "kvstore": self._place(key)}
        array = self._tensorstore.open(spec, context=self._context, open=True).result()
        shape, kind = tuple(array.domain.shape), array.dtype.name
        opened.add(name, shape, kind, lambda dtype: array.read().result())

    def _place(self, key: str) -> dict[str, Any]:
        if self._together:
            return {"driver": "ocdbt", "base": f"file://{self._folder.absolute()}/", "path": key}
        return {"driver": "file", "path": f"{(self._folder / key).absolute()}/"}
