"""HDF5 without its library: as the library reads it, and files that would trap it."""

from __future__ import annotations

import random
import struct
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from densespec.weights.containers.base import BytesOfFile
from densespec.weights.containers.hdf5_format import HDF5File, HDF5Object
from tests.containers.samples import bits, network, read_all, refusal

VERSIONS = {
    "oldest": "earliest",
    "1.8": ("v108", "v108"),
    "1.10": ("v110", "v110"),
    "latest": "latest",
}
versions = pytest.mark.parametrize("libver", VERSIONS.values(), ids=VERSIONS)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "net.weights.h5"


# As the library reads it


def assert_same(node: HDF5Object, expected: Any) -> None:
    """Compare groups, attributes and arrays with what the library finds."""
    if isinstance(expected, h5py.Group):
        assert set(node.links) == set(expected)
        for name in expected:
            assert_same(node[name], expected[name])
    else:
        array, data = node.array(), np.asarray(expected[()])
        assert array.shape == data.shape
        found = node.file.file.array(array.start, array.shape, data.dtype, array.order)
        np.testing.assert_array_equal(found, data)
    assert node.attributes == {key: plain(value) for key, value in expected.attrs.items()}


def plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, np.ndarray) and value.shape == (0,):
        return []
    if isinstance(value, np.ndarray) and value.dtype.kind in "SO":
        return [plain(text) for text in value.tolist()]
    return value if isinstance(value, str) else None


@versions
@pytest.mark.parametrize("count", [0, 1, 8, 9, 70, 700])
@pytest.mark.parametrize("ordered", [False, True])
def test_groups_of_any_size(path: Path, libver: Any, count: int, ordered: bool) -> None:
    choose = random.Random(0)
    with h5py.File(path, "w", libver=libver, track_order=ordered) as file:
        for n in range(count):
            group = file.create_group(f"layers/{'x' * choose.randrange(30)}{n}/é", track_order=True)
            shape = choose.choice([(), (0,), (2, 3), (5,)])
            kind = choose.choice(["float16", "float32", "float64", "int64", "int16", "uint8"])
            data = np.arange(np.prod(shape), dtype=kind).reshape(shape)
            group["v"] = data.astype(data.dtype.newbyteorder(choose.choice("<>")))
            group["v"].attrs["of"] = str(n)
        file.create_group("empty")
    with h5py.File(path) as file:
        assert_same(HDF5File(BytesOfFile(path)).root, file)


@versions
@pytest.mark.parametrize("count", [1, 7, 9, 60])
def test_attributes_of_any_number_and_size(path: Path, libver: Any, count: int) -> None:
    choose = random.Random(0)
    with h5py.File(path, "w", libver=libver) as file:
        for n in range(count):
            file.attrs[f"ключ {n}"] = choose.choice(
                [
                    "text",
                    "",
                    "é" * choose.randrange(40_000),
                    np.bytes_("fixed"),
                    np.array([b"a", b"bcd"]),
                    ["variable", "é"],
                    np.array([b"x" * 60] * 500),
                    3.5,
                    np.zeros(3),
                    np.zeros(0),
                    h5py.Empty("f"),
                ]
            )
    with h5py.File(path) as file:
        assert_same(HDF5File(BytesOfFile(path)).root, file)


def test_attributes_beyond_64_kilobytes(path: Path) -> None:
    with h5py.File(path, "w", libver="latest") as file:
        file.attrs["names"] = np.array([b"x" * 60] * 5000)
        file.attrs["few"] = "y"
    with h5py.File(path) as file:
        assert_same(HDF5File(BytesOfFile(path)).root, file)


@versions
def test_files_that_were_changed(path: Path, libver: Any) -> None:
    """Deleting and adding leaves gaps, splits nodes and continues headers."""
    choose = random.Random(1)
    with h5py.File(path, "w", libver=libver) as file:
        for n in range(400):
            file[f"w{n}"] = np.float32([n])
    for _ in range(3):
        with h5py.File(path, "r+", libver=libver) as file:
            for name in choose.sample(sorted(file), 120):
                del file[name]
            for n in range(60):
                name = f"new{choose.randrange(10**9)}"
                file[name] = np.float64([n])
                for key in range(n % 20):
                    file[name].attrs[f"k{key}"] = "v" * key
    with h5py.File(path) as file:
        assert_same(HDF5File(BytesOfFile(path)).root, file)


