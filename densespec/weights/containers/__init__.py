"""Reads and writes files that hold named arrays, whatever the names mean.

The content of a file decides what kind of file it is; the suffix decides only if the content leaves
it open. Nothing in a file is run. A file can't make its reader follow a path, or allocate memory
for arrays that it only claims to have.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import stat
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from densespec.atomic import atomic_folder, atomic_path, is_replaceable
from densespec.errors import UnknownName, WeightsError, shown
from densespec.weights.containers import (
    flax_msgpack,
    hdf5,
    keras_zip,
    npz,
    orbax,
    other_packages,
    safetensors,
    sharded,
    torch_pickle,
    torch_writer,
    zips,
)
from densespec.weights.containers.base import Opened, Output, Progress, Refused, damage
from densespec.weights.tensors import OpenFile, Tensor

SUFFIXES = {
    ".safetensors": "safetensors",
    ".pth": "torch",
    ".pt": "torch",
    ".bin": "torch",
    ".ckpt": "torch",
    ".weights.h5": "keras-weights",
    ".h5": "keras-legacy",
    ".hdf5": "keras-legacy",
    ".keras": "keras",
    ".msgpack": "msgpack",
    ".npz": "npz",
    ".orbax": "orbax",
}
"""Maps suffixes to containers; the first suffix that fits decides."""

READERS: dict[str, Callable[[Opened], None]] = {
    "safetensors": safetensors.read,
    "torch": torch_pickle.read,
    "keras-weights": hdf5.read,
    "keras-legacy": hdf5.read,
    "keras": keras_zip.read,
    "msgpack": flax_msgpack.read,
    "npz": npz.read,
    "orbax": orbax.read,
}

WRITERS: dict[str, Callable[[Output], None]] = {
    "safetensors": safetensors.write,
    "torch": torch_writer.write,
    "keras-weights": hdf5.write_weights,
    "keras-legacy": hdf5.write_legacy,
    "msgpack": flax_msgpack.write,
    "npz": npz.write,
    "orbax": orbax.write,
}

FOLDERS = {"orbax": orbax.METADATA}
"""Containers that are folders, each with a file that every such folder has."""

HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
ZIP_MAGICS = (b"PK\3\4", b"PK\5\6")

FOREIGN = {
    (b"version https://git-lfs",): "a Git LFS pointer, not the file itself: run git lfs pull",
    (b"<!", b"<html", b"<HTML", b"<?xml"): "a web page, so a failed download: get the file anew",
    (b'{"', b"{\n", b"{\r", b"{ "): "JSON text",
    (b"\x1f\x8b",): "compressed by gzip: unpack it first",
}
"""Maps what other files start with to what a message says of them."""


def open_file(path: str | os.PathLike[str], *, key: str | None = None) -> OpenFile:
    """Open a file of named arrays, whatever its kind. Use it in a ``with`` statement.

    What is no file of a kind that is read here, a folder perhaps, is left to the other packages
    that publish a kind. Its tensors are read when they are asked for. Whatever else the file
    holds, such as the step of a training checkpoint, is named in the metadata ``skipped``, as JSON.

    Args:
        key: where a PyTorch file keeps the state dict that is wanted, such as ``state_dict_ema``;
            keys within keys are joined by dots. None for where it mostly lies.

    Raises:
        WeightsError: the file is absent, of no kind that is known, damaged or hostile, or has
            nothing under the key; starts with the path.
        PackageMissing: a package is missing to read it.
    """
    path = Path(path)
    with damage(path, "file"):
        opened, read = _reading(path, key)
        if key is not None and opened.container != "torch":
            raise Refused(f"it has no key {shown(key)}: only PyTorch files have keys")
    try:
        with damage(path, f"{opened.container} file"):
            read(opened)
    except BaseException:
        opened.close()
        raise
    if opened.skipped:
        opened.metadata["skipped"] = json.dumps(opened.skipped, ensure_ascii=False)
    return opened


def write_file(
    path: str | os.PathLike[str],
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str] | None = None,
    *,
    container: str | None = None,
    progress: Progress | None = None,
) -> None:
    """Write named arrays to a file or folder, whole or not at all, one array at a time.

    Args:
        metadata: texts to keep in the file.
        container: kind of file; by default the suffix says it.
        progress: is told the number of bytes of each array after it is written.

    Raises:
        WeightsError: the container is not known or can't hold the arrays, the path can't be
            written, or a package is missing to write it; starts with the path.
        UnknownName: there is no container of this name.
    """
    path = Path(path)
    container = container or container_of(path)
    write = _writer(path, container)
    _check_texts(path, tensors, metadata or {})
    report = progress or (lambda size: None)
    try:
        with _place(path, container) as temporary:
            write(Output(path, temporary, tensors, dict(metadata or {}), report))
    except Refused as error:
        raise WeightsError(f"{path}: {error}") from error
    except OSError as error:
        raise WeightsError(f"{path}: can't be written: {error.strerror or error}") from error


def _place(path: Path, container: str) -> contextlib.AbstractContextManager[Path]:
    """Return a temporary file, or folder, that takes its place on success.

    Raises:
        Refused: Something else than an older folder of the container is there.
    """
    if container not in FOLDERS:
        return atomic_path(path)
    if not is_replaceable(path, FOLDERS[container]):
        raise Refused(f"is there and no folder of {container}: give another name, or remove it")
    return atomic_folder(path)


def is_folder_of_weights(path: Path) -> bool:
    """Say whether a folder as a whole is of a kind that is read."""
    if not path.is_dir():
        return False
    known = sharded.index_of(path) or orbax.files_of(path) or other_packages.reader_of(path)
    return bool(known)


def _reading(path: Path, key: str | None) -> tuple[Opened, Callable[[Opened], None]]:
    """Find out what a path is by its content, or else by its suffix, and what reads it."""
    if index := sharded.index_of(path):
        opened = Opened(path, "sharded", key, size=sharded.size_of(index))
        return opened, functools.partial(sharded.read, index=index)
    if files := orbax.files_of(path):
        return Opened(path, "orbax", key, size=sum(map(_size, files))), orbax.read
    head, size = _head(path) if path.is_file() else (b"", 0)
    container = _container_in(head, size, path) if head else None
    if container is None and (other := other_packages.reader_of(path)):
        name, reader, files = other
        return Opened(path, name, key, size=sum(map(_size, files))), reader.read
    container = container or _by_suffix(path)
    return Opened(path, container, key, size=_size(path)), READERS[container]


def _size(path: Path) -> int:
    return path.stat().st_size


def _by_suffix(path: Path) -> str:
    """Return the container that a file's suffix says, which its content leaves open.

    Raises:
        Refused: The suffix says nothing, or the content something else.
    """
    head, _ = _head(path)
    found, foreign = _suffixed(path), _foreign(head)
    if found is None or foreign:
        what = foreign or f"of no known kind, it starts with {shown(head[:16])}"
        raise Refused(f"{what}. Expected {_expected()}")
    return found


def _within(folder: Path) -> str:
    """Say which weight files a folder has, for somebody who gave the folder."""
    suffixes = tuple(SUFFIXES)
    files = sorted(file.name for file in folder.iterdir() if file.name.lower().endswith(suffixes))
    return f"give the weight file in it: {' or '.join(files[:3])}" if files else "it has none"


def _head(path: Path) -> tuple[bytes, int]:
    """Read the first bytes of a file, and its size."""
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise Refused(f"a folder, but should be a weight file; {_within(path)}")
        if not stat.S_ISREG(status.st_mode):
            raise Refused(f"a device or pipe. Expected {_expected()}")
        with path.open("rb") as file:
            head = file.read(64)
    except FileNotFoundError as error:
        raise Refused("no such file") from error
    except OSError as error:
        raise Refused(f"can't be read: {error.strerror}") from error
    if not head:
        raise Refused(f"empty. Expected {_expected()}")
    return head, status.st_size


def _container_in(head: bytes, size: int, path: Path) -> str | None:
    """Find a file's container by its first bytes."""
    if head.startswith(HDF5_MAGIC):
        return "keras-weights"
    if head.startswith(ZIP_MAGICS):
        return _container_in_zip(path)
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= size - 8:
        return "safetensors"
    if head[0] == 0x80 and size > 1 and head[1] <= 5:
        return "torch"
    return "msgpack" if _is_msgpack_map(head) else None


