"""PyTorch's files: a pickled dict of tensors, in a zip archive or, before PyTorch 1.6, bare.

Pickles can run code. They are only opened by PyTorch's restricted unpickler, which builds tensors
and plain containers, and refuses everything else without running it.
"""

from __future__ import annotations

import math
import pickle
import re
import tarfile
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from densespec.errors import shown
from densespec.installed import require
from densespec.weights.containers import zips
from densespec.weights.containers.base import (
    EXTENDED,
    Opened,
    Output,
    Read,
    Refused,
    write_little_endian,
)
from densespec.weights.tensors import Tensor, Tensors

WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "weights", "module")
"""Keys under which training scripts keep the state dict."""

DEEPEST = 4
"""Wrappers within wrappers that are opened."""

ZIP = b"PK\3\4"
LEGACY_MAGIC = (0x1950A86A20F9469CFC6C).to_bytes(10, "little")
"""In the first pickle of a file that is not an archive."""

RESAVE = (
    "If you trust whoever made it, load it in the program that saved it and save its weights "
    "alone: torch.save(model.state_dict(), 'weights.pth')"
)


def read(opened: Opened) -> None:
    require("reading PyTorch files", "torch", extra="torch")
    state = _state_dict(opened, _load(opened))
    for name, value in _entries(state).items():
        _add(opened, name, value)
    opened.metadata |= _metadata(state)


def _metadata(state: dict[Any, Any]) -> dict[str, str]:
    """Texts that :func:`write` has attached to a state dict."""
    found = getattr(state, "metadata", None)
    if not isinstance(found, dict):
        return {}
    return {k: v for k, v in found.items() if isinstance(k, str) and isinstance(v, str)}


def _load(opened: Opened) -> Any:
    import torch

    mapped = _check(opened)
    with opened.path.open("rb") as file:
        try:
            return torch.load(
                opened.path if mapped else file, map_location="cpu", weights_only=True, mmap=mapped
            )
        except pickle.UnpicklingError as error:
            raise Refused(_refusal(str(error))) from error


def _check(opened: Opened) -> bool:
    """Check a file before PyTorch reads it. Returns whether its tensors can be mapped."""
    with opened.path.open("rb") as file:
        head = file.read(64)
    if head.startswith(ZIP):
        return _check_archive(opened)
    if tarfile.is_tarfile(opened.path):
        raise Refused(
            "a PyTorch file of 2016 (a tar archive), but should be a zip archive or a pickle of "
            "PyTorch's; load it with PyTorch and save it anew"
        )
    if LEGACY_MAGIC not in head:
        raise Refused(
            "a pickle that torch.save did not write, or damaged; pickles can run code, so it was "
            "not opened. If you trust whoever made it, load it in the program that saved it and "
            "save its arrays as .npz or .safetensors"
        )
    return False


def _check_archive(opened: Opened) -> bool:
    archive = zips.open_archive(opened)
    names = {name.partition("/")[2] for name in archive.namelist()}
    if "constants.pkl" in names:
        raise Refused(
            f"a TorchScript program, but should be a state_dict; nothing was run. {RESAVE}"
        )
    if "data.pkl" not in names:
        raise Refused(
            "a zip archive without data.pkl, so no PyTorch file; it has "
            f"{shown(archive.namelist())}"
        )
    # By this suffix PyTorch would take a path for another kind of file.
    return zips.stored(archive) and opened.path.suffix != ".safetensors"


def _refusal(message: str) -> str:
    """What to say of a pickle that PyTorch refused, by PyTorch's message."""
    named = re.search(r"GLOBAL (\S+) (?:was not an allowed|whose module)", message)
    if named:
        return (
            f"its pickle asks for {named[1]}, which is code; it should be a state_dict of tensors, "
            f"and nothing was run. {RESAVE}"
        )
    last = message.split(" Please visit ")[0].split("Check the documentation")[0].strip()
    reason = last.splitlines()[-1] if last else "no reason given"
    return (
        "its pickle should be a state_dict of tensors, but PyTorch's restricted unpickler refused "
        f"it: {shown(reason)}; nothing was run. {RESAVE}"
    )


def _state_dict(opened: Opened, value: Any) -> dict[Any, Any]:
    """The state dict within the object of a file; notes what it was unwrapped from."""
    unwrapped: list[str] = []
    while found := _wrapped(value):
        if len(found) > 1:
            raise Refused(
                f"it has a state_dict under each of {' and '.join(found)}; save the one you mean "
                "alone"
            )
        if len(unwrapped) == DEEPEST:
            raise Refused(f"its state_dict lies too deep, below {'.'.join(unwrapped)}")
        unwrapped += found
        value = _entries(value)[found[0]]
    if not isinstance(value, dict):
        raise Refused(f"it should be a state_dict, but is of type {type(value).__name__}. {RESAVE}")
    entries = _entries(value)
    if entries and not any(_is_tensor(entry) for entry in entries.values()):
        raise Refused(
            f"it should be a state_dict, or have one under {', '.join(WRAPPERS)}, but has "
            f"{shown(list(entries))} and none of them is a tensor. {RESAVE}"
        )
    if unwrapped:
        opened.metadata["unwrapped"] = ".".join(unwrapped)
    return value


def _entries(value: Any) -> dict[Any, Any]:
    """The entries of a dict. A pickle can hide a dict's methods behind attributes."""
    return dict(dict.items(value)) if isinstance(value, dict) else {}


def _wrapped(value: Any) -> list[str]:
    """Keys of a dict under which state dicts, or wrappers of them, lie."""
    entries = _entries(value)
    return [key for key in WRAPPERS if _holds_tensors(entries.get(key), DEEPEST)]