def test_types_by_name(path: Path) -> None:
    kinds = ("float16", "bfloat16", "float32", "float64", "int8", "uint64", "bool")
    with h5py.File(path, "w") as file:
        for kind in kinds:
            file[kind] = bits(kind, (3,))
    for name, array in read_all(path).items():
        assert array.dtype.name == name
        assert array.tobytes() == bits(name, (3,)).tobytes()


def test_compact_arrays(path: Path) -> None:
    with h5py.File(path, "w") as file:
        settings = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        settings.set_layout(h5py.h5d.COMPACT)
        space = h5py.h5s.create_simple((3,))
        data = h5py.h5d.create(file.id, b"x", h5py.h5t.IEEE_F32LE, space, settings)
        data.write(space, space, np.float32([1, 2, 3]))
    assert read_all(path)["x"].tolist() == [1, 2, 3]


# What is refused


def test_soft_links(path: Path) -> None:
    for libver in ("earliest", "latest"):
        with h5py.File(path, "w", libver=libver) as file:
            file["a"] = np.zeros(2)
            file["b"] = h5py.SoftLink("/a")
        assert "'b' is a soft link, which can lead to other files" in refusal(path)


def test_external_links(tmp_path: Path, path: Path) -> None:
    secret = tmp_path / "secret.h5"
    with h5py.File(secret, "w") as file:
        file["a"] = np.zeros(2)
    with h5py.File(path, "w") as file:
        file["layers/b"] = h5py.ExternalLink(str(secret), "/a")
    assert "'b' is a external link" in refusal(path).replace("an external", "a external")


def test_arrays_in_other_files(tmp_path: Path, path: Path) -> None:
    (tmp_path / "secret").write_bytes(bytes(100))
    with h5py.File(path, "w") as file:
        file.create_dataset("a", (4,), "f4", external=[(str(tmp_path / "secret"), 0, 16)])
    assert "'a': it lies in another file" in refusal(path)


def test_virtual_arrays(path: Path) -> None:
    layout = h5py.VirtualLayout((4,), "f4")
    layout[:] = h5py.VirtualSource("/etc/passwd", "x", (4,))
    with h5py.File(path, "w", libver="latest") as file:
        file.create_virtual_dataset("a", layout)
    assert "'a': it lies in other files" in refusal(path)


@pytest.mark.parametrize("libver", ["earliest", "latest"])
@pytest.mark.parametrize("options", [{"chunks": (2,)}, {"compression": "gzip"}])
def test_arrays_in_chunks(path: Path, libver: str, options: Any) -> None:
    with h5py.File(path, "w", libver=libver) as file:
        file.create_dataset("a", data=np.zeros(4), **options)
    assert "'a': it is in chunks; rewrite the file: h5repack -l CONTI -f NONE" in refusal(path)


def test_arrays_that_are_only_claimed(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("a", (2**40,), "f4")
    assert "'a': it claims 4398046511104 bytes, of which 0 are stored" in refusal(path)


def test_shapes_that_grew(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["a"] = np.zeros((7, 11), np.float32)
    content = path.read_bytes()
    for dims in [(7, 12), (2**32, 2**32), (2**64 - 1, 2**64 - 1), (0, 2**63)]:
        path.write_bytes(content.replace(struct.pack("<QQ", 7, 11), struct.pack("<QQ", *dims)))
        assert "claims" in refusal(path) or "too large" in refusal(path)


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(np.array([(1, 2.0)], dtype="i4,f4"), id="records"),
        pytest.param(np.array([1 + 2j]), id="complex"),
        pytest.param(np.array([b"abc"]), id="texts"),
        pytest.param("text", id="text"),
        pytest.param(h5py.Empty("f4"), id="nothing"),
    ],
)
def test_arrays_of_anything_but_numbers(path: Path, value: Any) -> None:
    with h5py.File(path, "w") as file:
        file["a"] = value
    assert "'a': it should be an array of numbers" in refusal(path)


def test_groups_that_lead_back_to_themselves(path: Path) -> None:
    for libver in ("earliest", "latest"):
        with h5py.File(path, "w", libver=libver) as file:
            file.create_group("a/b")
            file["a/b/c"] = file["a"]  # a hard link
        assert "the group 'a/b/c' leads back to itself" in refusal(path)


def test_groups_that_multiply(path: Path) -> None:
    """Two links a level would be 2**60 paths."""
    with h5py.File(path, "w") as file:
        group = file.create_group("x")
        for _ in range(60):
            inner = group.create_group("l")
            group["r"] = inner
            group = inner
        group["v"] = np.zeros(1)
    assert "leads back to itself" in refusal(path)