def _container_in_zip(path: Path) -> str | None:
    try:
        names = zips.names_in(path)
    except Exception:
        return None
    if keras_zip.CONFIG in names:
        return "keras"
    if any(name.endswith(f"/{torch_pickle.PICKLE}") for name in names):
        return "torch"
    if names and all(name.endswith(npz.SUFFIX) for name in names):
        return "npz"
    return None


def _is_msgpack_map(head: bytes) -> bool:
    """Say whether these bytes start a map whose first key is a text."""
    sizes = {0xDE: 2, 0xDF: 4}
    if not (0x80 <= head[0] <= 0x8F or head[0] in sizes):
        return False
    key = head[1 + sizes.get(head[0], 0) :][:1]
    return not key or 0xA0 <= key[0] <= 0xBF or 0xD9 <= key[0] <= 0xDB


def _foreign(head: bytes) -> str | None:
    """Say what a file is that is no container."""
    return next((what for starts, what in FOREIGN.items() if head.startswith(starts)), None)


def container_of(path: str | os.PathLike[str]) -> str:
    """Return the container that a path's suffix says.

    Raises:
        WeightsError: its suffix is not known; the message names those that are.
    """
    container = _suffixed(Path(path))
    if container is None:
        raise WeightsError(f"{path}: its suffix should be one of {', '.join(SUFFIXES)}")
    return container


def _suffixed(path: Path) -> str | None:
    name = path.name.lower()
    return next((SUFFIXES[suffix] for suffix in SUFFIXES if name.endswith(suffix)), None)


def _expected() -> str:
    return f"a file of one of the kinds {', '.join(READERS)} ({', '.join(SUFFIXES)})"


def _writer(path: Path, container: str) -> Callable[[Output], None]:
    if container not in READERS:
        raise UnknownName("container", container, WRITERS)
    if container not in WRITERS:
        raise WeightsError(
            f"{path}: a .keras file holds a whole model, which only Keras can write; write a "
            ".weights.h5 file and load it with model.load_weights"
        )
    return WRITERS[container]


def _check_texts(path: Path, tensors: Iterable[str], metadata: Mapping[str, str]) -> None:
    for kind, texts in (("name of a tensor", tensors), ("key in metadata", metadata)):
        for text in texts:
            if not text or not _is_plain(text):
                raise WeightsError(f"{path}: {shown(text)} can't be a {kind}")
    for key, text in metadata.items():
        if not _is_plain(text):
            raise WeightsError(f"{path}: the metadata {shown(key)} can't be {shown(text)}")


def _is_plain(text: str) -> bool:
    """Say whether every container can hold a text."""
    return "\0" not in text and text == text.encode(errors="replace").decode()
