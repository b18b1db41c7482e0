"""Defines records whose fields say what they may hold.

A field is declared with its domain, which checks a value and describes itself in words and as JSON
Schema. So the check, the schema, the error message and the documentation of a field can't drift
apart.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import operator
import textwrap
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, ClassVar, Protocol, Self, cast

from densespec.errors import SpecError, UnknownName


class Domain(Protocol):
    """Defines the values that a field may hold."""

    @property
    def allowed(self) -> str:
        """Say in words which values are allowed, for error messages."""
        ...

    def parse(self, value: Any) -> Any:
        """Return ``value`` in its one normal form, or raise ``TypeError`` or ``ValueError``."""
        ...

    def schema(self) -> dict[str, Any]:
        """State the same rule as JSON Schema."""
        ...


def _reject_unless(condition: bool) -> None:
    if not condition:
        raise ValueError


LINE = 100
"""The documentation has at most this many characters in a line."""

LIMIT = 2**31
"""Integers stay below this number: sizes are 32-bit in places of every framework."""


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
    """Check that a value is a list or anything like one; a text, a set or a table is not."""
    _reject_unless(not isinstance(value, str | bytes | bytearray | Mapping | Set))
    return cast("Iterable[Any]", value)


def _at_most(count: int, items: Iterable[Any]) -> tuple[Any, ...]:
    """Check that there are at most ``count`` items, without looking at any more."""
    found = tuple(itertools.islice(items, count + 1))
    _reject_unless(len(found) <= count)
    return found


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
    """Allows a list of integers: not empty unless said otherwise, and not longer than ``most``."""

    minimum: int
    may_be_empty: bool = False
    most: int = 10_000

    @property
    def allowed(self) -> str:
        kind = "a list" if self.may_be_empty else "a non-empty list"
        each = f"each at least {self.minimum} and below 2**31"
        return f"{kind} of at most {self.most} integers, {each}"

    def parse(self, value: Any) -> tuple[int, ...]:
        items = _at_most(self.most, _items(value))
        numbers = tuple(_integer(item, self.minimum, None) for item in items)
        _reject_unless(bool(numbers) or self.may_be_empty)
        return numbers

    def schema(self) -> dict[str, Any]:
        return {
            "type": "array",
            "minItems": 0 if self.may_be_empty else 1,
            "maxItems": self.most,
            "items": _integer_schema(self.minimum, None),
        }


@dataclass(frozen=True)
class Milestones:
    """Allows ascending points of a run: all as fractions of it, or all as counts of epochs."""

    most: int = 1000

    @property
    def allowed(self) -> str:
        return (
            f"an ascending list of at most {self.most} fractions in (0, 1), or one of epochs from "
            "1 on"
        )

    def parse(self, value: Any) -> tuple[float, ...] | tuple[int, ...]:
        items = _at_most(self.most, _items(value))
        inside = Interval(0, 1, open_lower=True, open_upper=True)
        counts = all(isinstance(item, Integral) for item in items)
        numbers = tuple(_integer(i, 1, None) if counts else inside.parse(i) for i in items)
        _reject_unless(all(a < b for a, b in itertools.pairwise(numbers)))
        return numbers

    def schema(self) -> dict[str, Any]:
        inside = Interval(0, 1, open_lower=True, open_upper=True)
        kinds = (inside.schema(), _integer_schema(1, None))
        return {
            "anyOf": [{"type": "array", "maxItems": self.most, "items": kind} for kind in kinds]
        }


@dataclass(frozen=True)
class ByName:
    """Allows one domain's values by name, kept as pairs so that a record stays hashable."""

    values: Domain
    most: int = 1000

    @property
    def allowed(self) -> str:
        return f"a table of at most {self.most} names, each with {self.values.allowed}"

    def parse(self, value: Any) -> tuple[tuple[str, Any], ...]:
        items = value.items() if isinstance(value, Mapping) else _items(value)
        pairs = map(tuple, _at_most(self.most, items))
        table = {name: self.values.parse(item) for name, item in pairs}
        _reject_unless(all(isinstance(name, str) and name for name in table))
        return tuple(sorted(table.items()))

    def plain(self, value: tuple[tuple[str, Any], ...]) -> dict[str, Any]:
        return dict(value)

    def schema(self) -> dict[str, Any]:
        return {
            "type": "object",
            "maxProperties": self.most,
            "additionalProperties": self.values.schema(),
        }


