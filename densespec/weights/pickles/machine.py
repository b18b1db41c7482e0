"""Interprets pickles, calls nothing, and stops at what no honest file needs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from densespec.weights.pickles.instructions import Instructions, PickleError, damaged
from densespec.weights.pickles.standins import Dict, Global, LongText, Made

MOST_STEPS = 1_000_000
"""A file's pickles have at most this many instructions: a tensor takes about 25."""

MOST_BYTES = 100 * 2**20
"""What a file's pickles make takes at most about this many bytes, without bytes that are views."""

CONTAINER = 120
"""A container with an item, and an entry of the memo, take about this many bytes."""

Resolve = Callable[[Any], Any]
"""Returns the value of a persistent reference, to what a file keeps outside of its pickle."""


def _unresolved(reference: Any) -> Any:
    raise PickleError("its pickle refers to what lies outside of it")


class PickleReader:
    """Reads pickles that follow one another in bytes, and share one budget of steps and memory.

    Attributes:
        source: the instructions; the next pickle starts at its ``position``.
    """

    def __init__(self, content: Any, resolve: Resolve = _unresolved) -> None:
        self.source = Instructions(content)
        self.resolve = resolve
        self._steps, self._bytes = MOST_STEPS, MOST_BYTES

    def read(self) -> Any:
        """Read the next pickle's value, with stand-ins for what only code could make.

        Raises:
            PickleError: it is damaged, or takes more steps or memory than any honest file.
        """
        machine = _Machine(self)
        while True:
            self._steps -= 1
            if self._steps < 0:
                raise PickleError(f"its pickle takes more than {MOST_STEPS} steps: it is a trap")
            name, argument = self.source.next()
            if name == "STOP":
                return machine.end()
            if name not in _ACTIONS:
                raise PickleError(
                    f"its pickle has the instruction {name}, which data have no need of"
                )
            _ACTIONS[name](machine, argument)

    def spend(self, size: int) -> None:
        """Count memory.

        Raises:
            PickleError: there is no more to spend.
        """
        self._bytes -= size
        if self._bytes < 0:
            raise PickleError(f"its pickle takes more than {MOST_BYTES} bytes: it is a trap")


class _Machine:
    """Holds the state of one pickle: its stack, cut by marks, and its memo."""

    def __init__(self, reader: PickleReader) -> None:
        self.spend, self.resolve = reader.spend, reader.resolve
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        self.memo: dict[str, Any] = {}
        """Its keys are texts: a dict can be made to search whole numbers for ever."""

    def pop(self) -> Any:
        if not self.stack:
            raise damaged("it takes what it has not made")
        return self.stack.pop()

    def end(self) -> Any:
        """Return the one value that is left."""
        value = self.pop()
        if self.stack or self.below:
            raise damaged("it ends with more than one value")
        return value

    def top(self) -> Any:
        if not self.stack:
            raise damaged("it looks at what it has not made")
        return self.stack[-1]

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def push_new(self, value: Any) -> None:
        """Push what takes memory of its own."""
        self.spend(CONTAINER)
        self.stack.append(value)

    def mark(self) -> None:
        self.spend(CONTAINER)
        self.below.append(self.stack)
        self.stack = []

    def pop_to_mark(self) -> list[Any]:
        if not self.below:
            raise damaged("it goes back to a mark that it has not set")
        items, self.stack = self.stack, self.below.pop()
        return items

    def put(self, index: int) -> None:
        self.spend(CONTAINER)
        self.memo[str(index)] = self.top()

    def get(self, index: int) -> None:
        if str(index) not in self.memo:
            raise damaged("it recalls what it has not kept")
        self.push(self.memo[str(index)])


def _text(machine: _Machine, text: str | LongText) -> None:
    if isinstance(text, str):
        machine.spend(4 * len(text))
    machine.push_new(text)


def _global(machine: _Machine, names: tuple[str, str]) -> None:
    module, name = names
    module = module.replace("__builtin__", "builtins")  # Python 2's
    machine.spend(len(module) + len(name))
    machine.push_new(Global(f"{module}.{name}"))


def _stack_global(machine: _Machine, _: None) -> None:
    name, module = machine.pop(), machine.pop()
    if not isinstance(name, str) or not isinstance(module, str):
        raise damaged("a name should be a text")
    _global(machine, (module, name))


def _reduce(machine: _Machine, _: None) -> None:
    arguments, function = machine.pop(), machine.pop()
    machine.push_new(Made(function, arguments))


def _new_by_keywords(machine: _Machine, _: None) -> None:
    keywords, arguments, kind = machine.pop(), machine.pop(), machine.pop()
    machine.push_new(Made(kind, arguments, state=keywords))


def _instance(machine: _Machine, names: tuple[str, str]) -> None:
    arguments = machine.pop_to_mark()
    _global(machine, names)
    machine.push_new(Made(machine.pop(), tuple(arguments)))


