"""A reader of pickles that hold plain data and numpy arrays of bytes; it runs nothing.

CIFAR is published as pickles of Python 2. Python's own unpickler calls what a pickle names, and
numpy's part in it trusts what it is told of memory. This reader interprets the instructions of a
pickle itself: it builds numbers, texts, bytes, lists, tuples and dicts, knows the four names that
arrays of bytes are made of, calls none of them, and refuses every other instruction.
"""

from __future__ import annotations

import codecs
import io
import itertools
import pickletools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from densespec.errors import DensespecError, shown

RECONSTRUCT = {
    "numpy.core.multiarray _reconstruct",
    "numpy._core.multiarray _reconstruct",
}
FROM_BUFFER = {"numpy.core.numeric _frombuffer", "numpy._core.numeric _frombuffer"}
NAMES = (
    RECONSTRUCT
    | FROM_BUFFER
    | {"numpy ndarray", "numpy dtype", "_codecs encode", "__builtin__ bytes"}
)
"""The only names a pickle may mention: an array, its class and type, and bytes of Python 3."""

_OPCODES = {opcode.code: opcode for opcode in pickletools.opcodes}

MOST = 10_000_000
"""Instructions that are read: many times those of CIFAR, and few enough for memory."""


class PickleError(DensespecError, ValueError):
    """A pickle is damaged or holds what it should not. Nothing in it was run."""


@dataclass(frozen=True)
class _Name:
    name: str


@dataclass(eq=False)
class _Array:
    """An array that is being described: its state comes after its making."""

    value: np.ndarray | None = None


@dataclass(frozen=True)
class _Bytes:
    """The type of arrays of bytes."""


class _Mark:
    pass


@dataclass(repr=False)
class _Machine:
    stack: list[Any] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)

    def pop(self) -> Any:
        if not self.stack or isinstance(self.stack[-1], _Mark):
            raise PickleError("damaged: it takes what it has not made")
        return self.stack.pop()

    def pop_to_mark(self) -> list[Any]:
        for index in range(len(self.stack) - 1, -1, -1):
            if isinstance(self.stack[index], _Mark):
                items = self.stack[index + 1 :]
                del self.stack[index:]
                return items
        raise PickleError("damaged: it takes what it has not made")

    def top(self, kind: type) -> Any:
        if not self.stack or not isinstance(self.stack[-1], kind):
            raise PickleError(f"damaged: it fills what is no {kind.__name__}")
        return self.stack[-1]

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def put(self, index: int) -> None:
        if not self.stack:
            raise PickleError("damaged: it remembers what it has not made")
        self.memo[index] = self.stack[-1]

    def get(self, index: int) -> None:
        if index not in self.memo:
            raise PickleError("damaged: it recalls what it has not made")
        self.push(self.memo[index])


def read(content: bytes) -> Any:
    """The value of a pickle. Texts of Python 2 are bytes.

    Raises:
        PickleError: it is damaged, or asks for anything but plain data and arrays of bytes.
    """
    machine = _Machine()
    try:
        for name, argument in itertools.islice(_instructions(content), MOST):
            if name == "STOP":
                return _finished(machine.pop())
            if name not in _ACTIONS:
                raise PickleError(f"it has the instruction {name}, which data have no need of")
            _ACTIONS[name](machine, argument)
    except PickleError:
        raise
    except (ValueError, TypeError, IndexError, RecursionError, OverflowError) as error:
        raise PickleError(f"damaged: {shown(str(error))}") from error
    raise PickleError(f"damaged: it does not end within {MOST} instructions")


def _instructions(content: bytes) -> Iterator[tuple[str, Any]]:
    """Every instruction with its argument, as ``pickletools`` knows them.

    It takes texts of Python 2 for ASCII where they are written with escapes, but an array's
    elements may be such a text.
    """
    file = io.BytesIO(content)
    while True:
        code = file.read(1).decode("latin1")
        if code not in _OPCODES:
            raise PickleError(f"damaged: it has {shown(code)} for an instruction")
        opcode = _OPCODES[code]
        if opcode.name == "STRING":
            quoted: Any = pickletools.read_stringnl(file, decode=False)
            yield opcode.name, codecs.escape_decode(quoted)[0]
        else:
            yield opcode.name, opcode.arg.reader(file) if opcode.arg else None


def _finished(value: Any) -> Any:
    """A value, or the values of a dict, with arrays in place of their descriptions.

    Deeper ones stay descriptions. To walk through nested values would take for ever where a few
    instructions nest a list in itself many times over.
    """
    if isinstance(value, dict):
        return {key: _array(item) for key, item in value.items()}
    return _array(value)


def _array(value: Any) -> Any:
    if isinstance(value, _Array) and value.value is None:
        raise PickleError("damaged: an array without elements")
    return value.value if isinstance(value, _Array) else value


def _name(machine: _Machine, name: str) -> None:
    if name not in NAMES:
        raise PickleError(
            f"it asks for {shown(name.replace(' ', '.'))}, which is code; nothing was run"
        )
    machine.push(_Name(name))


def _stack_name(machine: _Machine, _: object) -> None:
    name, module = machine.pop(), machine.pop()
    _name(machine, f"{module} {name}")


