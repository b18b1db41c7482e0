"""Reads PyTorch's files: a dict of tensors in a pickle, which is in a zip archive or bare.

PyTorch before 1.6 wrote bare pickles. Pickles can run code, so a machine that runs nothing reads
them. It reads a stand-in for a tensor as an array, and names a stand-in for anything else and
leaves it alone. Storages lie outside of the pickle, and are read with one of their tensors.
"""

from __future__ import annotations

import functools
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from densespec.errors import bare, shown
from densespec.weights.containers.base import (
    ByteOrder,
    BytesOfFile,
    Damaged,
    Opened,
    Refused,
    StoredBytes,
)
from densespec.weights.containers.torch_state import (
    RESAVE,
    FoundState,
    StateSearch,
    attributes_of,
    is_array,
    named_parts,
)
from densespec.weights.containers.torch_tensors import Storage, storage_of, tensor_of
from densespec.weights.containers.zips import Archive
from densespec.weights.pickles.arrays import PickledArray, array_of
from densespec.weights.pickles.instructions import PickleError
from densespec.weights.pickles.machine import PickleReader
from densespec.weights.pickles.standins import LongText, Made, called, described, text_of
from densespec.weights.stated.torch_modules import KEY, as_text

ZIP = b"PK\3\4"
PICKLE = "data.pkl"
LARGEST_PICKLE = 64 * 2**20
"""A compressed pickle, or the pickles that a file starts with, may have at most this many bytes."""

MOST_NOTED = 3
"""A note names at most this many things of a kind."""

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_VERSION = 1001
"""The first two pickles of a file that is not an archive hold this number."""

NOT_TORCH = (
    "a pickle that torch.save did not write, or damaged; pickles can run code, so it was not "
    "opened. If you trust whoever made it, load it in the program that saved it and save its "
    "arrays as .npz or .safetensors"
)


@dataclass(frozen=True)
class PickledFile:
    """Holds what a file's pickle contains, and where its storages are.

    Attributes:
        content: the function that returns the bytes of a storage by its key.
        order: the byte order of the numbers in them.
    """

    value: Any
    content: Callable[[str], np.ndarray]
    order: ByteOrder = "<"


def read(opened: Opened) -> None:
    file = BytesOfFile(opened.path)
    try:
        pickled = _zipped(opened) if file.take(0, 4) == ZIP else _legacy(opened, file)
        state = StateSearch().find(pickled.value, opened.key)
        for name, value in state.entries.items():
            _add(opened, pickled, name, value)
    except PickleError as error:
        raise Damaged(str(error)) from error
    _describe(opened, state)


def _describe(opened: Opened, state: FoundState) -> None:
    """Say where the arrays lay, and what lay beside them."""
    for key, value in named_parts(attributes_of(state.value).get("metadata")).items():
        if isinstance(value, LongText):
            opened.count_text(len(value.view))
            opened.metadata[key] = str(value.view, "utf-8")
        elif isinstance(value, str):
            opened.metadata[key] = value
    if state.place:
        opened.metadata["unwrapped"] = state.place
    if state.modules:
        opened.metadata[KEY] = as_text(state.modules)
        opened.count_text(len(opened.metadata[KEY]))
    for name in state.left:
        opened.skip(name)
    opened.notes += _notes(state)


def _notes(state: FoundState) -> Iterator[str]:
    made = [
        f"{shown(name)} ({described(value)})"
        for name, value in state.entries.items()
        if isinstance(value, Made) and not is_array(value)
    ]
    if made:
        yield f"left out what is no array: {_first(made)}"
    if state.alike:
        yield (
            f"it has other values of these arrays under {_first(map(shown, state.alike))}, such as "
            f"averages: choose them by their key (--key {shown(state.alike[0])[1:-1]})"
        )


def _first(things: Iterable[str]) -> str:
    """Name the first few of things, and say how many more there are."""
    listed = list(things)
    more = f" and {len(listed) - MOST_NOTED} more" if len(listed) > MOST_NOTED else ""
    return f"{', '.join(listed[:MOST_NOTED])}{more}"


def _add(opened: Opened, file: PickledFile, name: str, value: Any) -> None:
    found = tensor_of(value, name) or array_of(value)
    if found is None and called(value).startswith("torch"):
        raise Refused(
            f"{shown(name)} is {described(value)}, but should be a dense tensor; save it as one"
        )
    if found is None:
        opened.skip(name)
    elif isinstance(found, PickledArray):
        opened.add(name, found.shape, found.dtype, lambda dtype: found.read())
    else:
        content = found.storage.key
        reader = found.reader(lambda: file.content(content), file.order)
        opened.add(name, found.shape, found.dtype, reader)
        found.check(name)


