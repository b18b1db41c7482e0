"""Small data sets in the published formats, and Philox written down once more."""

from __future__ import annotations

import io
import pickle
import struct
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from densespec.data import Dataset
from densespec.data.sources import cifar

WORD = 2**64


def philox(key: tuple[int, int], position: int) -> Iterator[int]:
    """Philox4x64-10 in plain integers, from its paper: the numbers of a stream."""
    block = 0
    while True:
        block += 1
        c, k = [block, 0, position, 0], list(key)
        for _ in range(10):
            first, second = 0xD2E7470EE14C6C93 * c[0], 0xCA5A826395121157 * c[2]
            c = [
                (second // WORD) ^ c[1] ^ k[0],
                second % WORD,
                (first // WORD) ^ c[3] ^ k[1],
                first % WORD,
            ]
            k = [(k[0] + 0x9E3779B97F4A7C15) % WORD, (k[1] + 0xBB67AE8584CAA73B) % WORD]
        yield from c


def images(count: int, *, channels: int = 3, size: tuple[int, ...] = (32, 32)) -> np.ndarray:
    """Bytes that differ everywhere."""
    draw = np.random.default_rng(count)
    return draw.integers(0, 256, (count, channels, *size), np.uint8)


def dataset(count: int = 50, classes: int = 5, **shape: Any) -> Dataset:
    x, y = images(count, **shape), np.arange(count) % classes
    return Dataset.of(x, y, x[:classes], y[:classes], classes=classes, channels_last=False)


# CIFAR, as it was published


def python2(value: Any) -> bytes:
    """What Python 2 pickled: its texts are bytes, its arrays those of numpy 1."""
    return b"\x80\x02" + _python2(value) + b"."


def _python2(value: Any) -> bytes:
    match value:
        case np.ndarray():
            kind = _call("numpy", "dtype", (b"u1", 0, 1))
            kind += _python2((3, b"|", None, None, None, -1, -1, 0)) + b"b"
            fortran = value.flags.f_contiguous and not value.flags.c_contiguous
            made = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n"
            made += _python2((0,)) + _python2(b"b") + b"tR"
            state = _python2(1) + _python2(value.shape) + kind + _python2(bool(fortran))
            return made + b"(" + state + _python2(value.tobytes("A")) + b"tb"
        case bytes():
            return b"T" + struct.pack("<i", len(value)) + value
        case str():
            return _python2(value.encode())
        case list():
            return b"](" + b"".join(map(_python2, value)) + b"e"
        case tuple():
            return b"(" + b"".join(map(_python2, value)) + b"t"
        case dict():
            pairs = b"".join(_python2(k) + _python2(v) for k, v in value.items())
            return b"}(" + pairs + b"u"
        case _:
            return pickle.dumps(value, 2)[2:-1]


def _call(module: str, name: str, arguments: tuple[Any, ...]) -> bytes:
    return f"c{module}\n{name}\n".encode() + _python2(arguments) + b"R"


def labels_of(name: str, count: int) -> np.ndarray:
    return (np.arange(count) * 7) % cifar.PUBLISHED[name].classes


def cifar_files(name: str, release: cifar.Release, count: int = 6) -> dict[str, bytes]:
    """The files of a data set: ``count`` images to test on, and that many in all to train on."""
    x, y = images(2 * count), labels_of(name, 2 * count)
    parts = np.array_split(np.arange(count), len(release.train))
    rows = dict(zip(release.train, parts, strict=True)) | {
        release.test: np.arange(count, 2 * count)
    }
    files = {file: _cifar_file(name, release, x[index], y[index]) for file, index in rows.items()}
    classes = [f"class{number}" for number in range(cifar.PUBLISHED[name].classes)]
    if release.names_key is None:
        files[release.names] = ("\n".join(classes) + "\n\n").encode()
    else:
        files[release.names] = python2({release.names_key: classes, "num_vis": 3072})
    return files


def _cifar_file(name: str, release: cifar.Release, x: np.ndarray, y: np.ndarray) -> bytes:
    flat = x.reshape(len(x), -1)
    if release.names_key is None:
        columns = [(y // 5).astype(np.uint8)[:, None]] * (release.labels - 1)
        return np.hstack([*columns, y.astype(np.uint8)[:, None], flat]).tobytes()
    table = {"batch_label": "a batch", "data": flat, release.labels: y.tolist()}
    return python2(table | {"filenames": [f"{number}.png" for number in range(len(x))]})


def write_folder(folder: Path, files: Mapping[str, bytes]) -> Path:
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def write_archive(path: Path, files: Mapping[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path