def test_groups_that_lie_too_deep(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["/".join("g" * 200)] = np.zeros(1)
    assert "lies too deep" in refusal(path)


def test_texts_of_no_size_are_not_counted(path: Path) -> None:
    """A part of the global heap whose objects have no size makes the library loop for ever."""
    with h5py.File(path, "w") as file:
        file.attrs["note"] = "hello"
        file["a"] = np.zeros(2)
    content = bytearray(path.read_bytes())
    heap = content.index(b"GCOL") + 16
    for size in (0, 2**64 - 1, 2**63, 2**32):
        content[heap + 8 : heap + 16] = struct.pack("<Q", size)
        path.write_bytes(content)
        assert refusal(path)


def test_texts_that_multiply(path: Path) -> None:
    """Many names that are one large text of the heap."""
    with h5py.File(path, "w") as file:
        file.attrs["big"] = "x" * 10**6
        file.attrs["many"] = ["y" * 10] * 4000
    content = bytearray(path.read_bytes())
    heap = content.rindex(b"GCOL", 0, content.index(b"x" * 100))
    count, start = 0, content.find(struct.pack("<I", 10))
    while start >= 0 and count < 4000:
        address, number = struct.unpack_from("<QI", content, start + 4)
        if number and content[address : address + 4] == b"GCOL":
            content[start : start + 16] = struct.pack("<IQI", 10**6, heap, 1)
            count += 1
        start = content.find(struct.pack("<I", 10), start + 4)
    assert count == 4000
    path.write_bytes(content)
    assert "its texts take more than" in refusal(path)


def test_headers_that_continue_in_themselves(path: Path) -> None:
    with h5py.File(path, "w") as file:
        for n in range(20):
            file.attrs[f"k{n}"] = "v" * 100
        file["a"] = np.zeros(2)
    content = path.read_bytes()
    root = HDF5File(BytesOfFile(path)).root.address
    size = struct.unpack_from("<I", content, root + 8)[0]
    at = root + 16
    while struct.unpack_from("<H", content, at)[0] != 0x10:  # a continuation
        at += 8 + struct.unpack_from("<H", content, at + 2)[0]
        assert at < root + 16 + size
    path.write_bytes(content[: at + 8] + struct.pack("<QQ", root + 16, size) + content[at + 24 :])
    assert "continues in itself" in refusal(path)


# Members that are lost


def written(path: Path, count: int = 3) -> bytearray:
    with h5py.File(path, "w") as file:
        for number in range(count):
            file[f"w{number}"] = np.zeros(2)
    return bytearray(path.read_bytes())


@pytest.mark.parametrize(("count", "table"), [(3, b"SNOD"), (40, b"TREE")])
def test_lists_that_have_more_members_than_they_say(path: Path, count: int, table: bytes) -> None:
    content = written(path, count)
    at = content.index(table) + 6
    number = struct.unpack_from("<H", content, at)[0]
    assert number > 1
    struct.pack_into("<H", content, at, number - 1)
    path.write_bytes(content)
    assert "has more of them than it says" in refusal(path)


@pytest.mark.parametrize("kind", [0x11, 0x08])
def test_headers_that_lose_what_their_object_is(path: Path, kind: int) -> None:
    """A group that has no list of members, or an array without a place, is none."""
    content = written(path)
    objects = HDF5File(BytesOfFile(path))
    node = objects.root if kind == 0x11 else objects.root["w1"]
    (message,) = (message for message in node.messages if message.kind == kind)
    struct.pack_into("<H", content, message.start - 8, 0)
    path.write_bytes(content)
    assert "is neither a group nor an array" in refusal(path)


def test_headers_that_have_more_messages_than_they_say(path: Path) -> None:
    content = written(path)
    node = HDF5File(BytesOfFile(path)).root["w1"]
    content[node.address + 2] -= 1
    path.write_bytes(content)
    assert "messages, but says that it has" in refusal(path)


def test_an_array_is_no_root(path: Path) -> None:
    content = written(path)
    file = HDF5File(BytesOfFile(path))
    at = content.index(struct.pack("<Q", file.root.address), 24)
    struct.pack_into("<Q", content, at, file.root["w1"].address)
    path.write_bytes(content)
    assert "an array stands where everything else should be" in refusal(path)


@versions
def test_every_cut_is_found(path: Path, libver: Any) -> None:
    with h5py.File(path, "w", libver=libver) as file:
        for name, array in network().items():
            file[name] = array
    content = path.read_bytes()
    for size in range(8, len(content), 7):
        path.unlink()  # overwriting it is slower
        path.write_bytes(content[:size])
        assert refusal(path)
