"""Files that follow the grammar of their kind and mean something absurd."""

from __future__ import annotations

import io
import json
import pickletools
import random
import struct
import zipfile
from collections.abc import Callable
from typing import Any

import msgpack

GLOBALS = (
    *("torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter", "torch FloatStorage"),
    *("collections OrderedDict", "collections Counter", "collections defaultdict"),
    *("builtins bytearray", "builtins set", "builtins eval", "os system", "posix system"),
    *("subprocess Popen", "numpy dtype", "numpy._core.multiarray _reconstruct"),
    *("torch.nn.modules.linear Linear", "argparse Namespace", "copyreg _reconstructor"),
)
LONG, DEEP = 20_000, 3_000


def pickled(choose: random.Random) -> bytes:
    """A pickle of random opcodes, now and then many of one."""
    out = io.BytesIO(b"")
    out.write(b"\x80\x02")
    for _ in range(choose.randrange(1, 60)):
        code = _opcode(choose)
        out.write(code * (choose.choice((1, 1, 1, 1, 1, 1, 50, DEEP, LONG)) if code else 1))
    out.write(b"." if choose.random() < 0.9 else b"")
    return out.getvalue()


def _opcode(choose: random.Random) -> bytes:
    """One opcode with an argument that fits its form."""
    match choose.randrange(12):
        case 0:
            return b"c" + choose.choice(GLOBALS).replace(" ", "\n").encode() + b"\n"
        case 1:
            return choose.choice((b"R", b"b", b"o", b"\x81", b"Q", b"e", b"u", b"a", b"s"))
        case 2:
            return choose.choice((b"(", b"(", b"t", b"l", b"d", b"}", b"]", b")", b"\x85", b"\x86"))
        case 3:
            return choose.choice((b"2", b"0", b"1", b"N", b"\x88", b"\x89"))
        case 4:
            return b"q" + bytes([choose.randrange(6)])
        case 5:
            return b"h" + bytes([choose.randrange(6)])
        case 6:
            text = choose.choice(("storage", "0", "cpu", "state_dict", "x" * 300))
            return b"X" + struct.pack("<I", len(text)) + text.encode()
        case 7:
            return b"J" + struct.pack("<i", choose.choice((0, 1, 3, -1, 2**31 - 1)))
        case 8:
            size = choose.choice((0, 1, 8, 255))
            return b"\x8a" + bytes([size]) + choose.randbytes(size)
        case 9:
            return b"\x8b" + struct.pack("<i", choose.choice((4, 2**31 - 1, -1))) + b"\xff" * 4
        case 10:
            return b"r" + struct.pack("<I", choose.choice((0, 7, 2**32 - 1)))
        case _:
            return choose.choice([code.code.encode("latin-1") for code in pickletools.opcodes])


def torch_zip(choose: random.Random) -> bytes:
    """A PyTorch archive with a random pickle."""
    return zipped(
        {"net/data.pkl": pickled(choose), "net/version": b"3\n", "net/data/0": bytes(64)}, choose
    )


def zipped(entries: dict[str, bytes], choose: random.Random) -> bytes:
    """An archive, packed or not, sometimes with an entry that unpacks to very much."""
    out = io.BytesIO()
    method = choose.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
        if choose.random() < 0.1:
            bomb = zipfile.ZipInfo(choose.choice(("net/data/1", "config.json", "a.npy")))
            archive.writestr(bomb, bytes(50 * 2**20), zipfile.ZIP_DEFLATED)
    return out.getvalue()


def json_text(choose: random.Random) -> bytes:
    """JSON that is deep, long, wide, or says odd things."""
    match choose.randrange(6):
        case 0:
            return b"[" * choose.choice((100, DEEP, 10**6))
        case 1:
            return b'{"a":' * DEEP + b"1" + b"}" * DEEP
        case 2:
            return json.dumps({f"k{i}": i for i in range(LONG)}).encode()
        case 3:
            return b'{"n": ' + b"9" * choose.choice((10, 5000, 10**6)) + b"}"
        case 4:
            return json.dumps(
                {"class_name": choose.choice((1, None, [], "x")), "config": 3}
            ).encode()
        case _:
            return choose.randbytes(choose.randrange(1, 200))


def keras_archive(choose: random.Random) -> bytes:
    """A Keras archive with random JSON and no right weights."""
    return zipped(
        {
            "metadata.json": json_text(choose),
            "config.json": json_text(choose),
            "model.weights.h5": choose.randbytes(100),
        },
        choose,
    )


def safetensors(choose: random.Random) -> bytes:
    """A header that claims anything, and a few bytes behind it."""
    claims: dict[str, Any] = {
        f"w{index}": {
            "dtype": choose.choice(("F32", "F64", "BF16", "I64", "BOOL", "X", 3)),
            "shape": [
                choose.choice((0, 1, 3, 2**31, 2**63, -1)) for _ in range(choose.randrange(4))
            ],
            "data_offsets": sorted(choose.choice((0, 4, 64, 2**40)) for _ in range(2)),
        }
        for index in range(choose.randrange(4))
    }
    header = choose.choice((json.dumps(claims).encode(), json_text(choose)))
    return struct.pack("<Q", choose.choice((len(header), 2**40, 0))) + header + bytes(64)


def msgpacked(choose: random.Random) -> bytes:
    """Nested maps, arrays and extension types, or sizes that are not there."""
    if choose.random() < 0.3:
        head = choose.choice(
            (b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff")
        )
        return head + b"\xdd\x00\x00\x00\x01" * choose.choice((1, DEEP))
    return bytes(msgpack.packb(_value(choose, 6)))


def _value(choose: random.Random, depth: int) -> Any:
    match choose.randrange(7 if depth else 4):
        case 0:
            return choose.choice((0, -1, 2**63, 1.5, None, True))
        case 1:
            return choose.randbytes(choose.randrange(20))
        case 2:
            return "x" * choose.randrange(20)
        case 3:
            inner = [[2**40], "float32", bytes(4)], [[1], "object", b""], [[1], "float32", bytes(4)]
            return msgpack.ExtType(1, msgpack.packb(choose.choice(inner)))
        case 4:
            return [_value(choose, depth - 1) for _ in range(choose.randrange(4))]
        case _:
            return {f"k{index}": _value(choose, depth - 1) for index in range(choose.randrange(4))}


def npz(choose: random.Random) -> bytes:
    """Arrays whose headers say odd things."""
    descr = choose.choice(
        ("'<f4'", "'|O'", "[('a', '<f4')]", "'<f4'" + "," * 1000, "'<V9999999999'")
    )
    shape = choose.choice(("(3,)", "(2**40,)", "(9999999999,)", "(-1,)", "()", "(" * 500))
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    head = b"\x93NUMPY\x01\x00" + struct.pack("<H", min(len(text), 2**16 - 1)) + text + bytes(12)
    return zipped({"a.npy": head, "b.npy": choose.choice((head, b""))}, choose)


GRAMMARS: dict[str, tuple[str, Callable[[random.Random], bytes]]] = {
    "made pickle": ("made.pth", pickled),
    "made torch archive": ("made.pt", torch_zip),
    "made Keras archive": ("made.keras", keras_archive),
    "made safetensors": ("made.safetensors", safetensors),
    "made msgpack": ("made.msgpack", msgpacked),
    "made npz": ("made.npz", npz),
}
"""A file name and what makes such files, by kind."""