def _object(machine: _Machine, _: None) -> None:
    kind, *arguments = machine.pop_to_mark() or [None]
    machine.push_new(Made(kind, tuple(arguments)))


def _build(machine: _Machine, _: None) -> None:
    state, made = machine.pop(), machine.top()
    if not isinstance(made, Made):
        raise damaged("it gives attributes to what has none")
    made.state = state


def _grown(found: Sequence[Any], more: list[Any]) -> list[Any]:
    """Return the list, once there is one, with more in it."""
    if not isinstance(found, list):
        return more
    found.extend(more)
    return found


def _extend(machine: _Machine, items: list[Any]) -> None:
    machine.spend(CONTAINER)
    match machine.top():
        case list() as found:
            found.extend(items)
        case Made() as made:
            made.items = _grown(made.items, items)
        case _:
            raise damaged("it adds items to what holds none")


def _set(machine: _Machine, items: list[Any]) -> None:
    if len(items) % 2:
        raise damaged("a key has no value")
    machine.spend(CONTAINER * (1 + len(items) // 2))
    pairs = list(zip(items[::2], items[1::2], strict=True))
    match machine.top():
        case Dict() as found:
            found.pairs.extend(pairs)
        case Made() as made:
            made.pairs = _grown(made.pairs, pairs)
        case _:
            raise damaged("it sets values by key in what holds none")


def _set_one(machine: _Machine, _: None) -> None:
    value, key = machine.pop(), machine.pop()
    _set(machine, [key, value])


def _dict(machine: _Machine, _: None) -> None:
    items = machine.pop_to_mark()
    machine.push_new(Dict([]))
    _set(machine, items)


def _tuple(count: int) -> Callable[[_Machine, None], None]:
    def action(machine: _Machine, _: None) -> None:
        items = [machine.pop() for _ in range(count)]
        machine.push_new(tuple(reversed(items)))

    return action


def _pop(machine: _Machine, _: None) -> None:
    if machine.stack:
        machine.stack.pop()
    else:
        machine.pop_to_mark()


def _constant(value: Any) -> Callable[[_Machine, None], None]:
    return lambda machine, _: machine.push(value)


def _every(names: str, action: Callable[[_Machine, Any], None]) -> dict[str, Any]:
    return dict.fromkeys(names.split(), action)


_ACTIONS: dict[str, Callable[[_Machine, Any], None]] = {
    **_every("PROTO FRAME", lambda machine, _: None),
    **_every("INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT", _Machine.push),
    **_every("STRING BINSTRING SHORT_BINSTRING", _Machine.push_new),
    **_every("BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8", _Machine.push_new),
    **_every("UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8", _text),
    **_every("PUT BINPUT LONG_BINPUT", _Machine.put),
    **_every("GET BINGET LONG_BINGET", _Machine.get),
    **_every("REDUCE NEWOBJ", _reduce),
    "MEMOIZE": lambda machine, _: machine.put(len(machine.memo)),
    "NONE": _constant(None),
    "NEWTRUE": _constant(True),
    "NEWFALSE": _constant(False),
    "EMPTY_TUPLE": _constant(()),
    "EMPTY_LIST": lambda machine, _: machine.push_new([]),
    "EMPTY_DICT": lambda machine, _: machine.push_new(Dict([])),
    "EMPTY_SET": lambda machine, _: machine.push_new(Made(Global("builtins.set"), ())),
    "MARK": lambda machine, _: machine.mark(),
    "POP": _pop,
    "POP_MARK": lambda machine, _: machine.pop_to_mark().clear(),
    "DUP": lambda machine, _: machine.push(machine.top()),
    "TUPLE": lambda machine, _: machine.push_new(tuple(machine.pop_to_mark())),
    "TUPLE1": _tuple(1),
    "TUPLE2": _tuple(2),
    "TUPLE3": _tuple(3),
    "LIST": lambda machine, _: machine.push_new(machine.pop_to_mark()),
    "DICT": _dict,
    "FROZENSET": lambda machine, _: machine.push_new(
        Made(Global("builtins.frozenset"), (), items=machine.pop_to_mark())
    ),
    "APPEND": lambda machine, _: _extend(machine, [machine.pop()]),
    "APPENDS": lambda machine, _: _extend(machine, machine.pop_to_mark()),
    "ADDITEMS": lambda machine, _: _extend(machine, machine.pop_to_mark()),
    "SETITEM": _set_one,
    "SETITEMS": lambda machine, _: _set(machine, machine.pop_to_mark()),
    "GLOBAL": _global,
    "STACK_GLOBAL": _stack_global,
    "INST": _instance,
    "OBJ": _object,
    "NEWOBJ_EX": _new_by_keywords,
    "BUILD": _build,
    "PERSID": lambda machine, reference: machine.push_new(machine.resolve(reference)),
    "BINPERSID": lambda machine, _: machine.push_new(machine.resolve(machine.pop())),
}
"""Gives the action of each known instruction."""
