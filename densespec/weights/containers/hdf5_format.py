"""Reads the HDF5 format, as far as h5py uses it by default, without the HDF5 library.

The library is written in C. Damaged files make it hang or overrun memory, which can't be caught, so
it must not read files from strangers. Here every address and size is checked against the file,
every link is checked before it is followed, and the number of steps is limited.

It reads superblocks of version 0 to 3, groups and attributes of both generations, texts, and arrays
of numbers in one piece. It refuses links other than hard links, and arrays in other files or in
chunks. The numbers below are those of the "HDF5 File Format Specification", version 3.
"""

from __future__ import annotations

import functools
import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from densespec.errors import shown
from densespec.weights.containers.base import ByteOrder, Damaged, Refused, StoredBytes

SIGNATURE = b"\x89HDF\r\n\x1a\n"
UNDEFINED = 2**64 - 1
MOST_STEPS = 1_000_000
MOST_TEXT = 2**24

LONGEST_NAME = 1024
TABLE_K, TREE_K = 4, 16
"""A table of symbols, and a node of a tree, has at most twice as many entries by default."""


class MessageType:
    """Numbers the types of messages in an object's header."""

    DATASPACE = 0x01
    LINK_INFO = 0x02
    DATATYPE = 0x03
    LINK = 0x06
    EXTERNAL_FILES = 0x07
    LAYOUT = 0x08
    ATTRIBUTE = 0x0C
    CONTINUATION = 0x10
    SYMBOL_TABLE = 0x11
    ATTRIBUTE_INFO = 0x15


LINKING = (MessageType.SYMBOL_TABLE, MessageType.LINK, MessageType.LINK_INFO)
"""Groups have messages of these types, and arrays have none of them."""

# Types of records in a B-tree of version 2.
HUGE_OBJECTS, LINKS_BY_NAME, ATTRIBUTES_BY_NAME = 1, 5, 8

FLOATS = {
    (2, 0, 16, 10, 5, 0, 10, 15): "float16",
    (4, 0, 32, 23, 8, 0, 23, 127): "float32",
    (8, 0, 64, 52, 11, 0, 52, 1023): "float64",
    (2, 0, 16, 7, 8, 0, 7, 127): "bfloat16",
}
"""Maps size, bit offset, precision, place and size of exponent and mantissa, and bias to types."""

BOOLS = (b"FALSE\0\0\0TRUE\0\0\0\0\0\1", b"FALSE\0TRUE\0\0\1")
"""h5py's enumeration for booleans has these members, in types of version 1 and 3."""


@dataclass(frozen=True)
class ElementType:
    """Describes the type of elements.

    Attributes:
        name: the name that numpy or ``ml_dtypes`` has for it, ``text``, or None for any other type.
        order: the byte order of numbers.
        size: the bytes of one element.
        variable: whether texts lie in the global heap.
    """

    name: str | None
    order: ByteOrder
    size: int
    variable: bool = False


@dataclass(frozen=True)
class StoredArray:
    """Says where an array lies: its elements start at ``start``, and ``stored`` bytes are there."""

    shape: tuple[int, ...]
    dtype: str
    order: ByteOrder
    start: int
    stored: int


@dataclass(frozen=True, slots=True)
class Message:
    """Describes a message of an object's header: its type, its flags, and where it lies."""

    kind: int
    flags: int
    start: int
    size: int


Texts = str | list[str] | None
"""Holds an attribute: a text, a list of texts, or None for anything else."""