def _reduce(machine: _Machine, _: object) -> None:
    """What calling a name would make, for the calls that arrays need."""
    arguments, function = machine.pop(), machine.pop()
    name = function.name if isinstance(function, _Name) else "what is no name"
    match name, arguments:
        case _, (_Name("numpy ndarray"), tuple(), bytes() | str()) if name in RECONSTRUCT:
            machine.push(_Array())
        case _, (bytes() as content, _Bytes(), tuple() as shape, "C" | "F" as order) if (
            name in FROM_BUFFER
        ):
            machine.push(_Array(_elements(content, shape, fortran=order == "F")))
        case "numpy dtype", ("u1" | "|u1" | b"u1" | b"|u1", *_):
            machine.push(_Bytes())
        case "_codecs encode", (str() as text, "latin1"):
            machine.push(text.encode("latin1"))
        case "__builtin__ bytes", ():
            machine.push(b"")
        case _:
            raise PickleError(
                f"it calls {shown(name.replace(' ', '.'))}, but should hold plain data and arrays "
                "of bytes; nothing was run"
            )


def _build(machine: _Machine, _: object) -> None:
    """The state of an array, or of a type, where it is always the same."""
    state = machine.pop()
    if machine.stack and isinstance(machine.stack[-1], _Bytes):
        return
    array = machine.top(_Array)
    match state:
        case (int(), tuple() as shape, _Bytes(), bool() | int() as fortran, bytes() as content):
            array.value = _elements(content, shape, fortran=bool(fortran))
        case _:
            raise PickleError("an array of another kind than bytes")


def _elements(content: bytes, shape: tuple[Any, ...], *, fortran: bool) -> np.ndarray:
    if any(type(size) is not int or size < 0 for size in shape):
        raise PickleError("damaged: an array whose shape is none")
    elements = np.frombuffer(content, np.uint8)
    return elements.reshape(shape[::-1]).T if fortran else elements.reshape(shape)


def _append(machine: _Machine, _: object) -> None:
    item = machine.pop()
    machine.top(list).append(item)


def _appends(machine: _Machine, _: object) -> None:
    items = machine.pop_to_mark()
    machine.top(list).extend(items)


def _set_items(machine: _Machine, items: list[Any]) -> None:
    if any(not isinstance(key, str | bytes | int) for key in items[::2]):
        raise PickleError("a dict has keys that are neither texts nor numbers")
    machine.top(dict).update(zip(items[::2], items[1::2], strict=True))


def _set_item(machine: _Machine, _: object) -> None:
    value, key = machine.pop(), machine.pop()
    _set_items(machine, [key, value])


def _tuple(count: int) -> Callable[[_Machine, object], None]:
    def action(machine: _Machine, _: object) -> None:
        items = [machine.pop() for _ in range(count)]
        machine.push(tuple(reversed(items)))

    return action


def _dict(machine: _Machine, _: object) -> None:
    items = machine.pop_to_mark()
    machine.push({})
    _set_items(machine, items)


def _value(value: Any) -> Callable[[_Machine, object], None]:
    return lambda machine, _: machine.push(value)


def _new(kind: type) -> Callable[[_Machine, object], None]:
    return lambda machine, _: machine.push(kind())


def _argument(machine: _Machine, argument: Any) -> None:
    machine.push(argument)


def _python2_text(machine: _Machine, argument: Any) -> None:
    """``pickletools`` decodes such texts as Latin-1, byte by byte."""
    machine.push(argument.encode("latin1"))


def _put(machine: _Machine, index: Any) -> None:
    machine.put(index)


def _get(machine: _Machine, index: Any) -> None:
    machine.get(index)


_ACTIONS: dict[str, Callable[[_Machine, Any], None]] = {
    **dict.fromkeys(("PROTO", "FRAME"), lambda machine, _: None),
    **dict.fromkeys(("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4"), _argument),
    **dict.fromkeys(("FLOAT", "BINFLOAT"), _argument),
    **dict.fromkeys(("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"), _argument),
    **dict.fromkeys(("BINBYTES", "SHORT_BINBYTES", "BINBYTES8"), _argument),
    **dict.fromkeys(("BINSTRING", "SHORT_BINSTRING"), _python2_text),
    "STRING": _argument,
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), _put),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _get),
    "BYTEARRAY8": lambda machine, argument: machine.push(bytes(argument)),
    "MEMOIZE": lambda machine, _: machine.put(len(machine.memo)),
    "NONE": _value(None),
    "NEWTRUE": _value(True),
    "NEWFALSE": _value(False),
    "EMPTY_LIST": _new(list),
    "EMPTY_TUPLE": _new(tuple),
    "EMPTY_DICT": _new(dict),
    "MARK": _new(_Mark),
    "TUPLE": lambda machine, _: machine.push(tuple(machine.pop_to_mark())),
    "TUPLE1": _tuple(1),
    "TUPLE2": _tuple(2),
    "TUPLE3": _tuple(3),
    "LIST": lambda machine, _: machine.push(machine.pop_to_mark()),
    "DICT": _dict,
    "APPEND": _append,
    "APPENDS": _appends,
    "SETITEM": _set_item,
    "SETITEMS": lambda machine, _: _set_items(machine, machine.pop_to_mark()),
    "GLOBAL": _name,
    "STACK_GLOBAL": _stack_name,
    "REDUCE": _reduce,
    "BUILD": _build,
}
"""What each instruction that is known does."""
