"""Files that are made to bring their reader down, one for each way that was thought of."""

from __future__ import annotations

import io
import json
import math
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
Shapes = dict[str, tuple[int, ...]]


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


# Names of arrays, which are looked at to recognise a network


def named(path: Path, shapes: dict[str, tuple[int, ...]], texts: dict[str, str]) -> None:
    """A safetensors file of zeros, most of which the disk does not keep."""
    header: dict[str, object] = {"__metadata__": texts}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": (start, end)}
    safetensors(path, json.dumps(header))
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size + end)


def norm(name: str, channels: int) -> Shapes:
    leaves = ("weight", "bias", "running_mean", "running_var")
    return {f"{name}.{leaf}": (channels,) for leaf in leaves}


def torchvision(layers: int, prefix: str = "") -> Shapes:
    """The arrays of a network of one block that has as many layers."""
    body = f"{prefix}features."
    shapes = {f"{body}conv0.weight": (2, 3, 7, 7), **norm(f"{body}norm0", 2)}
    for layer in range(layers):
        inner = f"{body}denseblock1.denselayer{layer + 1}."
        shapes |= norm(f"{inner}norm1", 2 + layer) | norm(f"{inner}norm2", 4)
        shapes |= {f"{inner}conv1.weight": (4, 2 + layer, 1, 1)}
        shapes |= {f"{inner}conv2.weight": (1, 4, 3, 3)}
    return {
        **shapes,
        **norm(f"{body}norm5", 2 + layers),
        f"{prefix}classifier.weight": (2, 2 + layers),
        f"{prefix}classifier.bias": (2,),
    }


def each(pattern: str, shape: tuple[int, ...] = (1, 1, 1, 1), count: int = 15_000) -> Shapes:
    return {pattern.format(number): shape for number in range(count)}


RED = "\x1b[31m"
NET = torchvision(1)
BARE_NET = {name: shape for name, shape in NET.items() if "classifier" not in name}

NAMES: dict[str, Callable[[], Shapes]] = {
    "1,000 layers": lambda: torchvision(1000),
    "a name of dots": lambda: {"a." * 500_000: (1,)},
    "names of dots": lambda: {"a." * 2000 + f"{number}": (1,) for number in range(3000)},
    "a number of 5,000 digits": lambda: {
        **NET, f"features.denseblock1.denselayer{'9' * 5000}.conv1.weight": (1, 1, 1, 1)
    },
    "any kernels": lambda: each("m{}.conv.weight"),
    "any linear layers": lambda: NET | each("features.m{}.weight", (4, 4)),
    "a head of 15,000 layers": lambda: BARE_NET | each("head.{}.weight", (3, 3)),
    "dense layers of one kernel": lambda: each("features.denseblock1.denselayer{}.conv1.weight"),
    "stems": lambda: each("m{}.features.conv0.weight"),
    "stems without a root": lambda: each("m{}.conv0.weight"),
    "numbered stems": lambda: each("m{}.1.denselayer1.norm1.weight", (1,)),
    "nameless stems": lambda: each("m{}/layers/conv2d/vars/0"),
    "16 networks": lambda: {
        name: shape for which in range(16) for name, shape in torchvision(60, f"m{which}.").items()
    },
    "blocks of canonical names": lambda: (
        {"stem.conv.kernel": (1, 1, 1, 1)} | each("block{}.layer1.conv1.kernel")
    ),
    "red": lambda: {f"{RED}red": (1,)},
    "a red array": lambda: {**NET, f"features.{RED}red": (1,)},
    "a red kernel": lambda: {f"{RED}red.features.conv0.weight": (1,)},
    "a red head": lambda: {**BARE_NET, f"{RED}a.weight": (2, 3), f"{RED}b.weight": (2, 2)},
    "half a character": lambda: {"\ud800": (1,), **NET},
}  # fmt: skip
"""The shapes of arrays by name; a file of each is opened as a network."""

TEXTS: dict[str, dict[str, str]] = {
    "lists for layers": {"layer_names": "[" + "[]," * 300_000 + "[]]"},
    "lists for modules": {"modules": "[" + "[]," * 300_000 + "[]]"},
    "no JSON for modules": {"modules": "{"},
    "a list of modules": {"modules": "[1]"},
    "a module that is a number": {"modules": '{"": 1}'},
    "modules without the model": {"modules": '{"a": ["torch.nn.modules.conv.Conv2d", {}]}'},
    "an epsilon that is a list": {
        "modules": '{"": ["a", {}], "features.norm0": ["a", {"eps": [[1]]}]}'
    },
    "a long version": {"densespec": "1" * 10**5},
    "a red version": {"densespec": RED},
    "a config that is a number": {"config": "1"},
    "a config that is a list": {"model_config": "[]"},
    "half a character in a text": {"densespec": "1", "digests": "{}", "spec": "\ud800"},
    "digests that are numbers": {"densespec": "1", "digests": "1", "spec": "{}"},
}
"""Texts beside the arrays of a right network."""

NETWORKS: dict[str, Callable[[Path], object]] = {
    **{f"{name}.safetensors": lambda path, b=b: named(path, b(), {}) for name, b in NAMES.items()},
    **{f"{name}.safetensors": lambda path, t=t: named(path, NET, t) for name, t in TEXTS.items()},
}
"""Files that are hostile where a network is recognised in them."""