class HDF5File:
    """Reads the bytes of a file, and its structures."""

    def __init__(self, file: StoredBytes) -> None:
        self.file = file
        self.size = file.size
        self.table_k, self.tree_k = TABLE_K, TREE_K
        self._steps = MOST_STEPS
        self._text_left = MOST_TEXT
        self._nodes: dict[int, HDF5Object] = {}
        self._collections: dict[int, dict[int, tuple[int, int]]] = {}
        self.root = self.node(self._root_address())
        if self.root.is_array:
            raise Damaged("an array stands where everything else should be")

    def _root_address(self) -> int:
        if self.take(0, 8) != SIGNATURE:
            raise Damaged("it does not start as HDF5 does")
        (version,) = self.unpack("B", 8)
        if version in (0, 1):
            sizes = self.unpack("BB", 13)
            self.table_k, self.tree_k = self.unpack("HH", 16)
            base, _, end, _, _, root = self.unpack("6Q", 24 + 4 * version)
        elif version in (2, 3):
            sizes = self.unpack("BB", 9)
            base, _, end, root = self.unpack("4Q", 12)
        else:
            raise Damaged(f"its superblock is of version {version}")
        if sizes != (8, 8) or base:
            raise Refused(
                "its addresses are not of 8 bytes, or do not count from its start; save it anew"
            )
        if end > self.size:
            raise Damaged(f"it is cut short: {self.size} of {end} bytes are there")
        return int(root)

    def node(self, address: int) -> HDF5Object:
        """Return the group or array at an address."""
        if address not in self._nodes:
            self._nodes[address] = HDF5Object(self, address)
        return self._nodes[address]

    def unpack(self, form: str, start: int) -> tuple[Any, ...]:
        """Read little-endian numbers, as :mod:`struct` describes them."""
        self._steps -= 1
        if not self._steps:
            raise Damaged(f"its structure takes more than {MOST_STEPS} steps to read")
        return struct.unpack(f"<{form}", self.take(start, struct.calcsize(f"<{form}")))

    def take(self, start: int, size: int) -> bytes:
        """Copy some bytes, all of which are in the file."""
        if start + size > self.size:
            raise Damaged(f"it ends at {self.size} bytes, but {start + size} are needed")
        return self.file.take(start, size)

    def expect(self, signature: bytes, start: int) -> int:
        """Check a structure's signature, and give the place where it ends."""
        if self.take(start, len(signature)) != signature:
            raise Damaged(f"there should be {signature.decode()} at {start}")
        return start + len(signature)

    def text(self, start: int, size: int) -> str:
        """Read a text, up to its first zero."""
        self._text_left -= size
        if self._text_left < 0:
            raise Damaged(f"its texts take more than {MOST_TEXT} bytes")
        return self.take(start, size).partition(b"\0")[0].decode()

    def collection(self, address: int) -> dict[int, tuple[int, int]]:
        """Find the objects of a part of the global heap: their places and sizes, by number."""
        if address not in self._collections:
            self._collections[address] = self._read_collection(address)
        return self._collections[address]

    def _read_collection(self, address: int) -> dict[int, tuple[int, int]]:
        start = self.expect(b"GCOL", address)
        end = address + self.unpack("Q", start + 4)[0]
        at = address + 16
        found: dict[int, tuple[int, int]] = {}
        while at + 16 <= end:
            number, size = self.unpack("HxxxxxxQ", at)
            if number == 0:  # free space, up to the end
                break
            if at + 16 + size > end:
                raise Damaged("a text lies outside its heap")
            found[number] = (at + 16, size)
            at += 16 + size + -size % 8
        return found


