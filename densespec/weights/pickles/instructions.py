"""Reads the instructions of pickles with their arguments, of every protocol."""

from __future__ import annotations

import codecs
import pickletools
import struct
from collections.abc import Callable
from typing import Any

from densespec.errors import DensespecError, shown
from densespec.weights.pickles.standins import LongText

LONGEST_NUMBER = 256
"""A whole number may have at most this many bytes."""

LONGEST_LINE = 2**20
"""An argument that ends with a line may have at most this many bytes."""

LONGEST_NAME = 2**16
"""A text that may be a name may have at most this many bytes."""


class PickleError(DensespecError, ValueError):
    """A pickle is damaged, or holds what it should not. Nothing in it was run."""


def damaged(problem: str) -> PickleError:
    """Make the error that a pickle is damaged."""
    return PickleError(f"its pickle is damaged: {problem}")


class Instructions:
    """Reads instructions one after another from bytes.

    Attributes:
        position: the position at which the next instruction starts.
    """

    def __init__(self, content: Any) -> None:
        self._content = memoryview(content)
        self.position = 0

    def next(self) -> tuple[str, Any]:
        """Read the next instruction: its name, as in ``pickletools``, and its argument or None.

        Raises:
            PickleError: there is none, or it is damaged.
        """
        if self.position >= len(self._content):
            raise damaged(f"it does not end within its {len(self._content)} bytes")
        name, argument = _KNOWN[self._content[self.position]]
        self.position += 1
        try:
            return name, argument(self) if argument else None
        except PickleError:
            raise
        except (ValueError, OverflowError) as error:
            raise damaged(f"{shown(str(error))} in {name}") from error

    def take(self, size: int) -> memoryview:
        """Return a view of the next bytes.

        Raises:
            PickleError: there are fewer.
        """
        start, end = self.position, self.position + size
        if size < 0 or end > len(self._content):
            raise damaged(f"{size} bytes should follow at {start} of {len(self._content)}")
        self.position = end
        return self._content[start:end]

    def line(self) -> bytes:
        """Copy the bytes up to the next end of a line, without it."""
        start = self.position
        for size in (64, LONGEST_LINE):
            line, end, _ = bytes(self._content[start : start + size]).partition(b"\n")
            if end:
                self.position = start + len(line) + 1
                return line
        raise damaged(f"a line that starts at {start} does not end within {LONGEST_LINE} bytes")


Argument = Callable[[Instructions], Any]


def _number(form: str) -> Argument:
    known = struct.Struct(form)
    return lambda source: known.unpack(source.take(known.size))[0]


def _bytes(form: str) -> Argument:
    size = _number(form)
    return lambda source: source.take(size(source))


def _text(form: str) -> Argument:
    view = _bytes(form)
    return lambda source: _decoded(view(source))


def _decoded(view: memoryview) -> str | LongText:
    return LongText(view) if len(view) > LONGEST_NAME else str(view, "utf-8", "surrogatepass")


def _long(form: str) -> Argument:
    size = _number(form)
    return lambda source: int.from_bytes(
        source.take(_checked_size(size(source))), "little", signed=True
    )


def _checked_size(size: int) -> int:
    if size > LONGEST_NUMBER:
        raise PickleError(f"its pickle has a whole number of {size} bytes, which no file needs")
    return size


def _line(convert: Callable[[bytes], Any]) -> Argument:
    return lambda source: convert(source.line())


def _whole_number(line: bytes) -> int | bool:
    """Read a number of protocol 0, which spells truth values as numbers of two digits."""
    truths = {b"00": False, b"01": True}
    return truths[line] if line in truths else int(line.removesuffix(b"L"))


def _quoted(line: bytes) -> memoryview:
    """Read bytes of Python 2, between quotes and with escapes."""
    line = line.strip()
    if len(line) < 2 or line[:1] not in (b"'", b'"') or line[-1:] != line[:1]:
        raise damaged("a text has no quotes")
    return memoryview(codecs.escape_decode(line[1:-1])[0])


def _global(source: Instructions) -> tuple[str, str]:
    return source.line().decode(), source.line().decode()


_ARGUMENTS: dict[str, Argument] = {
    "PROTO": _number("<B"),
    "FRAME": _number("<Q"),
    "INT": _line(_whole_number),
    "LONG": _line(_whole_number),
    "FLOAT": _line(float),
    "BININT": _number("<i"),
    "BININT1": _number("<B"),
    "BININT2": _number("<H"),
    "LONG1": _long("<B"),
    "LONG4": _long("<i"),
    "BINFLOAT": _number(">d"),
    "STRING": _line(_quoted),
    "BINSTRING": _bytes("<i"),
    "SHORT_BINSTRING": _bytes("<B"),
    "BINBYTES": _bytes("<I"),
    "SHORT_BINBYTES": _bytes("<B"),
    "BINBYTES8": _bytes("<Q"),
    "BYTEARRAY8": _bytes("<Q"),
    "UNICODE": _line(lambda line: str(line, "raw-unicode-escape")),
    "BINUNICODE": _text("<I"),
    "SHORT_BINUNICODE": _text("<B"),
    "BINUNICODE8": _text("<Q"),
    "GET": _line(int),
    "BINGET": _number("<B"),
    "LONG_BINGET": _number("<I"),
    "PUT": _line(int),
    "BINPUT": _number("<B"),
    "LONG_BINPUT": _number("<I"),
    "GLOBAL": _global,
    "INST": _global,
    "PERSID": _line(bytes.decode),
    "EXT1": _number("<B"),
    "EXT2": _number("<H"),
    "EXT4": _number("<i"),
}
"""Reads the argument of each instruction that has one."""

_NAMES = {ord(opcode.code): opcode.name for opcode in pickletools.opcodes}
_KNOWN = [
    (name, _ARGUMENTS.get(name)) for name in (_NAMES.get(code, f"{code:#x}") for code in range(256))
]
"""Gives the instruction of each byte, and the function that reads its argument."""