# Archives


def _zipped(opened: Opened) -> PickledFile:
    archive = Archive(opened)
    folder = _folder(archive)
    pickled = archive.members[f"{folder}/{PICKLE}"]
    if pickled.compress_type and pickled.file_size > LARGEST_PICKLE:
        raise Refused(
            f"its compressed pickle claims {pickled.file_size} bytes, but should have at most "
            f"{LARGEST_PICKLE}; it is damaged or a trap"
        )
    spelt = f"{folder}/byteorder"
    big = spelt in archive.members and archive.content(spelt).tobytes() == b"big"

    def resolve(reference: Any) -> Storage:
        storage = storage_of(reference)
        member = archive.members.get(f"{folder}/data/{storage.key}")
        size = member.file_size if member else 0
        if storage.item_size and size != storage.byte_count:
            raise Damaged(
                f"the storage {shown(storage.key)} should have {storage.byte_count} bytes, but the "
                f"archive has {size}"
            )
        return storage

    value = PickleReader(archive.content(pickled.filename), resolve).read()
    return PickledFile(
        value,
        lambda key: archive.content(f"{folder}/data/{key}"),
        ">" if big else "<",
    )


def _folder(archive: Archive) -> str:
    """Find the folder that everything is in.

    Raises:
        Refused: the archive is of another kind.
    """
    end = f"/{PICKLE}"
    folders = [name.removesuffix(end) for name in archive.members if name.endswith(end)]
    if any(f"{folder}/constants.pkl" in archive.members for folder in folders):
        raise Refused(f"a TorchScript program, but should be a state_dict. {RESAVE}")
    if len(folders) != 1:
        raise Refused(
            f"a zip archive without {PICKLE} in one folder, so no PyTorch file; it has "
            f"{shown(list(archive.members))}"
        )
    return folders[0]


# Files that are no archives: several pickles, then the storages


def _legacy(opened: Opened, file: StoredBytes) -> PickledFile:
    if tarfile.is_tarfile(opened.path):
        raise Refused(
            "a PyTorch file of 2016 (a tar archive), but should be a zip archive or a pickle of "
            "PyTorch's; load it with PyTorch and save it anew"
        )
    storages: dict[str, Storage] = {}

    def resolve(reference: Any) -> Any:
        match reference:
            case (str() | memoryview() as kind, whole, *_) if text_of(kind, "utf-8") == "module":
                return whole
        storage = storage_of(reference)
        first = storages.setdefault(storage.key, storage)
        if first.byte_count != storage.byte_count:
            raise Damaged(f"the storage {shown(storage.key)} has two sizes")
        return storage

    reader = PickleReader(file.part(0, LARGEST_PICKLE), resolve)
    if reader.read() != LEGACY_MAGIC or reader.read() != LEGACY_VERSION:
        raise Refused(NOT_TORCH)
    reader.read()  # about the system
    value, keys = reader.read(), reader.read()
    places = _places(file, reader.source.position, keys, storages)
    content = functools.lru_cache(maxsize=1)(lambda key: file.part(*places[key]))
    return PickledFile(value, content)


def _places(
    file: StoredBytes, start: int, keys: Any, storages: Mapping[str, Storage]
) -> dict[str, tuple[int, int]]:
    """Find where each storage starts and how many bytes it has: they lie as their keys are listed.

    Raises:
        Refused: one is of a type that is not read.
        Damaged: they are not the storages of the pickle, or do not end where the file does.
    """
    names = [text_of(key, "utf-8") or "" for key in keys] if isinstance(keys, list) else []
    if set(names) != storages.keys() or len(names) != len(storages):
        raise Damaged(f"its {len(storages)} storages are not the {len(names)} that it lists")
    places = {}
    for name in names:
        storage = storages[name]
        if not storage.item_size:
            raise Refused(f"it has a {bare(storage.dtype)}, which is not read; save dense tensors")
        announced = int.from_bytes(file.take(start, 8), "little")
        places[name] = start + 8, storage.byte_count
        start += 8 + storage.byte_count
        if announced != storage.size:
            raise Damaged(f"a storage has {announced} elements, but should have {storage.size}")
    if start != file.size:
        raise Damaged(f"it has {file.size} bytes, but should have {start}")
    return places
