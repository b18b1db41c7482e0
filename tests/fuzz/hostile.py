"""Files that are made to bring their reader down, one for each way that was thought of."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np

MUCH = 60_000_000
"""Bytes that deflate to 60 kB, and are few enough to be unpacked."""

MANY = 3_000_000
"""Instructions, many more than are interpreted."""

Build = Callable[[], bytes]


# Instructions of pickles


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def number(value: int) -> bytes:
    return pickle.dumps(value, 2)[2:-1]


def call(name: str, arguments: bytes) -> bytes:
    return b"c" + name.replace(" ", "\n").encode() + b"\n" + arguments + b"R"


def state(value: bytes) -> bytes:
    """A state dict that holds a value."""
    return b"\x80\x02}" + text("a") + value + b"s."


def doubled(first: bytes, more: bytes) -> bytes:
    """A value that holds what is recalled by ``h\\0`` more than once, sixty times over."""
    return b"\x80\x02" + first + b"q\x000" + (more + b"q\x000") * 60


def tensor(offset: int, shape: bytes, strides: bytes) -> bytes:
    storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu")
    arguments = storage + b"K\1tQ" + number(offset) + shape + strides + b"\x89"
    hooks = call("collections OrderedDict", b")")
    return call("torch._utils _rebuild_tensor_v2", b"(" + arguments + hooks + b"t")


def module(children: bytes) -> bytes:
    """A module, by the names of those within it and their instructions."""
    own = text("_parameters") + b"}" + text("_buffers") + b"}"
    return b"ctorch.nn\nModule\n)\x81}(" + own + text("_modules") + b"}(" + children + b"uub"


ONE = tensor(0, b"K\1\x85", b"K\1\x85")
COLLIDING = [1 + step * (2**61 - 1) for step in range(50_000)]
"""Numbers that Python's dicts find only by looking at all of them."""