class HDF5Object:
    """Represents a group or an array."""

    def __init__(self, file: HDF5File, address: int) -> None:
        self.file, self.address = file, address
        self.messages = list(_messages(file, address))

        kinds = {message.kind for message in self.messages}
        self.is_array = MessageType.LAYOUT in kinds
        if not kinds & {*LINKING, MessageType.LAYOUT}:
            raise Damaged(f"what lies at {address} is neither a group nor an array")

    def __getitem__(self, name: str) -> HDF5Object:
        address = self.links.get(name)
        if address is None:
            raise Damaged(f"there is no {shown(name)} where it should be")
        return self.file.node(address)

    @functools.cached_property
    def links(self) -> dict[str, int]:
        """Return the addresses of a group's members, by name."""
        found: dict[str, int] = {}
        for name, address in self._links():
            if name in found or not name:
                raise Damaged(f"the name {shown(name)} is there twice, or empty")
            found[name] = address
        return found

    def _links(self) -> Iterator[tuple[str, int]]:
        for message in self.messages:
            match message.kind:
                case MessageType.SYMBOL_TABLE:
                    yield from _symbols(self.file, *self.file.unpack("QQ", message.start))
                case MessageType.LINK:
                    yield _link(self.file, message.start)
                case MessageType.LINK_INFO:
                    for start, _ in _dense(self.file, message.start, 8, LINKS_BY_NAME, 4, 7):
                        yield _link(self.file, start)

    @functools.cached_property
    def attributes(self) -> dict[str, Texts]:
        return dict(_attribute(self.file, start, size) for start, size in self._attributes())

    def _attributes(self) -> Iterator[tuple[int, int]]:
        for message in self.messages:
            if message.kind == MessageType.ATTRIBUTE and not message.flags & 2:  # 2: elsewhere
                yield message.start, message.size
            elif message.kind == MessageType.ATTRIBUTE_INFO:
                yield from _dense(self.file, message.start, 2, ATTRIBUTES_BY_NAME, 0, 8)

    def array(self) -> StoredArray:
        """Find where an array lies.

        Raises:
            Refused: in another file, in chunks, or nowhere; or of a type that is not read.
        """
        file = self.file
        shape = _shape(file, self._own(MessageType.DATASPACE))
        kind = _type(file, self._own(MessageType.DATATYPE))
        if self._find(MessageType.EXTERNAL_FILES):
            raise Refused("it lies in another file; save the array itself")
        if shape is None or kind.name is None or kind.name == "text":
            raise Refused("it should be an array of numbers; save it as one")
        start, stored = self._place()
        claimed = math.prod(shape) * kind.size
        if claimed > stored or (claimed and start + claimed > file.size):
            raise Refused(
                f"it claims {claimed} bytes, of which {stored} are stored, at {start} in a file of "
                f"{file.size}; get the file anew"
            )
        return StoredArray(shape, kind.name, kind.order, start if claimed else 0, stored)

    def _place(self) -> tuple[int, int]:
        """Find where elements start, and how many bytes there are of them."""
        start = self._own(MessageType.LAYOUT)
        version, layout = self.file.unpack("BB", start)
        if version not in (3, 4):
            raise Refused(f"its layout is of version {version}; save it anew")
        match layout:
            case 0:
                return start + 4, self.file.unpack("H", start + 2)[0]
            case 1:
                address, size = self.file.unpack("QQ", start + 2)
                return address, 0 if address == UNDEFINED else size
            case 2:
                raise Refused("it is in chunks; rewrite the file: h5repack -l CONTI -f NONE")
        raise Refused("it lies in other files; save the array itself")

    def _find(self, kind: int) -> Message | None:
        return next((message for message in self.messages if message.kind == kind), None)

    def _own(self, kind: int) -> int:
        """Find where the one message of a kind starts."""
        message = self._find(kind)
        if message is None or message.flags & 2:
            raise Refused("it has no type, shape or place of its own; save it anew")
        return message.start


def _messages(file: HDF5File, address: int) -> Iterator[Message]:
    """Read the messages of an object's header, except for those that say where it continues.

    Raises:
        Damaged: there is no header, or it has more or fewer messages than it says.
    """
    count = None
    if file.take(address, 4) == b"OHDR":
        blocks, head = [_first_block(file, address)], 4
        if file.unpack("B", address + 5)[0] & 4:
            head = 6
    else:
        version, count, size = file.unpack("BxHxxxxI", address)
        if version != 1:
            raise Damaged(f"there is no group or array at {address}")
        blocks, head = [(address + 16, size)], 8
    seen, found = set(), 0
    for start, size in blocks:  # which grow
        if start in seen:
            raise Damaged(f"the header at {address} continues in itself")
        seen.add(start)
        for message in _block(file, start, start + size, head):
            found += 1
            if message.kind == MessageType.CONTINUATION:
                blocks.append(_continued(file, message.start, head))
            else:
                yield message
    if count not in (None, found):
        raise Damaged(f"the header at {address} has {found} messages, but says that it has {count}")


