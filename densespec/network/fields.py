"""Kinds of value a record may hold: each checks a value and describes itself as JSON Schema.

A kind is written beside the field it belongs to, so the check, the schema, the error message
and the documentation of a field can't drift apart.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import operator
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Protocol, Self, cast

from densespec.errors import SpecError, UnknownName


class Kind(Protocol):
    """What a field may hold."""

    @property
    def allowed(self) -> str:
        """The allowed values in words, for error messages."""
        ...

    def parse(self, value: Any) -> Any:
        """Return ``value`` in its one normal form, or raise ``TypeError`` or ``ValueError``."""
        ...

    def schema(self) -> dict[str, Any]:
        """The same rule as JSON Schema."""
        ...


def _reject_unless(condition: bool) -> None:
    if not condition:
        raise ValueError


LIMIT = 2**31
"""Integers stay below it: sizes are 32-bit in places of every framework."""


def _integer(value: Any, minimum: int, maximum: int | None) -> int:
    _reject_unless(not isinstance(value, bool))
    number = operator.index(value)
    _reject_unless(minimum <= number < LIMIT and (maximum is None or number <= maximum))
    return number


def _integer_schema(minimum: int, maximum: int | None) -> dict[str, Any]:
    return {
        "type": "integer",
        "minimum": minimum,
        "maximum": LIMIT - 1 if maximum is None else maximum,
    }


def _items(value: Any) -> Iterable[Any]:
    """The items of a list or anything like one; a text, a set or a table has no such items."""
    _reject_unless(not isinstance(value, str | bytes | bytearray | Mapping | Set))
    return cast("Iterable[Any]", value)


@dataclass(frozen=True)
class Integer:
    minimum: int
    maximum: int | None = None

    @property
    def allowed(self) -> str:
        upper = "below 2**31" if self.maximum is None else f"at most {self.maximum}"
        return f"an integer of at least {self.minimum} and {upper}"

    def parse(self, value: Any) -> int:
        return _integer(value, self.minimum, self.maximum)

    def schema(self) -> dict[str, Any]:
        return _integer_schema(self.minimum, self.maximum)


@dataclass(frozen=True)
class Integers:
    """A sequence of integers, not empty unless said otherwise."""

    minimum: int
    may_be_empty: bool = False

    @property
    def allowed(self) -> str:
        kind = "a list" if self.may_be_empty else "a non-empty list"
        return f"{kind} of integers, each at least {self.minimum} and below 2**31"

    def parse(self, value: Any) -> tuple[int, ...]:
        numbers = tuple(_integer(item, self.minimum, None) for item in _items(value))
        _reject_unless(bool(numbers) or self.may_be_empty)
        return numbers

    def schema(self) -> dict[str, Any]:
        return {
            "type": "array",
            "minItems": 0 if self.may_be_empty else 1,
            "items": _integer_schema(self.minimum, None),
        }


@dataclass(frozen=True)
class Milestones:
    """Ascending points of a run: all fractions of it, or all counts of epochs."""

    allowed = "an ascending list of fractions in (0, 1), or one of epochs from 1 on"

    def parse(self, value: Any) -> tuple[float, ...] | tuple[int, ...]:
        items = tuple(_items(value))
        inside = Interval(0, 1, open_lower=True, open_upper=True)
        counts = all(isinstance(item, Integral) for item in items)
        numbers = tuple(_integer(i, 1, None) if counts else inside.parse(i) for i in items)
        _reject_unless(all(a < b for a, b in itertools.pairwise(numbers)))
        return numbers

    def schema(self) -> dict[str, Any]:
        inside = Interval(0, 1, open_lower=True, open_upper=True)
        kinds = (inside.schema(), _integer_schema(1, None))
        return {"anyOf": [{"type": "array", "items": kind} for kind in kinds]}


@dataclass(frozen=True)
class Table:
    """Values of one kind by name, kept as pairs so that a record stays hashable."""

    kind: Kind

    @property
    def allowed(self) -> str:
        return f"a table of names, each with {self.kind.allowed}"

    def parse(self, value: Any) -> tuple[tuple[str, Any], ...]:
        pairs = value.items() if isinstance(value, Mapping) else [tuple(p) for p in _items(value)]
        table = {name: self.kind.parse(item) for name, item in pairs}
        _reject_unless(all(isinstance(name, str) and name for name in table))
        return tuple(sorted(table.items()))

    def plain(self, value: tuple[tuple[str, Any], ...]) -> dict[str, Any]:
        return dict(value)

    def schema(self) -> dict[str, Any]:
        return {"type": "object", "additionalProperties": self.kind.schema()}


@dataclass(frozen=True)
class Interval:
    """A finite real number between two bounds, each inclusive unless said otherwise."""

    lower: float
    upper: float
    open_lower: bool = False
    open_upper: bool = False

    @property
    def allowed(self) -> str:
        left, right = "(" if self.open_lower else "[", ")" if self.open_upper else "]"
        return f"a number in {left}{self.lower:g}, {self.upper:g}{right}"

    def parse(self, value: Any) -> float:
        _reject_unless(isinstance(value, Real) and not isinstance(value, bool))
        number = float(value)
        _reject_unless(math.isfinite(number))
        _reject_unless(self.lower < number or (number == self.lower and not self.open_lower))
        _reject_unless(number < self.upper or (number == self.upper and not self.open_upper))
        return number

    def schema(self) -> dict[str, Any]:
        lower = "exclusiveMinimum" if self.open_lower else "minimum"
        upper = "exclusiveMaximum" if self.open_upper else "maximum"
        return {"type": "number", lower: self.lower, upper: self.upper}


@dataclass(frozen=True)
class Choice:
    options: tuple[str, ...]

    @property
    def allowed(self) -> str:
        return " or ".join(repr(option) for option in self.options)

    def parse(self, value: Any) -> str:
        _reject_unless(isinstance(value, str) and value in self.options)
        return self.options[self.options.index(value)]

    def schema(self) -> dict[str, Any]:
        return {"enum": list(self.options)}


@dataclass(frozen=True)
class Flag:
    allowed = "true or false"

    def parse(self, value: Any) -> bool:
        _reject_unless(isinstance(value, bool))
        return bool(value)

    def schema(self) -> dict[str, Any]:
        return {"type": "boolean"}


@dataclass(frozen=True)
class Either:
    """The first of two kinds that accepts the value."""

    first: Kind
    second: Kind

    @property
    def allowed(self) -> str:
        return f"{self.first.allowed}, or {self.second.allowed}"

    def parse(self, value: Any) -> Any:
        try:
            return self.first.parse(value)
        except (TypeError, ValueError):
            return self.second.parse(value)

    def schema(self) -> dict[str, Any]:
        return {"anyOf": [self.first.schema(), self.second.schema()]}


@dataclass(frozen=True)
class Optional:
    """A kind, or None. TOML has no null, and an absent key says None: let that be the default."""

    kind: Kind

    @property
    def allowed(self) -> str:
        return f"{self.kind.allowed}, or none"

    def parse(self, value: Any) -> Any:
        return None if value is None else self.kind.parse(value)

    def schema(self) -> dict[str, Any]:
        return {"anyOf": [self.kind.schema(), {"type": "null"}]}


def constrained(
    number: str, kind: Kind, meaning: str, *, default: Any = dataclasses.MISSING
) -> Any:
    """A dataclass field that obeys constraint ``number``: it holds a value of ``kind``."""
    return dataclasses.field(
        default=default, metadata={"constraint": number, "kind": kind, "meaning": meaning}
    )


def parse_fields(record: Any) -> None:
    """Check every constrained field of a frozen dataclass and put its normal form in place.

    Raises:
        SpecError: naming the field, its value, what is allowed, and the constraint's number.
    """
    for field in dataclasses.fields(record):
        kind: Kind = field.metadata["kind"]
        value = getattr(record, field.name)
        try:
            parsed = kind.parse(value)
        except (TypeError, ValueError, OverflowError):
            raise SpecError(field.metadata["constraint"], field.name, value, kind.allowed) from None
        object.__setattr__(record, field.name, parsed)


class Record:
    """Base of frozen dataclasses whose fields are all constrained: checked when they are made."""

    __slots__ = ()

    def replace(self, **changes: Any) -> Self:
        """This record with some fields changed, checked again.

        Raises:
            UnknownName: a field that does not exist.
            SpecError: a value that is not allowed.
        """
        _check_names(type(self), changes)
        return dataclasses.replace(self, **changes)  # type: ignore[type-var]

    def to_dict(self) -> dict[str, Any]:
        """Every field by name, as plain JSON values."""
        return {
            f.name: plain(f.metadata["kind"], getattr(self, f.name)) for f in _fields(type(self))
        }

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """The record whose fields are given by name; absent ones take their defaults.

        Raises:
            UnknownName: a field that does not exist.
            SpecError: a value that is not allowed, or a required field that is absent.
        """
        _check_names(cls, fields)
        for field in _fields(cls):
            if field.default is dataclasses.MISSING and field.name not in fields:
                number, kind = field.metadata["constraint"], field.metadata["kind"]
                raise SpecError(number, field.name, None, f"given: {kind.allowed}")
        return cls(**fields)


def plain(kind: Kind, value: Any) -> Any:
    """A value of a kind as JSON and TOML write it."""
    if isinstance(kind, Table):
        return kind.plain(value)
    return list(value) if isinstance(value, tuple) else value


def _fields(record: type) -> tuple[dataclasses.Field[Any], ...]:
    return dataclasses.fields(record)


def _check_names(record: type, names: Mapping[str, Any]) -> None:
    known = [field.name for field in _fields(record)]
    for name in names:
        if name not in known:
            raise UnknownName(f"field of {record.__name__}", name, known)