PICKLES: dict[str, Build] = {
    "bytearray of 6 GB": lambda: state(call("__builtin__ bytearray", number(6 * 10**9) + b"\x85")),
    "a key that is a doubled tuple": lambda: doubled(b"N", b"h\0h\0\x86") + b"}h\0K\1s.",
    "a state that is a doubled tuple": lambda: doubled(b"N", b"h\0h\0\x86") + b"h\0.",
    "a name that is a doubled tuple": lambda: doubled(b"N", b"h\0h\0\x86") + b"h\0N\x86R.",
    "doubled wrappers": lambda: (
        doubled(b"}" + text("a") + ONE + b"s", b"}(" + text("net") + b"h\0" + text("ema") + b"h\0u")
        + b"h\0."
    ),
    "doubled modules": lambda: (
        doubled(module(b""), module(text("a") + b"h\0" + text("b") + b"h\0")) + b"h\0."
    ),
    "nested tuples": lambda: state(b"N" + b"\x85" * 300_000),
    "nested lists": lambda: state(b"]" * 300_000 + b"a" * 299_999),
    "nested dicts": lambda: state(b"}K\1" * 300_000 + b"N" + b"s" * 300_000),
    "nested calls": lambda: state(b"N" + b"N\x85R" * 300_000),
    "nested parameters": lambda: state(
        b"N" + b"\x85q\x000ctorch._utils\n_rebuild_parameter\nh\0R" * 100_000
    ),
    "nested modules": lambda: (
        b"\x80\x02" + module(b"N").partition(b"N")[0] + b"N."
    ),
    "lists": lambda: b"\x80\x02" + b"]" * MANY,
    "dicts": lambda: b"\x80\x02" + b"}" * MANY,
    "marks": lambda: b"\x80\x02" + b"(" * MANY,
    "tuples": lambda: b"\x80\x02N" + b"\x85" * MANY,
    "copies": lambda: b"\x80\x02N" + b"2" * MANY,
    "recalled values": lambda: b"\x80\x02]q\0(" + b"h\0" * MANY + b"l.",
    "remembered values": lambda: b"\x80\x04N" + b"\x94" * MANY,
    "texts": lambda: b"\x80\x02" + text("abc") * MANY,
    "numbers": lambda: b"\x80\x02" + number(2**40) * MANY,
    "a name": lambda: b"c" + b"a" * MUCH + b"\nb\n.",
    "a line": lambda: b"c" + b"a" * MUCH,
    "a wide text": lambda: state(text("\U0001f600" + "a" * MUCH)),
    "a number": lambda: state(b"\x8b" + struct.pack("<i", MUCH) + b"\1" * MUCH),
    "digits": lambda: state(b"I" + b"9" * MUCH + b"\n"),
    "a count of bytes": lambda: state(
        call("collections Counter", b"B" + struct.pack("<I", MUCH) + bytes(MUCH) + b"\x85")
    ),
    "frames": lambda: b"\x80\x04" + (b"\x95" + b"\xff" * 8) * 1_000_000,
    "bytes that are not there": lambda: state(b"\x8e" + b"\xff" * 8),
    "memo numbers that collide": lambda: (
        b"\x80\x02N" + b"".join(b"p%d\ng%d\n" % (value, value) for value in COLLIDING) + b"."
    ),
    "keys that collide": lambda: state(
        b"}(" + b"".join(number(value) + b"N" for value in COLLIDING) + b"u"
    ),
    "a dict within itself": lambda: b"\x80\x02}q\0" + text("model") + b"h\0s.",
    "a module within itself": lambda: (
        b"\x80\x02" + module(text("a") + b"h\0").replace(b")\x81", b")\x81q\0") + b"."
    ),
    "2**60 elements": lambda: state(tensor(0, number(2**60) + b"\x85", b"K\0\x85")),
    "2**600 elements": lambda: state(tensor(0, number(2**600) + b"\x85", b"K\0\x85")),
    "elements before the storage": lambda: state(tensor(-1, b"K\1\x85", b"K\1\x85")),
    "elements behind the storage": lambda: state(tensor(2**62, b"K\1\x85", b"K\1\x85")),
    "strides backwards": lambda: state(tensor(0, b"K\2\x85", number(-1) + b"\x85")),
    "a shape of many axes": lambda: state(tensor(0, b"(" + b"K\1" * 200_000 + b"t", b")")),
    "names of one tensor": lambda: (
        b"\x80\x02" + tensor(0, b")", b")") + b"q\x000}("
        + b"".join(text(f"{value}") + b"h\0" for value in range(150_000)) + b"u."
    ),
}  # fmt: skip
PICKLES["nested modules"] = lambda: (
    b"\x80\x02" + module(b"\xff").replace(b"\xffuub", text("a")) * 3_000
    + b"N" + b"uub" * 3_000 + b"."
)  # fmt: skip


def zipped(path: Path, pickled: bytes) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", pickled)
        archive.writestr("a/data/0", bytes(4))


def bare(path: Path, pickled: bytes) -> None:
    heads = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2) + pickle.dumps({}, 2)
    storage = pickle.dumps(["0"], 2) + struct.pack("<qf", 1, 0)
    path.write_bytes(heads + pickled + storage)


BARE = ("bytearray of 6 GB", "a key that is a doubled tuple", "lists", "a line", "a number")
"""Names of those that are tried without an archive too: it is the same machine."""


# JSON


def brackets(count: int) -> str:
    return "[" * count


def objects(count: int) -> str:
    return f'{{"a": [{"{}," * count}{{}}]}}'


def keras(path: Path, config: str, metadata: str = "{}") -> None:
    weights = io.BytesIO()
    with h5py.File(weights, "w") as file:
        file["layers/dense/vars/0"] = np.zeros(1)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", config)
        archive.writestr("metadata.json", metadata)
        archive.writestr("model.weights.h5", weights.getvalue())


def safetensors(path: Path, header: str) -> None:
    path.write_bytes(struct.pack("<Q", len(header)) + header.encode())


def whole_model(path: Path, config: str) -> None:
    with h5py.File(path, "w", libver="latest") as file:
        file.attrs["model_config"] = config
        file.create_group("model_weights").attrs["layer_names"] = np.array([], "S1")


# Archives, trees, groups