def _first_block(file: HDF5File, address: int) -> tuple[int, int]:
    (flags,) = file.unpack("B", address + 5)
    start = address + 6 + (16 if flags & 0x20 else 0) + (4 if flags & 0x10 else 0)
    width = 1 << (flags & 3)
    return start + width, int.from_bytes(file.take(start, width), "little")


def _continued(file: HDF5File, start: int, head: int) -> tuple[int, int]:
    address, size = file.unpack("QQ", start)
    if head == 8:
        return address, size
    return file.expect(b"OCHK", address), size - 8  # without signature and checksum


def _block(file: HDF5File, start: int, end: int, head: int) -> Iterator[Message]:
    while start + head <= end:
        kind, size, flags = file.unpack("HHB" if head == 8 else "BHB", start)
        yield Message(kind, flags, start + head, size)
        start += head + size


# Groups of the first generation


def _symbols(file: HDF5File, tree: int, heap: int) -> Iterator[tuple[str, int]]:
    size, _, names = file.unpack("QQQ", file.expect(b"HEAP", heap) + 4)
    for table in _tables(file, tree, None, set()):
        start = file.expect(b"SNOD", table)
        (count,) = file.unpack("H", start + 2)
        for entry in range(start + 4, start + 4 + 40 * count, 40):
            offset, address, cache = file.unpack("QQI", entry)
            if offset >= size:
                raise Damaged("a name lies outside its heap")
            name = _terminated(file, names + offset, size - offset)
            if cache == 2:
                raise Refused(_refused(name.decode(), "soft"))
            yield name.decode(), address
        _check_rest(file, start + 4 + 40 * count, 2 * file.table_k - count, 40)


def _check_rest(file: HDF5File, start: int, free: int, size: int) -> None:
    """Check that a list has no more entries than it says: HDF5 clears those that it drops."""
    if free > 0 and any(file.take(start, size)):
        raise Damaged(f"a group's list of members at {start} has more of them than it says")


def _terminated(file: HDF5File, start: int, most: int) -> bytes:
    name, zero, _ = file.file.take(start, min(most, LONGEST_NAME)).partition(b"\0")
    if not zero:
        raise Damaged(f"a name of a group does not end, or is longer than {LONGEST_NAME} bytes")
    return name


def _tables(file: HDF5File, node: int, above: int | None, seen: set[int]) -> Iterator[int]:
    """Find the tables of symbols below a node of a B-tree of version 1."""
    kind, level, count = file.unpack("BBH", file.expect(b"TREE", node))
    if kind or node in seen or (above is not None and level != above - 1):
        raise Damaged(f"the tree of a group is tangled at {node}")
    seen.add(node)
    _check_rest(file, node + 24 + 8 + 16 * count, 2 * file.tree_k - count, 8)
    for number in range(count):
        (child,) = file.unpack("Q", node + 24 + 8 + 16 * number)
        if level:
            yield from _tables(file, child, level, seen)
        elif child in seen:
            raise Damaged(f"the tree of a group is tangled at {node}")
        else:
            seen.add(child)
            yield child


# Groups and attributes of the second generation


def _link(file: HDF5File, start: int) -> tuple[str, int]:
    version, flags = file.unpack("BB", start)
    if version != 1:
        raise Damaged(f"a link is of version {version}")
    at = start + 2
    kind = 0
    if flags & 0x08:
        (kind,) = file.unpack("B", at)
        at += 1
    at += (8 if flags & 0x04 else 0) + (1 if flags & 0x10 else 0)
    width = 1 << (flags & 3)
    length = int.from_bytes(file.take(at, width), "little")
    name = file.text(at + width, length)
    if kind:
        raise Refused(_refused(name, "soft" if kind == 1 else "external"))
    return name, file.unpack("Q", at + width + length)[0]