@dataclass(frozen=True)
class Interval:
    """Allows a finite real number between two bounds, each inclusive unless said otherwise."""

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
class Numbers:
    """Allows a list of numbers of one interval, which may be empty."""

    values: Interval
    most: int = 100_000

    @property
    def allowed(self) -> str:
        return f"a list of at most {self.most} numbers, each {self.values.allowed}"

    def parse(self, value: Any) -> tuple[float, ...]:
        return tuple(map(self.values.parse, _at_most(self.most, _items(value))))

    def schema(self) -> dict[str, Any]:
        return {"type": "array", "maxItems": self.most, "items": self.values.schema()}


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
class Choices:
    """Allows some of these texts, or none of them, each at most once."""

    options: tuple[str, ...]

    @property
    def allowed(self) -> str:
        return f"a list of any of {', '.join(map(repr, self.options))}, each at most once"

    def parse(self, value: Any) -> tuple[str, ...]:
        found = tuple(map(Choice(self.options).parse, _at_most(len(self.options), _items(value))))
        _reject_unless(len(set(found)) == len(found))
        return found

    def schema(self) -> dict[str, Any]:
        each = Choice(self.options).schema()
        return {"type": "array", "items": each, "uniqueItems": True}


@dataclass(frozen=True)
class Text:
    allowed = "a text that is not empty"

    def parse(self, value: Any) -> str:
        _reject_unless(isinstance(value, str) and bool(value))
        return str(value)

    def schema(self) -> dict[str, Any]:
        return {"type": "string", "minLength": 1}


@dataclass(frozen=True)
class Flag:
    allowed = "true or false"

    def parse(self, value: Any) -> bool:
        _reject_unless(isinstance(value, bool))
        return bool(value)

    def schema(self) -> dict[str, Any]:
        return {"type": "boolean"}


@dataclass(frozen=True)
class Instance:
    """Allows values of some classes, taken as they are."""

    allowed: str
    classes: tuple[type, ...]

    def parse(self, value: Any) -> Any:
        if not isinstance(value, self.classes):
            raise TypeError
        return value

    def schema(self) -> dict[str, Any]:
        return {}


@dataclass(frozen=True)
class Either:
    """Allows what one of two domains allows; the first that accepts the value decides."""

    first: Domain
    second: Domain

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
class OrNone:
    """Allows a domain's values, or None.

    Make None the default: TOML has no null, so an absent key means None.
    """

    domain: Domain

    @property
    def allowed(self) -> str:
        return f"{self.domain.allowed}, or none"

    def parse(self, value: Any) -> Any:
        return None if value is None else self.domain.parse(value)

    def schema(self) -> dict[str, Any]:
        return {"anyOf": [self.domain.schema(), {"type": "null"}]}


def constrained(
    number: str,
    domain: Domain,
    meaning: str,
    *,
    default: Any = dataclasses.MISSING,
    key: str | None = None,
    silent: bool = False,
    **more: Any,
) -> Any:
    """Define a dataclass field that obeys constraint ``number``: it holds a value of ``domain``.

    Args:
        meaning: what the documentation says of the field, as a phrase without a full stop.
        key: the field's key in files; None takes its name.
        silent: whether files leave the field out while it has its default, so that older records'
            files stay as they were before the field existed.
        more: further facts of the field, such as the flag that sets it.
    """
    about = {"constraint": number, "domain": domain, "meaning": meaning, "key": key}
    about |= {"silent": silent, **more}
    return dataclasses.field(default=default, metadata=about)


def stated(domain: Domain, meaning: str, *, default: Any = dataclasses.MISSING, **more: Any) -> Any:
    """Define a dataclass field whose constraint has no number; see :func:`constrained`."""
    return constrained("", domain, meaning, default=default, **more)


