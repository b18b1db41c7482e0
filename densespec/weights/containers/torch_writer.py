"""Writes PyTorch's files tensor by tensor; ``torch.save`` would need all of them in memory.

A ``.ckpt`` file is a checkpoint of Lightning. A module that keeps the network as its attribute
``model``, as most do, loads it strictly with ``load_from_checkpoint``. The caller has to pass the
module's other arguments.
"""

from __future__ import annotations

import math
import pickle
import zipfile
from collections.abc import Mapping

from densespec.weights.containers.base import Output, little_endian_bytes
from densespec.weights.containers.torch_tensors import STORAGES
from densespec.weights.tensors import Tensor, Tensors

STORAGE_NAMES = {
    dtype: name
    for name, dtype in STORAGES.items()
    if name not in ("UntypedStorage", "TypedStorage")
}
"""Maps types of elements to PyTorch's classes of storages."""

FOLDER = "archive"
ALIGNMENT = 64
LOCAL_HEADER, EXTRA_HEADER, ZIP64_EXTRA = 30, 4, 20
PADDING_ID = b"FB"  # PyTorch's own


LIGHTNING = ".ckpt"
LIGHTNING_ENTRIES = {"pytorch-lightning_version": "2.0.0", "epoch": 0, "global_step": 0}
"""Lightning looks for these entries beside a state dict, above all for its version."""

ATTRIBUTE = "model."
"""Lightning's modules mostly put this before the names of their network."""


def write(output: Output) -> None:
    output.check_types(STORAGE_NAMES, "PyTorch files written here")
    with zipfile.ZipFile(output.temporary, "w", zipfile.ZIP_STORED) as archive:
        pickled = _pickle(output.tensors, output.metadata, output.path.suffix.lower() == LIGHTNING)
        archive.writestr(zipfile.ZipInfo(f"{FOLDER}/data.pkl"), pickled)
        archive.writestr(zipfile.ZipInfo(f"{FOLDER}/byteorder"), "little")
        for number, (_, array) in enumerate(output.arrays()):
            with archive.open(_record(archive, number, array.nbytes), "w") as record:
                record.write(little_endian_bytes(array))
        archive.writestr(zipfile.ZipInfo(f"{FOLDER}/version"), "3\n")


def _record(archive: zipfile.ZipFile, number: int, size: int) -> zipfile.ZipInfo:
    """Make a member whose content is aligned, so that it can be mapped into memory."""
    info = zipfile.ZipInfo(f"{FOLDER}/data/{number}")
    info.file_size = size
    assert archive.fp is not None
    start = archive.fp.tell() + LOCAL_HEADER + len(info.filename) + EXTRA_HEADER
    if size * 1.05 > zipfile.ZIP64_LIMIT:  # as zipfile decides
        start += ZIP64_EXTRA
    padding = -start % ALIGNMENT
    info.extra = PADDING_ID + padding.to_bytes(2, "little") + b"\0" * padding
    return info


def _pickle(tensors: Tensors, metadata: Mapping[str, str], lightning: bool) -> bytes:
    """Pickle a state dict, bare or as Lightning's checkpoints have it."""
    state = _state_dict(tensors, metadata, ATTRIBUTE if lightning else "")
    if lightning:
        entries = b"".join(
            _plain(name) + _plain(value) for name, value in LIGHTNING_ENTRIES.items()
        )
        state = (
            pickle.EMPTY_DICT
            + (pickle.MARK + _plain("state_dict") + state + entries)
            + pickle.SETITEMS
        )
    return pickle.PROTO + b"\2" + state + pickle.STOP


def _state_dict(tensors: Tensors, metadata: Mapping[str, str], prefix: str) -> bytes:
    """Push an OrderedDict of tensors whose elements lie in numbered records.

    Metadata become its attribute, which ``load_state_dict`` does not look at.
    """
    items = b"".join(
        _plain(prefix + name) + _tensor(number, tensor)
        for number, (name, tensor) in enumerate(tensors.items())
    )
    state = _plain({"metadata": dict(metadata)}) + pickle.BUILD if metadata else b""
    return _ordered_dict() + pickle.MARK + items + pickle.SETITEMS + state


def _tensor(number: int, tensor: Tensor) -> bytes:
    storage = (
        _plain("storage")
        + _name("torch", STORAGE_NAMES[tensor.dtype])
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
    """Return the instructions that push a plain value."""
    return pickle.dumps(value, 2)[len(pickle.PROTO) + 1 : -len(pickle.STOP)]


def _name(module: str, name: str) -> bytes:
    return pickle.GLOBAL + f"{module}\n{name}\n".encode()


def _ordered_dict() -> bytes:
    return _name("collections", "OrderedDict") + pickle.EMPTY_TUPLE + pickle.REDUCE


def _strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the strides of a C-contiguous tensor, in elements."""
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