def _refused(name: str, kind: str) -> str:
    return (
        f"{shown(name)} is a {kind} link, which can lead to other files; save the arrays themselves"
    )


def _dense(
    file: HDF5File, info: int, index: int, kind: int, start: int, size: int
) -> Iterator[tuple[int, int]]:
    """Find links or attributes that are too many for their object's header.

    Args:
        info: where the message about them starts.
        index: the bytes that it has for a creation index, if it has one.
        kind: the type of records in their tree, which hold their names in the heap.
        start: where the heap's name starts in a record.
        size: the bytes of the heap's name.
    """
    (flags,) = file.unpack("B", info + 1)
    heap, tree = file.unpack("QQ", info + 2 + (index if flags & 1 else 0))
    if heap == UNDEFINED:
        return
    objects = _Heap(file, heap)
    for record in _records(file, tree, kind):
        yield objects.find(file.take(record + start, size))


def _records(file: HDF5File, address: int, kind: int) -> Iterator[int]:
    """Find where the records of a B-tree of version 2 start."""
    _, found, node, size, depth, _, _, root, count, _ = file.unpack(
        "BBIHHBBQHQ", file.expect(b"BTHD", address)
    )
    if found != kind or not size or node < 10 + size or depth > 16:
        raise Damaged(f"the tree at {address} is of another kind, or damaged")
    if root != UNDEFINED:
        yield from _node_records(file, root, count, depth, size, _pointers(node, size, depth))