def parse_fields(record: Any) -> None:
    """Check every constrained field of a frozen dataclass and put its normal form in place.

    Raises:
        SpecError: naming the field, its value, what is allowed, and the constraint's number if
            it has one.
    """
    for field in dataclasses.fields(record):
        domain: Domain = field.metadata["domain"]
        value = getattr(record, field.name)
        try:
            parsed = domain.parse(value)
        except SpecError:  # of a record within
            raise
        except (TypeError, ValueError, OverflowError):
            number = field.metadata["constraint"]
            raise SpecError(number, field.name, value, domain.allowed) from None
        object.__setattr__(record, field.name, parsed)


class Record:
    """Base class of frozen dataclasses that check all their fields when they are made.

    Attributes:
        NOUN: the word for such a record in errors and schemas.
    """

    __slots__ = ()

    NOUN: ClassVar[str]

    def __post_init__(self) -> None:
        parse_fields(self)

    def replace(self, **changes: Any) -> Self:
        """Return this record with some fields changed and checked again.

        Raises:
            UnknownName: a field does not exist.
            SpecError: a value is not allowed.
        """
        _check_names(type(self), changes, [field.name for field in _fields(type(self))])
        return dataclasses.replace(self, **changes)  # type: ignore[type-var]

    def to_dict(self) -> dict[str, Any]:
        """Return the fields by key, as plain JSON values; see ``silent`` in :func:`constrained`."""
        return {
            key_of(field): plain(field.metadata["domain"], getattr(self, field.name))
            for field in _fields(type(self))
            if not (field.metadata["silent"] and getattr(self, field.name) == field.default)
        }

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """Make the record whose fields are given by key. Absent fields take their defaults.

        Raises:
            UnknownName: a field does not exist.
            SpecError: a value is not allowed, or a required field is absent.
        """
        own = {key_of(field): field for field in _fields(cls)}
        _check_names(cls, fields, own)
        for key, field in own.items():
            if field.default is dataclasses.MISSING and key not in fields:
                number, domain = field.metadata["constraint"], field.metadata["domain"]
                raise SpecError(number, key, None, f"given: {domain.allowed}")
        return cls(**{own[key].name: value for key, value in fields.items()})


@dataclass(frozen=True)
class RecordOf:
    """Allows a record within a record."""

    record: type[Record]

    @property
    def allowed(self) -> str:
        return f"a {self.record.NOUN}"

    def parse(self, value: Any) -> Record:
        if isinstance(value, self.record):
            return value
        _reject_unless(isinstance(value, Mapping))
        return self.record.from_dict(value)

    def plain(self, value: Record) -> dict[str, Any]:
        return value.to_dict()

    def schema(self) -> dict[str, Any]:
        return {"type": "object"}


@dataclass(frozen=True)
class RecordsOf:
    """Allows a list of records of one class."""

    record: type[Record]

    @property
    def allowed(self) -> str:
        return f"a list, each a {self.record.NOUN}"

    def parse(self, value: Any) -> tuple[Record, ...]:
        return tuple(RecordOf(self.record).parse(item) for item in _items(value))

    def plain(self, value: Iterable[Record]) -> list[dict[str, Any]]:
        return [item.to_dict() for item in value]

    def schema(self) -> dict[str, Any]:
        return {"type": "array", "items": RecordOf(self.record).schema()}


def plain(domain: Domain, value: Any) -> Any:
    """Convert a domain's value to what JSON and TOML write."""
    if isinstance(domain, ByName | RecordOf | RecordsOf):
        return domain.plain(value)
    return list(value) if isinstance(value, tuple) else value


def key_of(field: dataclasses.Field[Any]) -> str:
    """Return the field's key in files."""
    return field.metadata["key"] or field.name


def _fields(record: type) -> tuple[dataclasses.Field[Any], ...]:
    return dataclasses.fields(record)


def _check_names(record: type, names: Iterable[str], known: Iterable[str]) -> None:
    for name in names:
        if name not in known:
            raise UnknownName(f"field of {record.__name__}", name, known)


def described(fields: Iterable[dataclasses.Field[Any]]) -> str:
    """Describe what each field means, as the arguments of a docstring."""
    texts = [
        f"{field.name}: {field.metadata['meaning']}. Allowed: {field.metadata['domain'].allowed}."
        for field in fields
    ]
    wrapper = textwrap.TextWrapper(LINE, initial_indent=" " * 8, subsequent_indent=" " * 12)
    return "\n".join(wrapper.fill(text) for text in texts).lstrip()