def members(path: Path, count: int, announced: int) -> None:
    """An archive whose directory has as many members, and says that it has as many."""
    entries = b"".join(
        b"PK\1\2" + bytes(24) + struct.pack("<H", 10) + bytes(16) + b"%06d.npy" % member
        for member in range(count)
    )
    end = struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, *[announced % 2**16] * 2, len(entries), 0, 0)
    path.write_bytes(entries + end)


def bombs(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for member in range(3):
            archive.writestr(f"{member}.npy", bytes(MUCH))


def groups(path: Path) -> None:
    """Groups in one another, each of which leads to the next by many names."""
    with h5py.File(path, "w") as file:
        group = file
        for _ in range(30):
            inner = group.create_group("a")
            for name in "bcdefghi":
                group[name] = inner
            group = inner


def long_paths(path: Path) -> None:
    with h5py.File(path, "w") as file:
        group = file
        for _ in range(60):
            group = group.create_group("n" * 900)
        for member in range(2000):
            group[f"w{member}"] = np.zeros(1)


FILES: dict[str, Callable[[Path], object]] = {
    **{f"{name}.pth": lambda path, b=b: zipped(path, b()) for name, b in PICKLES.items()},
    **{f"{name}.bare.pth": lambda path, b=PICKLES[name]: bare(path, b()) for name in BARE},
    "brackets.keras": lambda path: keras(path, brackets(66_000_000)),
    "fewer brackets.keras": lambda path: keras(path, brackets(10**6)),
    "objects.keras": lambda path: keras(path, objects(20_000_000)),
    "metadata of brackets.keras": lambda path: keras(path, "{}", brackets(10**5)),
    "metadata of objects.keras": lambda path: keras(path, "{}", objects(4 * 10**5)),
    "brackets.safetensors": lambda path: safetensors(path, '{"a":' + brackets(66_000_000)),
    "objects.safetensors": lambda path: safetensors(path, objects(30_000_000)),
    "few objects.safetensors": lambda path: safetensors(path, objects(4 * 10**5)),
    "texts.safetensors": lambda path: safetensors(
        path, '{"__metadata__":{' + ",".join(f'"{n}":""' for n in range(2 * 10**6)) + "}}"
    ),
    "empty arrays.safetensors": lambda path: safetensors(
        path,
        "{" + ",".join(
            f'"{n}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}' for n in range(120_000)
        ) + "}",
    ),
    "brackets.h5": lambda path: whole_model(path, brackets(10**6)),
    "objects.h5": lambda path: whole_model(path, objects(4 * 10**6)),
    "members.npz": lambda path: members(path, 1_000_000, 1_000_000),
    "more members than announced.npz": lambda path: members(path, 140_000, 5),
    "members without end.npz": lambda path: members(path, 90_000, 90_000),
    "bombs.npz": bombs,
    "groups.weights.h5": groups,
    "long paths.weights.h5": long_paths,
    "empty lists.msgpack": lambda path: path.write_bytes(b"\x81\xa1a" + b"\x90" * MUCH),
    "lists.msgpack": lambda path: (
        path.write_bytes(b"\x81\xa1a\xdd" + struct.pack(">I", MUCH) + b"\x90" * MUCH) and None
    ),
    "claimed lists.msgpack": lambda path: (
        path.write_bytes(b"\x81\xa1a" + b"\xdd\0\1\x86\xa0" * 20_000 + bytes(10**5)) and None
    ),
    "claimed lists in a shape.msgpack": lambda path: (
        path.write_bytes(
            b"\x81\xa1a\xc9" + struct.pack(">I", 10**6) + b"\1" + b"\xdd\0\0\0\x64" * 200_000
        )
    ),
    "texts.msgpack": lambda path: (
        path.write_bytes(
            b"\x81\xa1a\xdd" + struct.pack(">I", 10**5) + (b"\xd9\xff" + b"x" * 255) * 10**5
        )
    ),
    "bytes.msgpack": lambda path: (
        path.write_bytes(b"\x81\xa1a\xc6" + struct.pack(">I", MUCH) + bytes(MUCH)) and None
    ),
}  # fmt: skip