def _pointers(node: int, size: int, depth: int) -> list[tuple[int, int]]:
    """Return the bytes of a node's counts of records by depth: of a child, and of all below."""
    most = below = (node - 10) // size
    width = _width(most)
    found, total = [(width, 0)], 0
    for _ in range(depth):
        found.append((width, total))
        pointer = 8 + width + total
        most = max(0, (node - 10 - pointer) // (size + pointer))
        below = (most + 1) * below + most
        total = _width(below)
    return found


def _width(limit: int) -> int:
    """Count the bytes of numbers up to a limit."""
    return max(1, (limit.bit_length() + 7) // 8)


def _node_records(
    file: HDF5File, node: int, count: int, depth: int, size: int, widths: list[tuple[int, int]]
) -> Iterator[int]:
    start = file.expect(b"BTIN" if depth else b"BTLF", node) + 2
    yield from range(start, start + count * size, size)
    if not depth:
        return
    one, total = widths[depth]
    at = start + count * size
    for _ in range(count + 1):
        (child,) = file.unpack("Q", at)
        inner = int.from_bytes(file.take(at + 8, one), "little")
        yield from _node_records(file, child, inner, depth - 1, size, widths)
        at += 8 + one + total


class _Heap:
    """Reads a fractal heap: objects in blocks, whose sizes double from row to row."""

    def __init__(self, file: HDF5File, address: int) -> None:
        self.file = file
        fields = file.unpack("BHHBI12QHQQHHQH", file.expect(b"FRHP", address))
        _, _, filters, _, managed, _, self.huge = fields[:7]
        self.width, self.first, self.largest, bits, _, self.root, self.rows = fields[17:]
        if filters or not self.width or self.first.bit_count() != 1 or self.largest < self.first:
            raise Damaged(f"the heap at {address} is compressed or damaged")
        self.offset_size = (bits + 7) // 8
        self.length_size = min((_log2(self.largest) + 7) // 8, _width(managed))

    def find(self, name: bytes) -> tuple[int, int]:
        """Find where an object lies, and its size."""
        match name[0] >> 4:
            case 0:
                split = 1 + self.offset_size
                offset = int.from_bytes(name[1:split], "little")
                size = int.from_bytes(name[split : split + self.length_size], "little")
                if not self.rows:
                    return self.root + offset, size
                return self._in_rows(self.root, self.rows, offset), size
            case 1:
                return self._huge(int.from_bytes(name[1:], "little"))
        raise Damaged("an object of a heap is of a kind that is not read")

    def _in_rows(self, block: int, rows: int, offset: int) -> int:
        start = self.file.expect(b"FHIB", block) + 9 + self.offset_size
        direct = _log2(self.largest) - _log2(self.first) + 2
        for row in range(rows):
            size = self.first << max(0, row - 1)
            if offset >= size * self.width:
                offset -= size * self.width
                continue
            number = row * self.width + offset // size
            (child,) = self.file.unpack("Q", start + 8 * number)
            if row < direct:
                return int(child) + offset % size
            inner = _log2(size) - _log2(self.first * self.width) + 1
            return self._in_rows(child, min(inner, row), offset % size)
        raise Damaged("an object lies outside its heap")

    def _huge(self, number: int) -> tuple[int, int]:
        for record in _records(self.file, self.huge, HUGE_OBJECTS):
            address, size, found = self.file.unpack("QQQ", record)
            if found == number:
                return address, size
        raise Damaged("an object is missing from its heap")


def _log2(number: int) -> int:
    return int(number).bit_length() - 1


# What objects are


def _shape(file: HDF5File, start: int) -> tuple[int, ...] | None:
    """Read the shape of an array; it is None for one without elements or shape."""
    version, rank, _, kind = file.unpack("BBBB", start)
    if version == 1:
        return file.unpack(f"{rank}Q", start + 8)
    if version != 2:
        raise Damaged(f"its shape is of version {version}")
    return None if kind == 2 else file.unpack(f"{rank}Q", start + 4)


def _type(file: HDF5File, start: int) -> ElementType:
    first, bits, _, _, size = file.unpack("BBBBI", start)
    order: ByteOrder = ">" if bits & 1 else "<"
    match first & 15:
        case 0:
            plain = file.unpack("HH", start + 8) == (0, 8 * size)
            name = f"{'' if bits & 8 else 'u'}int{8 * size}" if plain else None
            return ElementType(name, order, size)
        case 1:
            known = not bits & 0x40  # else VAX
            fields = (size, *file.unpack("HHBBBBI", start + 8))
            return ElementType(FLOATS.get(fields) if known else None, order, size)
        case 3:
            return ElementType("text", order, size)
        case 5:  # opaque, as h5py keeps a type that HDF5 lacks
            return ElementType("bfloat16" if size == 2 else None, "<", size)
        case 8:
            members = file.file.take(start + 20, 18)
            return ElementType(
                "bool" if members.startswith(BOOLS) and size == 1 else None, "<", size
            )
        case 9:
            return ElementType("text" if bits & 15 == 1 else None, order, size, variable=True)
    return ElementType(None, order, size)


def _attribute(file: HDF5File, start: int, size: int) -> tuple[str, Texts]:
    version, flags, *sizes = file.unpack("BBHHH", start)
    if version not in (1, 2, 3):
        raise Damaged(f"an attribute is of version {version}")
    at = start + (9 if version == 3 else 8)
    name = file.text(at, sizes[0])
    places = []
    for length in sizes:
        at += length + (-length % 8 if version == 1 else 0)
        places.append(at)
    kind_at, shape_at, value_at = places[0], places[1], places[2]
    if version > 1 and flags & 3:  # type or shape elsewhere
        return name, None
    kind, shape = _type(file, kind_at), _shape(file, shape_at)
    if shape is None or not kind.size or value_at + math.prod(shape) * kind.size > start + size:
        return name, None
    if kind.name != "text":
        return name, [] if shape == (0,) else None
    texts = [_element(file, value_at + kind.size * i, kind) for i in range(math.prod(shape))]
    return name, texts if shape else texts[0]


def _element(file: HDF5File, start: int, kind: ElementType) -> str:
    if not kind.variable:
        return file.text(start, kind.size)
    length, address, number = file.unpack("IQI", start)
    if not length:
        return ""
    place, size = file.collection(address)[number]
    if length > size:
        raise Damaged("a text lies outside its heap")
    return file.text(place, length)
