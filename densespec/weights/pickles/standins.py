"""Defines what the values of a pickle are read as.

Numbers, texts, None, lists and tuples are read as themselves. Bytes are views of the pickle, and so
are long texts, which are mostly arrays in disguise. The rest are stand-ins. They compare by
identity, and hash nothing that the pickle chose: if a tuple holds another one twice, and this goes
on sixty times, it can't be hashed, compared or printed in a lifetime.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

Pair = tuple[Any, Any]


@dataclass(frozen=True, slots=True)
class Global:
    """Names a function or class, such as ``collections.OrderedDict``. It is not looked up."""

    path: str


@dataclass(eq=False, slots=True, repr=False)
class LongText:
    """Holds a text that is too long for a name, in UTF-8."""

    view: memoryview


@dataclass(eq=False, slots=True, repr=False)
class Dict:
    """Holds a dict, as its keys and values in the order in which they were set."""

    pairs: list[Pair]


@dataclass(eq=False, slots=True, repr=False)
class Made:
    """Describes what a call would have made, which was not called.

    Attributes:
        function: the function that would have been called, mostly a :class:`Global`.
        arguments: the arguments that it would have been called with, mostly a tuple.
        state: the value from which its attributes would have been set afterwards.
        items: the items that would have been appended or added to it.
        pairs: the entries that would have been set in it by key.
    """

    function: Any
    arguments: Any
    state: Any = None
    items: Sequence[Any] = ()
    pairs: Sequence[Pair] = ()


def called(value: Any) -> str:
    """Return the name of what would have made a value, empty for other values."""
    named = isinstance(value, Made) and isinstance(value.function, Global)
    return value.function.path if named else ""


def text_of(value: Any, encoding: str) -> str | None:
    """Return a text, or Python 2's bytes as one, and None for other values."""
    match value:
        case str():
            return value
        case memoryview() | bytes():
            return str(value, encoding)
    return None


def described(value: Any) -> str:
    """Describe a value, which may be too tangled to be shown, in a few words."""
    match value:
        case None | bool() | int() | float() | str():
            return repr(value)[:100]
        case LongText():
            return "a long text"
        case Global():
            return f"the name {value.path[:100]}"
        case Made() if called(value):
            return f"what {called(value)[:100]} would make"
        case memoryview() | bytes():
            return "bytes"
        case Dict():
            return "a dict"
    return f"a {type(value).__name__.lower()}"