def _holds_tensors(value: Any, depth: int) -> bool:
    entries = _entries(value) if depth else {}
    return any(_is_tensor(entry) for entry in entries.values()) or any(
        _holds_tensors(entries[key], depth - 1) for key in WRAPPERS if key in entries
    )


def _is_tensor(value: Any) -> bool:
    import torch

    return isinstance(value, torch.Tensor)


def _add(opened: Opened, name: Any, value: Any) -> None:
    if not isinstance(name, str):
        raise Refused(f"its state_dict has the key {shown(name)}, but keys should be texts")
    if not _is_tensor(value):
        opened.skipped.append(name)
        return
    if str(value.layout) != "torch.strided" or value.device.type != "cpu" or value.is_quantized:
        raise Refused(
            f"{shown(name)} is sparse, quantized or without values, but should be a dense tensor; "
            "save it as one"
        )
    dtype = str(value.dtype).removeprefix("torch.")
    opened.add(name, tuple(value.shape), dtype, _reader(value))


def _reader(tensor: Any) -> Read:
    def read(dtype: np.dtype) -> np.ndarray:
        import torch

        array = tensor.detach().resolve_conj().resolve_neg().contiguous()
        if dtype.name not in EXTENDED:
            return array.numpy()
        bits = {1: torch.uint8, 2: torch.int16}[dtype.itemsize]
        return array.view(bits).numpy().view(dtype)

    return read


# Writing. torch.save needs all tensors in memory; this writes the same file one by one.

STORAGES = {
    "float32": "FloatStorage",
    "float64": "DoubleStorage",
    "float16": "HalfStorage",
    "bfloat16": "BFloat16Storage",
    "int64": "LongStorage",
    "int32": "IntStorage",
    "int16": "ShortStorage",
    "int8": "CharStorage",
    "uint8": "ByteStorage",
    "bool": "BoolStorage",
    "complex64": "ComplexFloatStorage",
    "complex128": "ComplexDoubleStorage",
}

FOLDER = "archive"
ALIGNMENT = 64
LOCAL_HEADER, EXTRA_HEADER, ZIP64_EXTRA = 30, 4, 20
PADDING_ID = b"FB"  # PyTorch's own


def write(output: Output) -> None:
    output.check_types(STORAGES, "PyTorch files written here")
    with zipfile.ZipFile(output.temporary, "w", zipfile.ZIP_STORED) as archive:
        pickled = _pickle(output.tensors, output.metadata)
        archive.writestr(zipfile.ZipInfo(f"{FOLDER}/data.pkl"), pickled)
        archive.writestr(zipfile.ZipInfo(f"{FOLDER}/byteorder"), "little")
        for number, (_, array) in enumerate(output.arrays()):
            with archive.open(_record(archive, number, array.nbytes), "w") as record:
                write_little_endian(array, record)
        archive.writestr(zipfile.ZipInfo(f"{FOLDER}/version"), "3\n")


def _record(archive: zipfile.ZipFile, number: int, size: int) -> zipfile.ZipInfo:
    """A member whose content is aligned, so that it can be mapped into memory."""
    info = zipfile.ZipInfo(f"{FOLDER}/data/{number}")
    info.file_size = size
    assert archive.fp is not None
    start = archive.fp.tell() + LOCAL_HEADER + len(info.filename) + EXTRA_HEADER
    if size * 1.05 > zipfile.ZIP64_LIMIT:  # as zipfile decides
        start += ZIP64_EXTRA
    padding = -start % ALIGNMENT
    info.extra = PADDING_ID + padding.to_bytes(2, "little") + b"\0" * padding
    return info


def _pickle(tensors: Tensors, metadata: Mapping[str, str]) -> bytes:
    """An OrderedDict of tensors whose elements lie in numbered records.

    Metadata become its attribute, which ``load_state_dict`` does not look at.
    """
    items = b"".join(
        _plain(name) + _tensor(number, tensor)
        for number, (name, tensor) in enumerate(tensors.items())
    )
    state = _plain({"metadata": dict(metadata)}) + pickle.BUILD if metadata else b""
    return (
        (pickle.PROTO + b"\2" + _ordered_dict() + pickle.MARK + items + pickle.SETITEMS)
        + state
        + pickle.STOP
    )


def _tensor(number: int, tensor: Tensor) -> bytes:
    storage = (
        _plain("storage")
        + _name("torch", STORAGES[tensor.dtype])
        + b"".join(map(_plain, (str(number), "cpu", math.prod(tensor.shape))))
    )
    arguments = (
        pickle.MARK
        + storage
        + pickle.TUPLE
        + pickle.BINPERSID
        + _plain(0)
        + _plain(tensor.shape)
        + _plain(_strides(tensor.shape))
        + _plain(False)
        + _ordered_dict()
    )
    return (
        _name("torch._utils", "_rebuild_tensor_v2")
        + pickle.MARK
        + arguments
        + pickle.TUPLE
        + pickle.REDUCE
    )


def _plain(value: object) -> bytes:
    """Instructions that push a plain value."""
    return pickle.dumps(value, 2)[len(pickle.PROTO) + 1 : -len(pickle.STOP)]


def _name(module: str, name: str) -> bytes:
    return pickle.GLOBAL + f"{module}\n{name}\n".encode()


def _ordered_dict() -> bytes:
    return _name("collections", "OrderedDict") + pickle.EMPTY_TUPLE + pickle.REDUCE


def _strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Of a C-contiguous tensor, in elements."""
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
